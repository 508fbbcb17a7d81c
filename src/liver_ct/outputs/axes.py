"""Which way the body lies in an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray


def axial_axis(affine: NDArray[Any]) -> int:
    """The axis of a volume's array, 0 to 2, that runs along the body; ``affine`` 4 x 4, voxel to world mm (RAS)."""
    return int(np.flatnonzero(io_orientation(affine)[:, 0] == 2)[0])
