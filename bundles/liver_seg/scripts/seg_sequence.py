# A copy of sequence.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Slices exchanged, in the opposite order, turned over, of elsewhere or not written, which their values tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scripts.seg_dicom_neighbours import AROUND, WINDOW

# How far neighbours differ as they lie, against another sequence: in 45 CTs at most 0.86, and 1.02 where only every
# 10 to 20 mm of them is looked at; 1.28 and more with two neighbours exchanged.
EXCHANGED = 1.2
REVERSED = 1.4  # a run of three and more: many are tried, and 1.23 is found in a phantom of 8 mm
# The same against one of the two turned over, shifted or zoomed: at most 0.88, 1.14 and 1.04; 1.43 and more in 999 of
# 1000 places, 1.34 and more zoomed by 15 % and more.
TURNED = 1.25
STEP, BETTER = 2.5, 1.75  # of one step, against those around it and another sequence; one of both is 0.52 of it at most
PARTS, PARTS_HU = 5.0, 40.0  # of one step, against those around it, where no other sequence is better: at most 2.1
# HU by which the median of what is tissue in both differs, at most 10.8, and 13.1 with every third slice only; and the
# ratios of two spreads of it, not both beyond 1.38. A slice of half the HU has 0.47 to 0.60, but for one at 10 mm.
SHIFTED, SCALED, SURE = 18.0, 1.6, 10.0
MARGIN, TISSUE = 10, 250  # HU from what is clipped or no tissue; pieces
EMPTY_HU, BACKGROUND = -900, 0.05  # of slices that hold nothing: air, or what is as frequent in the others
PIECES, SAMPLED = 32, (128, 64)  # along a row and a column: means that noise hardly moves, and voxels they are made of
LONGEST = 10  # slices of a run within others
# Of fewer than 2 * AROUND slices: a slice's neighbouring pieces against any two of it, at most 0.61, and 0.95 with its
# pixels shuffled; one from both neighbours, against the distance of those, at most 0.98; and a step against all others,
# at most 1.82, of three slices 2.33.
UNRELATED, EVEN_HU = 0.8, 10.0
ODD, PART, PART_OF_THREE = 1.4, 2.5, 3.0
FAR_LOOKS = 8  # slices that are held against all others
PAIRED, ENOUGH = 1.5, 16  # times that every second step is larger, at most 1.04 in good CTs, and from how many steps on
LITTLE, LEAST = 1.0, 4.0  # HU, below which nothing is concluded; the same of few slices
NEAR_MM = 8.0  # within which neighbours have enough in common to tell whether both are in one scale
FAR_MM = 10.0  # beyond which neighbours have too little in common to tell which of two comes first

Change = Callable[[np.ndarray], np.ndarray]
TURNS: tuple[Change, ...] = (lambda s: s[:, ::-1], lambda s: s[:, :, ::-1], lambda s: s[:, ::-1, ::-1])
QUARTERS: tuple[Change, ...] = (  # of squares only
    lambda s: s.transpose(0, 2, 1),
    lambda s: s.transpose(0, 2, 1)[:, ::-1],
    lambda s: s.transpose(0, 2, 1)[:, :, ::-1],
    lambda s: s.transpose(0, 2, 1)[:, ::-1, ::-1],
)
SHIFTS: tuple[Change, ...] = tuple(  # by pieces, of 12 mm or so
    partial(np.roll, shift=shift, axis=axis) for shift in (-8, -4, -2, 2, 4, 8) for axis in (1, 2)
)
ZOOMS: tuple[Change, ...] = tuple(lambda s, z=z: _zoomed(_zoomed(s, 1, z), 2, z) for z in (0.8, 0.9, 1.1, 1.25))


def out_of_sequence(slices: np.ndarray, apart_mm: float) -> tuple[int, str] | None:
    """Where slices ``[Z, ...]`` in HU, so far apart, go on better in another sequence: the first, and what is wrong."""
    means = _means(slices)
    held = np.flatnonzero(np.ptp(means, axis=(1, 2)) > LITTLE)
    if found := _unwritten(slices, held):
        return found
    if len(held) < 3:
        return None
    start, means = int(held[0]), means[held[0] : held[-1] + 1]  # some conversions fill up with empty slices
    steps = _apart(means[1:], means[:-1])
    few = len(held) < 2 * AROUND
    first = (_unrelated, _turned_over, _enlarged, _odd_one, _two_parts) if few else (_paired, _turned_over, _enlarged)
    looks = (
        *first,
        *((_exchanged,) if apart_mm <= FAR_MM else ()),
        *(() if few else (_scattered, _opposite, _elsewhere)),
        *((_rescaled,) if apart_mm <= NEAR_MM else ()),
    )
    for look in looks:
        if found := look(means, steps):
            return start + found[0], found[1]
    return None


