"""Where fat and air lie in a CT, what lies around the body, which slices hold any or the same, and if they jump."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn.functional import avg_pool2d

SOFT_HU, BIN_HU, SMOOTH_HU = (-240, 200), 4, 8  # where fat and soft tissue are looked for
DARKEST_SOFT, STANDS_OUT = -20, 1.2  # HU; the peak of fat, against what lies between it and that of soft tissue
EDGES = 0.5  # share of the outermost voxels from which on one HU is what lies around the body
DARKEST_AIR, LIGHTEST_AIR = -1200, -700  # HU where air is looked for
OUTSIDE_HU, OUTSIDE = 25, 0.15  # around its peak, the air outside the body is at least that share of all voxels
TISSUE_HU, LITTLE_HU = (-200, 300), 1.0  # where slices are held against each other; a step that is none
FEW_HU, OF_THREE = 4.0, 1.25  # such a step of few slices; how much larger it may be where there is only one other
FINE, PIECES, AROUND = 128, 32, 5  # voxels looked at along a side, means made of them, and steps on each side of one
NOTHING = float("nan")


def fat(ct: NDArray[Any], lowest: float) -> float:
    """HU of the peak of fat; NaN where none stands out, or where the CT is clipped so that it cannot."""
    counts, edges = np.histogram(ct[ct > lowest + 2], np.arange(*SOFT_HU, BIN_HU))  # without what was clipped
    smooth, hu = ndimage.gaussian_filter1d(counts.astype(np.float64), SMOOTH_HU / BIN_HU), edges[:-1] + BIN_HU / 2
    dark = np.flatnonzero((hu > lowest + 2 * SMOOTH_HU) & (hu < DARKEST_SOFT))  # nor the noise around that
    if not len(dark):
        return NOTHING
    peak = int(dark[smooth[dark].argmax()])
    soft = int(smooth[dark[-1] :].argmax()) + int(dark[-1])
    stands_out = peak > dark[0] and smooth[peak] > STANDS_OUT * max(1, smooth[peak : soft + 1].min())
    return float(hu[peak]) if stands_out else NOTHING


def outside_air(ct: NDArray[Any]) -> float:
    """HU of the air around the body; NaN where there is little of it: lungs are not of one HU."""
    dark = ct[(ct > DARKEST_AIR) & (ct < LIGHTEST_AIR)]
    if dark.size < OUTSIDE * ct.size:
        return NOTHING
    counts, edges = np.histogram(dark, np.arange(DARKEST_AIR, LIGHTEST_AIR + 1, BIN_HU))
    peak = float(edges[counts.argmax()] + BIN_HU / 2)
    return peak if (np.abs(dark - peak) <= OUTSIDE_HU).sum() >= OUTSIDE * ct.size else NOTHING


def most_at_the_edges(ct: NDArray[Any]) -> float:
    """HU that most of the outermost voxels of the slices of ``[X, Y, Z]`` share; NaN where there is none."""
    edges = np.concatenate([ct[0], ct[-1], ct[:, 0], ct[:, -1]]).ravel()
    values, counts = np.unique(edges, return_counts=True)
    return float(values[counts.argmax()]) if counts.max() > EDGES * edges.size else NOTHING


def ends_of(ct: NDArray[Any]) -> tuple[int, int]:
    """The lowest and the highest slice that hold anything; some conversions fill up with empty ones."""
    sample = ct[:: max(1, ct.shape[0] // 64), :: max(1, ct.shape[1] // 64)]
    held = np.flatnonzero(sample.max((0, 1)) > sample.min((0, 1)))
    return (int(held[0]), int(held[-1])) if len(held) else (0, -1)


def repeated_slices(ct: NDArray[Any]) -> int:
    """How many slices of ``[X, Y, Z]`` hold the same as one before them, but for those that hold one value only."""
    sample = ct[:: max(1, ct.shape[0] // 64), :: max(1, ct.shape[1] // 64)]
    held = sample[..., np.ptp(sample, (0, 1)) > 0]
    return held.shape[2] - len({held[..., z].tobytes() for z in range(held.shape[2])})


def sudden_step(ct: NDArray[Any]) -> float:
    """The largest step from slice to slice of ``[X, Y, Z]``, against the largest of those around it; NaN for few."""
    means = _means(ct)
    if len(means) <= 2 * AROUND:
        return NOTHING
    steps = np.pad(_apart(means, 1), AROUND, mode="reflect")
    others = np.delete(sliding_window_view(steps, 2 * AROUND + 1), AROUND, axis=1).max(1)
    return float((steps[AROUND:-AROUND] / others.clip(LITTLE_HU)).max())


def odd_of_few(ct: NDArray[Any]) -> tuple[float, float]:
    """Of 3 to 10 slices: the largest step against all others, and the largest of a slice from both neighbours, against
    the distance of those; NaN for more or less."""
    means = _means(ct)
    if not 3 <= len(means) <= 2 * AROUND:
        return NOTHING, NOTHING
    steps = _apart(means, 1)
    less, most = np.sort(steps)[-2:]
    apart = np.minimum(steps[:-1], steps[1:]) / _apart(means, 2).clip(FEW_HU)
    return float(most / max(less, FEW_HU) / (OF_THREE if len(means) == 3 else 1)), float(apart.max())


def _means(ct: NDArray[Any]) -> NDArray[Any]:
    """Means ``[Z, ...]`` of pieces of the slices that hold anything, which noise hardly moves."""
    sample = ct[:: max(1, ct.shape[0] // FINE), :: max(1, ct.shape[1] // FINE)].clip(*TISSUE_HU)
    sample = sample[..., np.ptp(sample, (0, 1)) > 0]
    if not sample.shape[2]:
        return np.empty((0, 1, 1), np.float32)
    slices = torch.from_numpy(np.ascontiguousarray(sample.transpose(2, 0, 1)[:, None], np.float32))
    means: NDArray[Any] = avg_pool2d(slices, [max(1, size // PIECES) for size in sample.shape[:2]])[:, 0].numpy()
    return means


def _apart(means: NDArray[Any], lag: int) -> NDArray[Any]:
    """How far slices differ from the next, or the next but one, in HU."""
    differences: NDArray[Any] = np.abs(means[lag:] - means[:-lag]).mean((1, 2))
    return differences
