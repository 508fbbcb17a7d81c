"""What is measured of a study that its notes follow from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cc3d
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from liver_ct.chain.values import ends_of, fat, most_at_the_edges, odd_of_few, outside_air, repeated_slices, sudden_step

SURE_OF_SIDE = 0.945  # mean probability of what was taken for liver, below which the mirror image is asked
DARK_HU = -60  # no liver is as dark, however fatty
AIR, BODY, DENSE, BONE, METAL = -500, -300, 150, 200, 2500  # HU
FAT = -150  # HU; what is clipped above that shows fat and air alike
COARSE_MM, WORKING_MM = 4.0, (2.0, 2.0, 4.0)  # apart: what is looked at of the whole CT; the segmenter's own grid
NEAR_MM, SPINE = 60, 9  # the liver's slices and this much around; breadth of a vertebra, in coarse voxels
NOISE_SLABS, ENOUGH = 9, 100  # where noise is measured, and from how many differences
NOTHING = float("nan")


class Figures(NamedTuple):
    """What is measured of a study; NaN where it cannot be.

    Attributes:
        volume_ml: of the liver.
        bottom_mm2: liver in the lowest slice that holds anything.
        top_mm2: liver in the highest slice that does.
        edge_mm2: liver in whichever outermost column or row of the pictures, of those that hold anything, has most.
        right_mm: from the spine to the liver's middle, towards the patient's right.
        front_mm: from the spine to the body's middle, towards the patient's front.
        lung_above_ml: air within the body above the liver's middle.
        lung_below_ml: the same below it.
        lowest: HU; 1 voxel in 1000 lies below.
        highest: HU.
        spike: share of the voxels above 150 HU that have the highest HU.
        noise: standard deviation in the liver on the segmenter's grid, HU.
        metal_ml: what is denser than bone, around the liver's slices.
        slice_mm: distance of the slices.
        height_mm: of the liver, along the body; less than the whole where the scan ends in it.
        width_mm: of the body at the liver's height.
        pixel_mm: longer side of a pixel of the axial slices, whichever way the CT was stored.
        fat: HU that most fat has.
        air: HU that most air outside the body has.
        around: HU that most of the outermost voxels share, if they do.
        sure: mean probability of the liver's voxels, a sample of them.
        mirrored: how much surer the segmenter is of a liver in the CT's mirror image; NaN where nobody doubts.
        dark: share of the liver's voxels, a sample of them, that are as dark as fat or air.
        repeated: slices that hold the same as one below them.
        step: the largest from slice to slice around the liver, against the largest of those beside it.
        step_of_few: in a CT of 3 to 10 slices, the largest against all others.
        odd_of_few: there, a slice's distance from both neighbours, against that of those.
    """

    volume_ml: float
    bottom_mm2: float
    top_mm2: float
    edge_mm2: float
    right_mm: float
    front_mm: float
    lung_above_ml: float
    lung_below_ml: float
    lowest: float
    highest: float
    spike: float
    noise: float
    metal_ml: float
    slice_mm: float
    height_mm: float
    width_mm: float
    pixel_mm: float
    fat: float
    air: float
    around: float
    sure: float
    mirrored: float
    dark: float
    repeated: int
    step: float
    step_of_few: float
    odd_of_few: float


class View(NamedTuple):
    """Arrays ``[X, Y, Z]`` turned to RAS, and mm from voxel to voxel."""

    ct: NDArray[Any]
    liver: NDArray[Any]
    mm: NDArray[Any]

    def coarse(self) -> View:
        """Every so many voxels, some COARSE_MM apart."""
        steps = [max(1, round(COARSE_MM / mm)) for mm in self.mm]
        picked = tuple(slice(None, None, step) for step in steps)
        return View(np.asfortranarray(self.ct[picked]), self.liver[picked], self.mm * steps)

    def liver_at_the_ends(self, axis: int) -> tuple[float, float]:
        """Liver, mm2, in the first and the last plane across an axis that hold anything."""
        ct, liver = np.moveaxis(self.ct, axis, 2), np.moveaxis(self.liver, axis, 2)
        mm2 = float(self.mm.prod() / self.mm[axis])
        first, last = (np.count_nonzero(liver[..., plane]) * mm2 for plane in ends_of(ct))
        return first, last

    def slices(self) -> tuple[int, int]:
        """The lowest slice with liver, and the one above the highest."""
        found = np.flatnonzero(self.liver.any((0, 1)))
        return int(found[0]), int(found[-1]) + 1


def measure(
    ct: NDArray[Any],
    liver: NDArray[Any],
    affine: NDArray[Any],
    prob: NDArray[Any] | None = None,
    mirrored: Callable[[], float] | None = None,
) -> Figures:
    """What the notes follow from; arguments as for notes_on."""
    orientation = io_orientation(affine)
    mm = voxel_sizes(affine @ inv_ornt_aff(orientation, ct.shape))
    whole = View(apply_orientation(ct, orientation), apply_orientation(liver, orientation), mm)
    coarse = whole.coarse()
    lowest, highest = float(np.quantile(coarse.ct[::2, ::2], 0.001)), float(coarse.ct.max())
    above, below = lungs(coarse, lowest)
    dense = coarse.ct[coarse.ct > DENSE]
    edges = [whole.liver_at_the_ends(axis) for axis in range(3)]
    first, end = whole.slices()
    margin = round(NEAR_MM / mm[2])
    span = slice(max(0, int((first * mm[2] - NEAR_MM) / coarse.mm[2])), int((end * mm[2] + NEAR_MM) / coarse.mm[2]) + 1)
    near = View(coarse.ct[..., span], coarse.liver[..., span], coarse.mm)
    body = torso(near.ct)
    right, front = from_spine(near, body)
    step_of_few, odd = odd_of_few(whole.ct)
    sure = NOTHING if prob is None else sureness(apply_orientation(prob, orientation), whole)
    return Figures(
        volume_ml=np.count_nonzero(liver) * float(mm.prod()) / 1000,
        bottom_mm2=edges[2][0],
        top_mm2=edges[2][1],
        edge_mm2=max(*edges[0], *edges[1]),
        right_mm=right,
        front_mm=front,
        lung_above_ml=above,
        lung_below_ml=below,
        lowest=lowest,
        highest=highest,
        spike=float((dense == highest).mean()) if len(dense) else 0.0,
        noise=noise(whole, first, end),
        metal_ml=np.count_nonzero(near.ct > METAL) * float(near.mm.prod()) / 1000,
        slice_mm=float(mm[2]),
        height_mm=float((end - first) * mm[2]),
        width_mm=float(np.median(body.any(1).sum(0)) * near.mm[0]),
        pixel_mm=float(max(mm[:2])),
        fat=fat(coarse.ct, lowest),
        air=outside_air(coarse.ct),
        around=most_at_the_edges(coarse.ct),
        sure=sure,
        mirrored=mirrored() if mirrored and sure < SURE_OF_SIDE else NOTHING,
        dark=darkness(coarse),
        repeated=repeated_slices(whole.ct),
        step=sudden_step(whole.ct[..., max(0, first - margin) : end + margin]),
        step_of_few=step_of_few,
        odd_of_few=odd,
    )


def sureness(prob: NDArray[Any], whole: View) -> float:
    """Mean probability of the liver's voxels, some COARSE_MM apart: all of them take five times as long as the rest."""
    probabilities, liver, _ = whole._replace(ct=prob).coarse()
    return float(probabilities[liver > 0].mean()) if liver.any() else NOTHING


