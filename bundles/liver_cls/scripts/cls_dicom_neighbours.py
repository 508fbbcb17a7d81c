# A copy of dicom_neighbours.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Slices that do not go together by their values, whatever their headers say: each is like its neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from scripts.cls_dicom_slices import ORIGINAL, Slice
from scripts.cls_errors import StudyError

# In 44 CTs of LiTS and BTCV, 0.7 to 10 mm apart, neighbours differ by 3 to 30 HU; of the ratios below that of JUMP is
# at most 0.88, of STEP 1.5, of INTERLEAVED 0.79 and of INTERLEAVED_HERE 0.86.
JUMP = 2.0  # from both neighbours, against the distance of those
STEP, STEP_HU = 5.0, 40.0  # against the steps around it
BETTER = 0.7  # of the difference is left where a slice is scaled as its neighbour is
BETTER_ALL = 0.95  # the same of a whole series, where headers differ
OTHER_STEP = 2.0  # as STEP, where headers differ
OTHER_AIR = 4.0  # step of the air's HU, against those around it, where headers differ
FEW = 4  # changes of the scaling in a series; more are its way of storing
ROUNDED = 0.5  # HU, which change nothing
REASON = 0.98  # of the difference is left by a scaling of its own that a slice's pixels give a reason for
INTERLEAVED, INTERLEAVED_HERE = 1.15, 1.3  # difference of neighbours, against that of the next but one
WINDOW, AIR_TO_SOFT = (-200, 300), (-1100, 300)  # HU, soft tissue; with air
AROUND = 5  # slices
LITTLE = 4.0  # HU, below which nothing is concluded


