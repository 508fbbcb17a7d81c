# A copy of sequence.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Slices exchanged, in the opposite order or turned over against those beside them, which their values tell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scripts.seg_dicom_neighbours import AROUND, WINDOW

# How far neighbours differ as they lie, against another sequence: in 45 CTs at most 0.78, and 1.02 where only every
# 10 to 20 mm of them is looked at; 1.28 and more with two neighbours exchanged.
EXCHANGED = 1.2
# The same against one of the two turned over: at most 0.89, and 1.14; 1.43 and more in 999 of 1000 places.
TURNED = 1.25
STEP, BETTER = 2.5, 1.75  # of one step, against those around it and another sequence: at most 2.1 with 0.74, or less
PIECES, SAMPLED = 32, 128  # along a row and a column: means that noise hardly moves, and voxels they are made of
LONGEST = 10  # slices of a run within others
LITTLE = 1.0  # HU, below which nothing is concluded

TURNS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda s: s[:, ::-1],
    lambda s: s[:, :, ::-1],
    lambda s: s[:, ::-1, ::-1],
    lambda s: s.transpose(0, 2, 1),
    lambda s: s.transpose(0, 2, 1)[:, ::-1],
    lambda s: s.transpose(0, 2, 1)[:, :, ::-1],
    lambda s: s.transpose(0, 2, 1)[:, ::-1, ::-1],
)


def out_of_sequence(slices: np.ndarray) -> tuple[int, str] | None:
    """Where slices ``[Z, ...]`` in HU go on better in another sequence: the first such slice, and what is wrong."""
    means = _means(slices)
    held = np.flatnonzero(np.ptp(means, axis=(1, 2)) > LITTLE)
    if len(held) < 2 * AROUND:
        return None
    start, means = int(held[0]), means[held[0] : held[-1] + 1]  # some conversions fill up with empty slices
    steps = _apart(means[1:], means[:-1])
    for look in (_turned_over, _exchanged, _opposite):
        if found := look(means, steps):
            return start + found[0], found[1]
    return None


def _means(slices: np.ndarray) -> np.ndarray:
    """Means ``[Z, ...]`` of pieces of the slices, within the window."""
    steps = [max(1, size // SAMPLED) for size in slices.shape[1:]]
    sample = slices[:, :: steps[0], :: steps[1]].clip(*WINDOW).astype(np.float32)
    return _shrunk(_shrunk(sample, 1), 2)


def _shrunk(values: np.ndarray, axis: int) -> np.ndarray:
    """Means of PIECES pieces or some more along an axis; what is left over is cut off at both ends alike."""
    edge = max(1, values.shape[axis] // PIECES)
    count, left = divmod(values.shape[axis], edge)
    whole = np.moveaxis(values, axis, 0)[left // 2 : left // 2 + count * edge]
    pieces = whole[::edge].copy()
    for first in range(1, edge):
        pieces += whole[first::edge]
    return np.moveaxis(pieces, 0, axis) / np.float32(edge)


def _apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far slices differ, in HU."""
    return np.abs(some - others).mean((1, 2))


def _turned_over(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a slice fits the one before it better if it is turned over."""
    square = means.shape[1] == means.shape[2]
    turned = [_apart(turn(means)[1:], means[:-1]) for turn in (TURNS if square else TURNS[:3])]
    ratios = steps / np.min(turned, 0).clip(LITTLE)
    if ratios.max() <= TURNED:
        return None
    return int(ratios.argmax()) + 1, "is turned over against the one before it: left and right, or front and back"


def _exchanged(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a run of slices fits those around it better in the opposite order, or two at an end do."""
    worst = (EXCHANGED, 0, 0)
    for run in range(2, min(LONGEST, len(means) - 2) + 1):
        apart = _apart(means[run:], means[:-run])
        ratios = (steps[:-run] + steps[run:]) / (apart[:-1] + apart[1:]).clip(2 * LITTLE)
        worst = max(worst, (float(ratios.max()), int(ratios.argmax()) + 1, run))
        if run == 2:
            ends = steps[[1, -2]] / apart[[0, -1]].clip(LITTLE)
            worst = max(worst, (float(ends[0]), 0, 2), (float(ends[1]), len(means) - 2, 2))
    if not worst[2]:
        return None
    return worst[1], f"and the {worst[2] - 1} after it fit those around them better in the opposite order"


def _opposite(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a step between two parts is less if one is in the opposite order, or the last comes first."""
    around = np.median(sliding_window_view(np.pad(steps, AROUND, mode="reflect"), 2 * AROUND + 1), axis=1)
    from_first, to_last = _apart(means[1:], means[:1]), _apart(means[:-1], means[-1:])
    others = np.minimum(np.minimum(from_first, to_last), to_last[0])
    sharp = (steps > STEP * np.maximum(around, LITTLE)) & (steps > BETTER * others.clip(LITTLE))
    return (int(sharp.argmax()) + 1, "begins a part that is in the wrong place or order") if sharp.any() else None
