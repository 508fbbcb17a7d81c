"""What speaks against a result: a liver of a size or in a place that no liver has, a CT unlike those learned from.

Each limit lies beyond what good CTs show: docs/plausibility.md has the figures that they were measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cc3d
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from liver_ct.chain.values import ends_of, fat, most_at_the_edges, outside_air, repeated_slices
from liver_ct.outputs.results import Note

VOLUME_ML = (300, 4000)
END_MM2 = 100  # of liver in the lowest or highest slice
RIGHT_MM, FRONT_MM = 10, 0  # from the spine to the middle of the liver, and of the body
LUNG_ML = 300
LOW_HU, HIGH_HU, SPIKE = -300, 1000, 0.05  # air is lower; bone is higher, and few of its voxels are equal
NOISE_HU = 20
METAL_ML = 0.5
FAT_HU, AIR_HU = (-140, -65), (-1080, -940)
SLICE_MM = 7
FILLED_HU = 50  # above the lowest, which is air, or what air was clipped to
SURE, SURE_OF_SIDE = 0.88, 0.945  # mean probability of what was taken for liver
DARK_HU, DARK = -60, 0.03  # no liver is as dark, however fatty; share of what was taken for it

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
        fat: HU that most fat has.
        air: HU that most air outside the body has.
        around: HU that most of the outermost voxels share, if they do.
        sure: mean probability of the liver's voxels, a sample of them.
        mirrored: how much surer the segmenter is of a liver in the CT's mirror image; NaN where nobody doubts.
        dark: share of the liver's voxels, a sample of them, that are as dark as fat or air.
        repeated: slices that hold the same as the one below them.
    """

    volume_ml: float
    bottom_mm2: float
    top_mm2: float
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
    fat: float
    air: float
    around: float
    sure: float
    mirrored: float
    dark: float
    repeated: int


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

    def slices(self) -> tuple[int, int]:
        """The lowest slice with liver, and the one above the highest."""
        found = np.flatnonzero(self.liver.any((0, 1)))
        return int(found[0]), int(found[-1]) + 1


def notes_on(
    ct: NDArray[Any],
    liver: NDArray[Any],
    affine: NDArray[Any],
    prob: NDArray[Any] | None = None,
    mirrored: Callable[[], float] | None = None,
) -> tuple[Note, ...]:
    """What is implausible about a result.

    Args:
        ct: ``[X, Y, Z]`` in HU, in any orientation.
        liver: ``[X, Y, Z]``, above 0 in the liver, of which there is some.
        affine: 4 x 4, voxel to world mm (RAS).
        prob: ``[X, Y, Z]``, the Prob-Mask; without it nothing is said of how sure the segmenter was.
        mirrored: gives how much surer the segmenter is of a liver in the CT's mirror image; asked where it is less sure
            than usual, as it takes stage 1's time again.

    Returns:
        A note for each thing; none for a good CT whose liver was found.
    """
    figures = measure(ct, liver, affine, prob, mirrored)
    return tuple(Note(code, text) for code, look in CHECKS.items() if (text := look(figures)))


def about_volume(found: Figures) -> str | None:
    """A volume that few livers have."""
    if VOLUME_ML[0] <= found.volume_ml <= VOLUME_ML[1]:
        return None
    measured = f"The liver measures {found.volume_ml:.0f} ml, outside {VOLUME_ML[0]} to {VOLUME_ML[1]} ml"
    return f"{measured}: part of it missed, something else taken for it, or a header that is wrong."


def about_ends(found: Figures) -> str | None:
    """Liver in the outermost slices."""
    ends = {"lowest": found.bottom_mm2, "highest": found.top_mm2}
    held = " and ".join(end for end, mm2 in ends.items() if mm2 >= END_MM2)
    reached = f"The liver reaches the {held} slice"
    return f"{reached}: the scan ends inside it, or something else was taken for it." if held else None


def about_side(found: Figures) -> str | None:
    """A liver in the middle or on the left."""
    if not found.right_mm < RIGHT_MM:
        return None
    return "The liver is not on the patient's right: wrong organ, or left and right exchanged."


def about_mirroring(found: Figures) -> str | None:
    """A CT of whose mirror image the segmenter is surer."""
    if not found.mirrored > 0:
        return None
    return "The CT's mirror image looks more like a body: left and right exchanged."


def about_front(found: Figures) -> str | None:
    """A spine in front of the body's middle."""
    return "The spine is not at the back: front and back exchanged." if found.front_mm < FRONT_MM else None


def about_lungs(found: Figures) -> str | None:
    """Lungs below the liver; a bowel full of air lies there, too."""
    if not found.lung_below_ml > max(LUNG_ML, 2 * found.lung_above_ml):
        return None
    return "The liver is not below the lungs: wrong organ, or head and feet exchanged."


def about_range(found: Figures) -> str | None:
    """Values that end where those of a CT do not."""
    low = found.lowest > LOW_HU
    high = found.highest < HIGH_HU and found.spike > SPIKE
    ends = [f"{hu:.0f}" for hu, is_clipped in ((found.lowest, low), (found.highest, high)) if is_clipped]
    return f"Values end at {' and '.join(ends)} HU: the CT is clipped or windowed." if ends else None