def check_neighbours(folder: Path, slices: Sequence[Slice], voxels: np.ndarray) -> None:
    """Raise StudyError where the values of neighbouring slices say that they do not belong together.

    Args:
        folder: of the series, for the message.
        slices: sorted.
        voxels: ``[Z, Y, X]`` in HU.
    """
    step = max(1, min(voxels.shape[1:]) // 64)
    sample = voxels[:, ::step, ::step].astype(np.float32)
    apart = differences(sample, 1)
    _check_layouts(folder, slices, sample, apart)
    if len(slices) < 2 * AROUND:  # `sequence` looks at those of every format
        return
    second = differences(sample, 2)
    _check_interleaved(folder, apart, second)
    _check_jumps(slices, apart, second)
    _check_steps(folder, slices, sample, apart)


def differences(sample: np.ndarray, lag: int) -> np.ndarray:
    """How far slices ``lag`` apart differ: mean over ``[Z, Y, X]`` within the window, ``[Z - lag]`` in HU."""
    soft = sample.clip(*WINDOW)
    return np.abs(soft[lag:] - soft[:-lag]).mean((1, 2)) if len(soft) > lag else np.empty(0)


def within(values: np.ndarray) -> float:
    """The share of values within the window."""
    return float(((values > WINDOW[0]) & (values < WINDOW[1])).mean())


def _check_layouts(folder: Path, slices: Sequence[Slice], sample: np.ndarray, apart: np.ndarray) -> None:
    """Raise StudyError where scaling or bit layout change from one slice to the next and the values do not go on."""
    layouts = [_layout(s) for s in slices]
    same = np.array([a == b for a, b in pairwise(layouts)], bool)
    if same.all():
        return
    air = np.abs(np.diff(np.quantile(sample, 0.05, axis=(1, 2))))
    for i in np.flatnonzero(~same):
        alike = _around(apart, i)[_around(same, i)]
        jumps = len(alike) and apart[i] > OTHER_STEP * np.median(alike)
        shifted = air[i] > OTHER_AIR * max(LITTLE, np.median(_around(air, i)))
        fits = _apart(sample[i], _scaled_alike(slices, sample, i), WINDOW) >= BETTER * apart[i]
        if (apart[i] > LITTLE and (jumps or shifted or not fits)) or _has_no_reason(slices, sample, same, i):
            counts = Counter(layouts)
            odd = min(slices[i : i + 2], key=lambda s: counts[_layout(s)])
            cause = "is scaled or stored unlike the slices beside it, and its values do not fit theirs"
            raise StudyError(f"{odd.header.filename}: {cause}. {ORIGINAL}")
    _check_drift(folder, slices, sample)


def _check_drift(folder: Path, slices: Sequence[Slice], sample: np.ndarray) -> None:
    """Raise StudyError where slices of different scaling fit each other better if all are scaled as the middle one.

    Little from one slice to the next may be much from the first to the last.
    """
    middle = slices[len(slices) // 2]
    slopes, intercepts = (
        np.array([getattr(s, name) for s in slices])[:, None, None] for name in ("slope", "intercept")
    )
    alike = (sample - intercepts) / slopes * middle.slope + middle.intercept
    if within(alike) < 0.9 * within(sample):  # what leaves the window seems alike
        return
    for lag in (1, len(slices) // 2):
        scaled, same = (differences(values.astype(np.float32), lag).mean() for values in (sample, alike))
        if scaled > LITTLE and same < BETTER_ALL * scaled:
            cause = f"slices of different RescaleSlope or RescaleIntercept ({slopes.min():g} to {slopes.max():g}, "
            cause += f"{intercepts.min():g} to {intercepts.max():g}), whose values fit better without that"
            raise StudyError(f"{folder}: {cause}. {ORIGINAL}")


def _layout(one: Slice) -> tuple[float, ...]:
    return one.slope, one.intercept, *one.layout


def _scaled_alike(slices: Sequence[Slice], sample: np.ndarray, i: int) -> np.ndarray:
    """Slice ``i + 1`` in HU if it is scaled as slice ``i`` is."""
    one, other = slices[i], slices[i + 1]
    scaled: np.ndarray = (sample[i + 1] - other.intercept) / other.slope * one.slope + one.intercept
    return scaled


def _apart(one: np.ndarray, other: np.ndarray, window: tuple[int, int]) -> float:
    """How far two slices differ within a window of HU."""
    return float(np.abs(one.clip(*window) - other.clip(*window)).mean())


def _has_no_reason(slices: Sequence[Slice], sample: np.ndarray, same: np.ndarray, i: int) -> bool:
    """Whether slice ``i + 1`` is scaled unlike ``i``, which is rare in this series, and fits it as well if it is not.

    The eye does not see a shift of 1 HU, but nobody writes one for nothing.
    """
    alike = _scaled_alike(slices, sample, i)
    if (~same).sum() > FEW or np.abs(alike - sample[i + 1]).max() <= ROUNDED:
        return False
    return _apart(sample[i], sample[i + 1], AIR_TO_SOFT) > REASON * _apart(sample[i], alike, AIR_TO_SOFT)


def _around(values: np.ndarray, i: int) -> np.ndarray:
    """The values before and after that at ``i``."""
    return np.concatenate([values[max(0, i - AROUND) : i], values[i + 1 : i + 1 + AROUND]])


def _check_jumps(slices: Sequence[Slice], apart: np.ndarray, second: np.ndarray) -> None:
    """Raise StudyError for a slice that is unlike both neighbours, which are like each other."""
    jumps = np.minimum(apart[:-1], apart[1:]) / second.clip(LITTLE)
    if jumps.max() > JUMP:
        path = slices[int(jumps.argmax()) + 1].header.filename
        raise StudyError(f"{path}: its values do not fit the slices above and below it. {ORIGINAL}")


def _check_steps(folder: Path, slices: Sequence[Slice], sample: np.ndarray, apart: np.ndarray) -> None:
    """Raise StudyError where two parts of a series do not fit; a slice that holds nothing fits any."""
    for i in np.flatnonzero(apart > STEP_HU):
        empty = min(np.ptp(sample[i]), np.ptp(sample[i + 1])) == 0
        if not empty and apart[i] > STEP * np.median(_around(apart, i)):
            names = " and ".join(Path(s.header.filename).name for s in slices[i : i + 2])
            raise StudyError(f"{folder}: the values of neighbouring slices do not fit ({names}). {ORIGINAL}")


def _check_interleaved(folder: Path, apart: np.ndarray, second: np.ndarray) -> None:
    """Raise StudyError where slices are more like the next but one: two acquisitions between each other's slices."""
    first, second = (np.lib.stride_tricks.sliding_window_view(d, 2 * AROUND - 2) for d in (apart[:-1], second))
    ratios = np.median(first, 1) / np.median(second, 1).clip(LITTLE)
    if np.median(ratios) > INTERLEAVED or ratios.max() > INTERLEAVED_HERE:
        cause = "every other slice is of another acquisition, by its values"
        raise StudyError(f"{folder}: {cause}. Give each acquisition as a series of its own.")
