"""What speaks against a result: a liver of a size or in a place that no liver has, a CT unlike those learned from.

Each limit lies beyond what good CTs show: docs/plausibility.md has the figures that they were measured on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from liver_ct.chain.figures import AIR, Figures, measure
from liver_ct.outputs.results import Note

VOLUME_ML = (300, 4000)
HEIGHT_MM, WIDTH_MM = (100, 260), (230, 520)  # of a whole liver; of a body at its height
END_MM2 = 100  # of liver in the lowest or highest slice, or in the outermost column or row of the pictures
RIGHT_MM, FRONT_MM = 10, 20  # from the spine to the middle of the liver, and of the body
LUNG_ML = 300
LOW_HU, HIGH_HU, SPIKE = -300, 1000, 0.05  # air is lower; bone is higher, and few of its voxels are equal
NOISE_HU, EVEN_HU = 20, 1
METAL_ML = 0.5
FAT_HU, AIR_HU = (-140, -65), (-1080, -940)
SLICE_MM = 7  # also of a pixel: sagittal slices as far apart are that
FILLED_HU = 50  # above the lowest, which is air, or what air was clipped to
SURE = 0.88  # mean probability of what was taken for liver
DARK = 0.03  # share of what was taken for it
STEP = 1.5  # from slice to slice, against the largest of ten beside it
STEP_OF_FEW, ODD_OF_FEW = 2.0, 1.15  # the same in a CT of 3 to 10 slices; a slice from both neighbours


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


def about_height(found: Figures) -> str | None:
    """A liver lower or taller than whole ones are."""
    cut = max(found.bottom_mm2, found.top_mm2) >= END_MM2
    if found.height_mm <= HEIGHT_MM[1] and (cut or found.height_mm >= HEIGHT_MM[0]):
        return None
    measured = f"The liver is {found.height_mm:.0f} mm high, outside {HEIGHT_MM[0]} to {HEIGHT_MM[1]} mm"
    return f"{measured}: a child's or an enlarged one, a wrong mask, or a wrong distance of the slices in the header."


def about_width(found: Figures) -> str | None:
    """A body narrower or wider than adults' are."""
    if WIDTH_MM[0] <= found.width_mm <= WIDTH_MM[1]:
        return None
    measured = f"The body is {found.width_mm:.0f} mm wide at the liver, outside {WIDTH_MM[0]} to {WIDTH_MM[1]} mm"
    return f"{measured}: a child, pictures cut at their sides, or a wrong size of the pixels in the header."


def about_ends(found: Figures) -> str | None:
    """Liver in the outermost slices."""
    ends = {"lowest": found.bottom_mm2, "highest": found.top_mm2}
    held = " and ".join(end for end, mm2 in ends.items() if mm2 >= END_MM2)
    reached = f"The liver reaches the {held} slice"
    return f"{reached}: the scan ends inside it, or something else was taken for it." if held else None


def about_edges(found: Figures) -> str | None:
    """Liver in the outermost columns or rows."""
    if found.edge_mm2 < END_MM2:
        return None
    return "The liver reaches the edge of the pictures: part of it was cut off, or something else was taken for it."


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
    if not found.front_mm < FRONT_MM:
        return None
    return "The spine is not at the back: front and back exchanged, or rows and columns."


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


def about_evenness(found: Figures) -> str | None:
    """Less noise than any scanner leaves."""
    if not found.noise < EVEN_HU:
        return None
    return f"The liver has no noise ({found.noise:.1f} HU): labels or a drawing that was given HU."


def about_metal(found: Figures) -> str | None:
    """Metal beside the liver, which training hardly held."""
    if found.metal_ml < METAL_ML:
        return None
    return f"{found.metal_ml:.1f} ml of metal at the liver's height: its streaks were not trained on."


def about_slices(found: Figures) -> str | None:
    """Slices far apart, or pixels as long as that."""
    missed = "small tumours and the liver's ends may be missed."
    if found.slice_mm > SLICE_MM:
        return f"Slices lie {found.slice_mm:.3g} mm apart: {missed}"
    return f"Pixels of axial slices are {found.pixel_mm:.3g} mm long: {missed}" if found.pixel_mm > SLICE_MM else None


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
    return f"{repeated} the same as one below: stored twice, which makes the liver too large, or interpolated."


def about_steps(found: Figures) -> str | None:
    """A place where slices do not go on as elsewhere, though their positions do; not beside metal, whose streaks
    begin suddenly."""
    if found.metal_ml >= METAL_ML:
        return None
    if found.step_of_few > STEP_OF_FEW or found.odd_of_few > ODD_OF_FEW:
        return "Of these few slices, one or some do not go on from the others: missing between, exchanged or foreign."
    if not found.step > STEP:
        return None
    jump = f"Near the liver, slices change {found.step:.2g} times as much from one to the next as beside it"
    return f"{jump}: slices between them may be missing, or there twice."


CHECKS: dict[str, Callable[[Figures], str | None]] = {  # by the code of the note
    "volume": about_volume,
    "height": about_height,
    "width": about_width,
    "scan_end": about_ends,
    "picture_edge": about_edges,
    "side": about_side,
    "mirrored": about_mirroring,
    "front_back": about_front,
    "lungs": about_lungs,
    "clipped": about_range,
    "noise": about_noise,
    "even": about_evenness,
    "metal": about_metal,
    "thick_slices": about_slices,
    "scale": about_scale,
    "surroundings": about_surroundings,
    "unsure": about_sureness,
    "dark": about_darkness,
    "repeated": about_repetition,
    "jump": about_steps,
}