def about_noise(found: Figures) -> str | None:
    """More noise than in training."""
    if not found.noise > NOISE_HU:
        return None
    return f"Noise of {found.noise:.0f} HU in the liver, more than was trained on."


def about_metal(found: Figures) -> str | None:
    """Metal beside the liver, which training hardly held."""
    if found.metal_ml < METAL_ML:
        return None
    return f"{found.metal_ml:.1f} ml of metal at the liver's height: its streaks were not trained on."


def about_slices(found: Figures) -> str | None:
    """Slices far apart."""
    if found.slice_mm <= SLICE_MM:
        return None
    return f"Slices lie {found.slice_mm:.3g} mm apart: small tumours and the liver's ends may be missed."


def about_scale(found: Figures) -> str | None:
    """Fat or air that is not where it is in every CT."""
    places = {"Fat": (found.fat, FAT_HU, -100), "Air": (found.air, AIR_HU, -1000)}
    for name, (hu, limits, usual) in places.items():
        if hu < limits[0] or hu > limits[1]:
            return f"{name} lies at {hu:.0f} HU, not near {usual}: the values may be scaled or shifted."
    return None


def about_surroundings(found: Figures) -> str | None:
    """One value around the body that is no air."""
    if not found.around > max(AIR, found.lowest + FILLED_HU):
        return None
    return f"All around the body lie {found.around:.0f} HU, not air: what is outside it was overwritten."


def about_sureness(found: Figures) -> str | None:
    """A liver that the segmenter hardly believes in, as where there is none."""
    if not found.sure < SURE:
        return None
    return f"The segmenter is unsure of the liver (mean probability {found.sure:.2f}): wrong organ, or an unusual CT."


def about_darkness(found: Figures) -> str | None:
    """Fat or lung in the liver."""
    if not found.dark > DARK:
        return None
    return f"{100 * found.dark:.0f} % of the liver is as dark as fat or lung: part of it is something else."


def about_repetition(found: Figures) -> str | None:
    """Slices that are there twice, which makes the liver taller; no scanner's are alike to the last HU."""
    if not found.repeated:
        return None
    repeated = f"{found.repeated} slices are" if found.repeated > 1 else "One slice is"
    return f"{repeated} the same as the one below: stored twice, which makes the liver too large, or interpolated."


CHECKS: dict[str, Callable[[Figures], str | None]] = {  # by the code of the note
    "volume": about_volume,
    "scan_end": about_ends,
    "side": about_side,
    "mirrored": about_mirroring,
    "front_back": about_front,
    "lungs": about_lungs,
    "clipped": about_range,
    "noise": about_noise,
    "metal": about_metal,
    "thick_slices": about_slices,
    "scale": about_scale,
    "surroundings": about_surroundings,
    "unsure": about_sureness,
    "dark": about_darkness,
    "repeated": about_repetition,
}


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
    bottom, top = (np.count_nonzero(whole.liver[..., z]) * float(mm[0] * mm[1]) for z in ends_of(whole.ct))
    first, end = whole.slices()
    span = slice(max(0, int((first * mm[2] - NEAR_MM) / coarse.mm[2])), int((end * mm[2] + NEAR_MM) / coarse.mm[2]) + 1)
    near = View(coarse.ct[..., span], coarse.liver[..., span], coarse.mm)
    right, front = from_spine(near)
    sure = NOTHING if prob is None else sureness(apply_orientation(prob, orientation), whole)
    return Figures(
        volume_ml=np.count_nonzero(liver) * float(mm.prod()) / 1000,
        bottom_mm2=bottom,
        top_mm2=top,
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
        fat=fat(coarse.ct, lowest),
        air=outside_air(coarse.ct),
        around=most_at_the_edges(coarse.ct),
        sure=sure,
        mirrored=mirrored() if mirrored and sure < SURE_OF_SIDE else NOTHING,
        dark=darkness(coarse),
        repeated=repeated_slices(whole.ct),
    )


def sureness(prob: NDArray[Any], whole: View) -> float:
    """Mean probability of the liver's voxels, some COARSE_MM apart: all of them take five times as long as the rest."""
    probabilities, liver, _ = whole._replace(ct=prob).coarse()
    return float(probabilities[liver > 0].mean()) if liver.any() else NOTHING


def darkness(coarse: View) -> float:
    """Share of the liver's voxels that are as dark as fat or air; NaN where the CT is clipped above that."""
    found = coarse.ct[coarse.liver > 0]
    return float((found < DARK_HU).mean()) if len(found) and coarse.ct.min() < DARK_HU else NOTHING


def from_spine(near: View) -> tuple[float, float]:
    """How far the liver's middle lies to the right of the spine, and the body's in front of it, in mm.

    The spine is where most slices hold what is as dense as bone, whatever the CT is clipped to.
    """
    ct = near.ct
    body = cc3d.largest_k(ct > max(BODY, ct.min() + 5), k=1) > 0  # without the table
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