def darkness(coarse: View) -> float:
    """Share of the liver's voxels that are as dark as fat or air; NaN where the CT is clipped above that."""
    found = coarse.ct[coarse.liver > 0]
    return float((found < DARK_HU).mean()) if len(found) and coarse.ct.min() < DARK_HU else NOTHING


def torso(ct: NDArray[Any]) -> NDArray[np.bool_]:
    """The body, without the table and arms apart from it."""
    found: NDArray[np.bool_] = cc3d.largest_k(ct > max(BODY, ct.min() + 5), k=1) > 0
    return found


def from_spine(near: View, body: NDArray[np.bool_]) -> tuple[float, float]:
    """How far the liver's middle lies to the right of the spine, and the body's in front of it, in mm.

    The spine is where most slices hold what is as dense as bone, whatever the CT is clipped to.
    """
    ct = near.ct
    bone = ndimage.uniform_filter((body & (ct > min(BONE, ct.max() - 10))).mean(2, dtype=np.float32), SPINE)
    x, y = np.unravel_index(bone.argmax(), bone.shape)
    right, front = middle(near.liver, 0) - x, middle(body, 1) - y
    return float(right * near.mm[0]), float(front * near.mm[1])


def middle(mask: NDArray[Any], axis: int) -> float:
    """Mean index along an axis, in voxels; NaN where the mask is empty."""
    line = mask.sum(tuple({0, 1, 2} - {axis}), dtype=np.int64)
    return float(np.arange(len(line)) @ line / line.sum()) if line.any() else NOTHING