def _means(slices: np.ndarray) -> np.ndarray:
    """Means ``[Z, ...]`` of pieces of the slices, within the window."""
    steps = [max(1, size // count) for size, count in zip(slices.shape[1:], SAMPLED)]
    sample = slices[:, :: steps[0], :: steps[1]].clip(*WINDOW).astype(np.float32)
    return np.ascontiguousarray(_shrunk(_shrunk(sample, 1), 2))


def _shrunk(values: np.ndarray, axis: int) -> np.ndarray:
    """Means of PIECES pieces or some more along an axis; what is left over is cut off at both ends alike."""
    edge = max(1, values.shape[axis] // PIECES)
    count, left = divmod(values.shape[axis], edge)
    whole = np.moveaxis(values, axis, 0)[left // 2 : left // 2 + count * edge]
    pieces = whole[::edge].copy()
    for first in range(1, edge):
        pieces += whole[first::edge]
    return np.moveaxis(pieces, 0, axis) / np.float32(edge)


def _unwritten(slices: np.ndarray, held: np.ndarray) -> tuple[int, str] | None:
    """A slice that holds one value only, amid the others, or which is neither air nor the background of those."""
    others = sorted({*range(len(slices))} - {*held.tolist()})
    sample = slices[held, ::8, ::8] if others else slices[:0]
    for number in others:
        value = slices[number, 0, 0]
        amid = len(held) and held[0] < number < held[-1] and np.ptp(slices[number]) == 0
        if amid or (value > EMPTY_HU and np.count_nonzero(sample == value) < BACKGROUND * sample.size):
            return number, f"holds nothing but {value:g} HU, as if it had not been written"
    return None


def _apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far slices differ, in HU."""
    return np.abs(some - others).mean((1, 2))


def _paired(_: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where slices come in pairs; those that are the same to the last HU are noted by whoever asks."""
    if len(steps) < ENOUGH:
        return None
    less, more = sorted((float(np.median(steps[::2])), float(np.median(steps[1::2]))))
    if less < LITTLE or more < PAIRED * less:
        return None
    return 0, "and the next are a pair, as are all others: each was put in twice, as from two reconstructions"


def _turned_over(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a slice fits the one before it better if it is turned over or lies elsewhere in its plane."""
    square = means.shape[1] == means.shape[2]
    for changes, what in (((*TURNS, *(QUARTERS if square else ())), "turned over"), (SHIFTS, "shifted")):
        ratios = _ratios(means, steps, changes)
        if ratios.max() > TURNED:
            return int(ratios.argmax()) + 1, f"is {what} against the one before it"
    return None


def _rescaled(means: np.ndarray, _: np.ndarray) -> tuple[int, str] | None:
    """Where tissue has other HU than in the slice before, by the pieces that are tissue in both."""
    low, high = max(WINDOW[0], float(means.min())) + MARGIN, min(WINDOW[1], float(means.max())) - MARGIN
    tissue = ((means > low) & (means < high)).reshape(len(means), -1)
    both = tissue[1:] & tissue[:-1]
    pairs = np.flatnonzero(both.sum(1) >= TISSUE)
    if not len(pairs):
        return None
    flat = means.reshape(tissue.shape)
    one, other = (np.where(both[pairs], flat[first:][pairs], np.nan) for first in (0, 1))
    steps = _quantile(other - one, 0.5)
    error = np.nanstd(other - one, axis=1) / np.sqrt(both[pairs].sum(1))
    shifted = np.abs(steps) > np.maximum(SHIFTED, SURE * error)
    ratios = np.stack([spread(other) / np.maximum(spread(one), LITTLE) for spread in (_span, _deviation)])
    scaled = (ratios.min(0) > SCALED) | (ratios.max(0) < 1 / SCALED)
    if not (shifted | scaled).any():
        return None
    i = int(np.argmax(shifted | scaled))
    off = f"lies {steps[i]:+.0f} HU off the one before it: the two are scaled differently"
    return int(pairs[i]) + 1, off if shifted[i] else "is scaled unlike the one before it"


def _span(hu: np.ndarray) -> np.ndarray:
    """How far most values of each row lie apart."""
    return _quantile(hu, 0.85) - _quantile(hu, 0.15)


def _deviation(hu: np.ndarray) -> np.ndarray:
    """Median distance from each row's median."""
    return _quantile(np.abs(hu - _quantile(hu, 0.5)[:, None]), 0.5)


def _quantile(hu: np.ndarray, part: float) -> np.ndarray:
    """A quantile of each row, but for its NaN; NumPy's nanquantile takes 12 times as long."""
    count = np.isfinite(hu).sum(1)
    return np.take_along_axis(np.sort(hu, axis=1), np.rint((count - 1) * part).astype(int)[:, None], 1)[:, 0]


def _enlarged(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a slice fits the one before it better if it is zoomed; not where a body tapers slice after slice."""
    ratios = _ratios(means, steps, ZOOMS) * (steps >= BETTER * _around(steps))
    if ratios.max() <= TURNED:
        return None
    return int(ratios.argmax()) + 1, "is enlarged or reduced against the one before it"


def _ratios(means: np.ndarray, steps: np.ndarray, changes: Sequence[Change]) -> np.ndarray:
    """How far neighbours differ as they lie, against the best of some changes of the second."""
    return steps / np.min([_apart(change(means)[1:], means[:-1]) for change in changes], 0).clip(LITTLE)


def _zoomed(means: np.ndarray, axis: int, factor: float) -> np.ndarray:
    """Enlarged around the middle along an axis, linearly; below 1 reduced, the edge going on. scipy's zoom takes ten
    times as long."""
    count = means.shape[axis]
    at = ((np.arange(count) - (count - 1) / 2) / factor + (count - 1) / 2).clip(0, count - 1)
    low = at.astype(int).clip(max=count - 2)
    share = np.expand_dims((at - low).astype(np.float32), (0, 3 - axis))
    return np.take(means, low, axis) * (1 - share) + np.take(means, low + 1, axis) * share


def _unrelated(means: np.ndarray, _: np.ndarray) -> tuple[int, str] | None:
    """Where a slice's pieces have nothing in common with those beside them."""
    some = means.reshape(len(means), -1)[:, np.random.default_rng(0).permutation(means[0].size)]
    beside = (np.abs(np.diff(means, axis=1)).mean((1, 2)) + np.abs(np.diff(means, axis=2)).mean((1, 2))) / 2
    ratios = beside / np.abs(np.diff(some, axis=1)).mean(1).clip(EVEN_HU)
    return (int(ratios.argmax()), "is noise, or its pixels are in no order") if ratios.max() > UNRELATED else None


def _odd_one(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where one of few slices is unlike both neighbours, which are like each other."""
    ratios = np.minimum(steps[:-1], steps[1:]) / _apart(means[2:], means[:-2]).clip(LEAST)
    if ratios.max() <= ODD:
        return None
    return int(ratios.argmax()) + 1, "does not fit those beside it, which fit each other"


def _two_parts(_: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a step between few slices is larger than all others."""
    i, limit = int(steps.argmax()), PART if len(steps) > 2 else PART_OF_THREE
    sharp = steps[i] > limit * np.delete(steps, i).max(initial=LEAST)
    return (i + 1, "does not go on from the one before it") if sharp else None


def _exchanged(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a run of slices fits those around it better in the opposite order, or two at an end do."""
    worst = (EXCHANGED, 0, 0)
    for run in range(2, max(2, min(LONGEST, len(means) - 2)) + 1):
        apart = _apart(means[run:], means[:-run])
        ratios = (steps[:-run] + steps[run:]) / (apart[:-1] + apart[1:]).clip(2 * LITTLE)
        if ratios.max(initial=0) > (EXCHANGED if run == 2 else REVERSED):
            worst = max(worst, (float(ratios.max()), int(ratios.argmax()) + 1, run))
        if run == 2:
            ends = steps[[1, -2]] / apart[[0, -1]].clip(LITTLE)
            worst = max(worst, (float(ends[0]), 0, 2), (float(ends[1]), len(means) - 2, 2))
    if not worst[2]:
        return None
    return worst[1], f"and the {worst[2] - 1} after it fit those around them better in the opposite order"


def _opposite(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a step between two parts is less if one is in the opposite order, or the last comes first."""
    around = _around(steps)
    from_first, to_last = _apart(means[1:], means[:1]), _apart(means[:-1], means[-1:])
    others = np.minimum(np.minimum(from_first, to_last), to_last[0])
    sharp = (steps > STEP * around) & (steps > BETTER * others.clip(LITTLE))
    return (int(sharp.argmax()) + 1, "begins a part that is in the wrong place or order") if sharp.any() else None


def _scattered(means: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where slices are more like some that lie far off, as when every other one comes first."""
    looked_at = np.linspace(1, len(means) - 2, FAR_LOOKS).astype(int)
    near = np.minimum(steps[looked_at - 1], steps[looked_at])
    apart = np.array([_apart(means, means[i]) for i in looked_at])
    apart[np.abs(np.arange(len(means)) - looked_at[:, None]) <= 2] = np.inf
    if np.quantile(near / apart.min(1).clip(LITTLE), 0.25) <= EXCHANGED:  # 0.66 at most in CTs, 1.3 and more so
        return None
    other = int(apart[0].argmin())
    return int(looked_at[0]), f"and most others are more like some that lie far off, as this is like slice {other}"


def _elsewhere(_: np.ndarray, steps: np.ndarray) -> tuple[int, str] | None:
    """Where a part begins that does not go on from the one before it."""
    around = np.minimum(_around(steps), 2 * max(float(np.median(steps)), LITTLE))
    sharp = (steps > PARTS * around) & (steps > PARTS_HU)
    return (int(sharp.argmax()) + 1, "does not go on from the one before it") if sharp.any() else None


def _around(steps: np.ndarray) -> np.ndarray:
    """The usual step around each, in HU."""
    windows = sliding_window_view(np.pad(steps, AROUND, mode="reflect"), 2 * AROUND + 1)
    return np.median(windows, axis=1).clip(LITTLE)
