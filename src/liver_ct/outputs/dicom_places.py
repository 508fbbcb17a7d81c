"""Where in a slice a measurement of the Structured Report lies: as coordinates, which viewers draw and jump to.

OHIF lists a measurement only by its coordinates, and shows nothing of a report where any one has none.
"""

from __future__ import annotations

from typing import Any

import contourpy
import numpy as np
import pydicom
from highdicom import sr
from highdicom.sr import GraphicTypeValues
from numpy.typing import NDArray

from liver_ct.outputs.lesions import Lesion, Lesions, longest_axis

CORNERS = 100  # of an outline, at most some


def long_axis(header: pydicom.Dataset, lesions: Lesions, lesion: Lesion, affine: NDArray[Any]) -> Any:
    """The line that a lesion's longest axial diameter was measured along.

    Args:
        header: of the lesion's key slice.
        lesions: all of them.
        lesion: which one.
        affine: 4 x 4, voxel to world mm; slices lie along the third axis.
    """
    plane = lesions.labels[..., lesion.key_slice] == lesion.number
    return coordinates(header, longest_axis(plane, affine[:3, :2])[1])


def outline(header: pydicom.Dataset, plane: NDArray[Any]) -> Any:
    """The largest outline of what is not 0 in a slice ``[X, Y]``; the slice's own border where nothing is."""
    lines = contourpy.contour_generator(z=np.pad(plane > 0, 1).T.astype(np.float32)).lines(0.5)
    if not lines:
        right, bottom = (size - 0.5 for size in plane.shape)
        border = [(-0.5, -0.5), (right, -0.5), (right, bottom), (-0.5, bottom), (-0.5, -0.5)]
        return coordinates(header, np.array(border))
    longest = np.asarray(max(lines, key=len)) - 1
    step = -(-len(longest) // CORNERS)
    return coordinates(header, np.vstack([longest[:-1:step], longest[-1:]]))


def coordinates(header: pydicom.Dataset, points: NDArray[Any]) -> Any:
    """A line through points ``[N, 2]`` of a slice, (X, Y) in voxels; DICOM counts from a pixel's corner."""
    image = sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID)
    return sr.CoordinatesForMeasurement(GraphicTypeValues.POLYLINE, points + 0.5, image)
