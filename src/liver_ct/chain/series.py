"""What the headers of a DICOM series say against it that can be read nevertheless: notes beside the result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from liver_ct.outputs.results import Note

if TYPE_CHECKING:
    import pydicom

ATTRIBUTES = [
    "SliceThickness", "SpacingBetweenSlices", "GantryDetectorTilt", "PatientOrientation", "ReconstructionDiameter",
    "RescaleType", "ImageType", "VolumetricProperties", "SeriesDescription",
]  # fmt: skip
SLICES = ("InstanceNumber", "SliceLocation", "mm", "lossy", "other_unit")  # of each, if the bundle's reader says so
COMPUTED = (  # from CTs at two energies
    "HU_MOD", "MAT_REMOVED", "MAT_MODIFIED", "VMI", "VNC", "NON_IODINE", "IODINE_REMOVED", "IODINE_SUPPRESSED", "MONO",
    "KEV",
)  # fmt: skip
COMBINED = ("MIP", "MIPS", "MINIP", "MAXIP", "MIN_IP", "MAX_IP", "AIP", "AVERAGE", "AVG")  # words of a description
GAP = 1.5  # from slice to slice, against their thickness
ALIKE = 0.05  # how far a size may be from the one that another attribute says
ROUNDED_MM = 1.01  # between places of which each is written to whole mm or finer
TILT = 0.5  # degrees
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "H": (2, 1), "F": (2, -1)}  # of RAS, and where to
ALONG = 0.5  # cosine between an axis and what is named after it: 0.58 at least where it is the nearest


def notes_on_series(
    files: Sequence[str], shape: Sequence[int], affine: NDArray[Any], slices: Mapping[str, NDArray[Any]]
) -> tuple[Note, ...]:
    """What headers say against a series.

    Args:
        files: its slices, in the order of Z; none for a CT that is no DICOM.
        shape: ``[X, Y, Z]``.
        affine: 4 x 4, voxel to world mm.
        slices: what is said of each, ``[Z]``, as the reader found it: ``InstanceNumber``, ``SliceLocation``, both nan
            where missing, ``mm`` along the slices' normal, whether it is ``lossy``, and whether a
            RealWorldValueMappingSequence has an ``other_unit`` than HU.

    Returns:
        A note for each thing; none for a good series.
    """
    if not files:
        return ()
    import pydicom  # slow to import, and NIfTI does without

    middle = files[len(files) // 2]  # all others are like it, or the series would not have been read
    header = pydicom.dcmread(middle, stop_before_pixels=True, force=True, specific_tags=ATTRIBUTES)
    mm = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / mm
    numbers, places, depth, lossy, other_unit = (slices.get(name, np.empty(0)) for name in SLICES)
    texts = {
        "gaps": about_numbers(numbers)
        or about_places(places, depth, directions[:, 2])
        or about_gaps(header, float(mm[2])),
        "tilt": about_tilt(header, directions[:, 2]),
        "orientation": about_orientation(header, directions),
        "field": about_field(header, float(max(shape[0] * mm[0], shape[1] * mm[1]))),
        "lossy": about_loss(lossy),
        "computed": about_origin(header, other_unit),
    }
    return tuple(Note(code, text) for code, text in texts.items() if text)


def about_numbers(numbers: NDArray[Any]) -> str | None:
    """Slices that are missing by the numbers of the others ``[Z]``; unordered or equal ones say nothing."""
    known = np.flatnonzero(np.isfinite(numbers))
    if len(known) < 3:
        return None
    steps = np.diff(numbers[known]) / np.diff(known)
    if abs(np.sign(steps).sum()) < len(steps) or abs(steps).max() <= 1:
        return None
    first = known[int(abs(steps).argmax()) :]
    shown = [f"{numbers[i]:.0f}" for i in first[:3]]
    if np.ptp(steps) == 0:
        return f"Slices are numbered {', '.join(shown)} and so on: those between are of other phases, or lost."
    return f"A slice numbered {shown[0]} is followed by one numbered {shown[1]}: those between may have been lost."


def about_places(places: NDArray[Any], depth: NDArray[Any], along: NDArray[Any]) -> str | None:
    """SliceLocation that contradicts the positions; one that is the same in all slices says nothing.

    Args:
        places: SliceLocation ``[Z]`` in mm, from anywhere and to either side.
        depth: the positions along the slices' normal ``[Z]`` in mm.
        along: the normal ``[3]``. Of tilted slices some write a coordinate, which is the normal's part along an axis.
    """
    known = np.isfinite(places)
    places, depth = places[known], depth[known]
    if len(places) < 3 or np.ptp(places) < ROUNDED_MM:
        return None
    apart, by_place = np.diff(depth), abs(np.diff(places))
    for part in (1.0, *(cosine for cosine in along if abs(cosine) > ALONG)):
        for turned in (places, -places):
            off = turned - part * depth
            step = abs(np.diff(off)).max() < max(ROUNDED_MM, apart.min() / 2)
            if step and np.ptp(off) < max(ROUNDED_MM, ALIKE * np.ptp(depth)):
                return None
    if abs(np.sign(np.diff(places)).sum()) < np.count_nonzero(by_place):
        return "SliceLocation turns round where positions go on: its sign was lost, or slices are in the wrong place."
    found = " to ".join(dict.fromkeys(f"{mm:.3g}" for mm in (by_place.min(), by_place.max())))
    return f"Slices lie {np.median(apart):.3g} mm apart, by SliceLocation {found}: some were lost, or one is wrong."


def about_gaps(header: pydicom.Dataset, apart: float) -> str | None:
    """Slices that are missing at even distances, which their positions cannot tell."""
    between = abs(_number(header, "SpacingBetweenSlices") or apart)
    if abs(between / apart - 1) > ALIKE:
        return f"Slices lie {apart:.3g} mm apart, but SpacingBetweenSlices is {between:g}: some may have been lost."
    thickness = _number(header, "SliceThickness") or apart
    if 0 < GAP * thickness < apart:
        return f"Slices of {thickness:g} mm lie {apart:.3g} mm apart: nothing is known of what is between them."
    return None


def about_tilt(header: pydicom.Dataset, along: NDArray[Any]) -> str | None:
    """A gantry that was tilted though slices lie straight; some scanners also write so what they have corrected."""
    tilt = _number(header, "GantryDetectorTilt") or 0
    if abs(tilt) < TILT or abs(along[2]) < 1 - 1e-6:
        return None
    return f"GantryDetectorTilt is {tilt:g} degrees, but slices lie straight: corrected, or the tilt was lost."


def about_orientation(header: pydicom.Dataset, directions: NDArray[Any]) -> str | None:
    """PatientOrientation that contradicts where rows and columns run to; programs that turn pictures change only one.

    ``directions`` ``[3, 3]``: unit vectors in columns, in RAS.
    """
    found = header.get("PatientOrientation")
    if found is None or isinstance(found, str) or len(found) != 2:
        return None
    named = [AXES.get(str(letters)[:1]) for letters in found]
    if all(axis is None or axis[1] * directions[axis[0], i] > ALONG for i, axis in enumerate(named)):
        return None
    return (
        f"PatientOrientation is {'/'.join(str(letters)[:3] for letters in found)}, ImageOrientationPatient says "
        "otherwise: the pictures may be turned or mirrored."
    )


def about_field(header: pydicom.Dataset, field: float) -> str | None:
    """Voxel sizes that another attribute contradicts."""
    diameter = _number(header, "ReconstructionDiameter") or field
    if abs(field / diameter - 1) <= ALIKE:
        return None
    return (
        f"Slices are {field:.0f} mm wide, but ReconstructionDiameter is {diameter:g}: cropped, or of wrong voxel sizes."
    )


def about_loss(lossy: NDArray[Any]) -> str | None:
    """Values that a compression has changed."""
    if not lossy.any():
        return None
    which = "The slices were" if lossy.all() else f"{lossy.sum()} of {len(lossy)} slices were"
    return f"{which} compressed with loss, which changes their values."


def about_origin(header: pydicom.Dataset, other_unit: NDArray[Any]) -> str | None:
    """HU that no CT has measured."""
    kind = re.sub("[^A-Z]+", "_", f"{header.get('RescaleType')} {header.get('ImageType')}".upper())
    if found := next((name for name in COMPUTED if name in kind), None):
        return f"By its header ({found}) computed from CTs at two energies: HU may be unlike those learned."
    if header.get("VolumetricProperties") == "SAMPLED":
        return "By its header (VolumetricProperties SAMPLED) computed from other slices, such as a projection."
    words = re.sub("[^A-Z]+", "_", f"_{header.get('SeriesDescription')}_".upper())
    if found := next((name for name in COMBINED if f"_{name}_" in words), None):
        return f"By its SeriesDescription ({found}) computed from several slices or scans: its HU may be others."
    if other_unit.any():
        return "By RealWorldValueMappingSequence values also have a unit that is not HU: a map, or HU beside one."
    return None


def _number(header: pydicom.Dataset, name: str) -> float | None:
    """An attribute that is one number, else None."""
    try:
        return float(header.get(name))
    except (TypeError, ValueError):
        return None