def lungs(coarse: View, lowest: float) -> tuple[float, float]:
    """Air within the body above and below the liver's middle, in ml; NaN where fat is as dark as air."""
    z = middle(coarse.liver, 2)
    if lowest > FAT or np.isnan(z):
        return NOTHING, NOTHING
    parts = cc3d.connected_components(coarse.ct <= max(AIR, lowest + 2), connectivity=6)
    within = np.ones(int(parts.max()) + 1, bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        within[edge] = False
    within[0] = False  # no air
    ml = within[parts].sum((0, 1)) * float(coarse.mm.prod()) / 1000
    return float(ml[round(z) :].sum()), float(ml[: round(z)].sum())


def noise(whole: View, first: int, end: int) -> float:
    """Noise of the liver from slice ``first`` to ``end`` where it is as coarse as the segmenter sees it, HU."""
    steps = [max(1, round(working / mm)) for working, mm in zip(WORKING_MM, whole.mm)]
    starts = np.unique(np.linspace(first, max(first, end - steps[2]), NOISE_SLABS).astype(int))
    slabs = [View(whole.ct[..., z : z + steps[2]], whole.liver[..., z : z + steps[2]], whole.mm) for z in starts]
    found = np.concatenate([change for slab in slabs if slab.liver.any() for change in changes(slab, steps)])
    # the median, as edges and tumours are few
    return float(1.4826 * np.median(np.abs(found)) / 2**0.5) if len(found) >= ENOUGH else NOTHING


def changes(slab: View, steps: list[int]) -> Iterator[NDArray[Any]]:
    """Differences within the liver of means over ``steps``, two means apart, as neighbours share noise."""
    sides = [np.flatnonzero(slab.liver.any(axes)) for axes in ((1, 2), (0, 2))]
    spans = [slice(side[0], side[0] + (side[-1] + 1 - side[0]) // step * step) for side, step in zip(sides, steps)]
    ct, liver = slab.ct[spans[0], spans[1]], slab.liver[spans[0], spans[1]]
    blocks = (ct.shape[0] // steps[0], steps[0], ct.shape[1] // steps[1], steps[1], ct.shape[2])
    mean: NDArray[Any] = ct.reshape(blocks).mean((1, 3, 4), dtype=np.float32)
    inside: NDArray[Any] = liver.reshape(blocks).min((1, 3, 4)) > 0
    yield (mean[2:] - mean[:-2])[inside[2:] & inside[:-2]]
    yield (mean[:, 2:] - mean[:, :-2])[inside[:, 2:] & inside[:, :-2]]
