"""Which way isolated slices lie: told from the liver, the body and what is dense, as nothing else tells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BODY, DENSE = -300, 200  # HU, or what lies near the ends where slices are clipped above or below that
CENTRE = 0.1  # of the body's width, to either side of its middle: where the spine is
FEWEST = 5  # slices, below which one odd slice counts too much


def is_usual(hu: NDArray[np.float32], liver: NDArray[np.bool_]) -> bool | None:
    """Whether ``[rows, columns]`` run front to back and to the patient's left, as far as one slice tells; None where it
    shows no body or liver.

    The liver then lies in the left half of a body that is wider than tall, in front of what is dense in its middle.
    """
    body = ndimage.binary_opening(hu > max(BODY, hu.min() + 5), iterations=2)
    rows, columns = (np.flatnonzero(body.sum(axis) > 3) for axis in (1, 0))
    if not (len(rows) and len(columns) and liver.any()):
        return None
    tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    middle = (columns[0] + columns[-1]) / 2
    near = np.abs(np.arange(hu.shape[1]) - middle) <= CENTRE * wide
    spine = np.argwhere(body & near & ~liver & (hu > min(DENSE, hu.max() - 10)))
    place = np.argwhere(liver).mean(0)
    behind = not len(spine) or spine.mean(0)[0] > place[0]
    return bool(place[1] < middle and wide > tall and behind)


def facing(hu: NDArray[Any], liver: NDArray[Any]) -> str | None:
    """That most of some slices ``[N, rows, columns]`` lie otherwise than is usual; None where they do not, or too few
    tell."""
    found = [is_usual(pixels.astype(np.float32), mask > 0) for pixels, mask in zip(hu, liver)]
    odd, told = found.count(False), len(found) - found.count(None)
    if told < FEWEST or 2 * odd <= told:
        return None
    cause = f"by liver, spine and body {odd} of {told} slices are turned, mirrored or transposed"
    return f"{cause}. Give rows from front to back, columns to the patient's left."
