"""What the headers of a DICOM series say against it that can be read nevertheless: notes beside the result."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from liver_ct.outputs.results import Note

if TYPE_CHECKING:
    import pydicom

ATTRIBUTES = [
    "InstanceNumber", "SliceThickness", "SpacingBetweenSlices", "ReconstructionDiameter", "RescaleType", "ImageType",
    "LossyImageCompression",
]  # fmt: skip
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")  # JPEG, near-lossless JPEG-LS
COMPUTED = ("HU_MOD", "MAT_REMOVED", "MAT_MODIFIED", "VMI", "VNC", "MONOENERG")  # from CTs at two energies
LOOKED_AT = 4  # slices; all others are like them, or the series would not have been read
GAP = 1.5  # from slice to slice, against their thickness
ALIKE = 0.05  # how far a size may be from the one that another attribute says


def notes_on_series(files: Sequence[str], shape: Sequence[int], affine: NDArray[Any]) -> tuple[Note, ...]:
    """What headers say against a series.

    Args:
        files: its slices, in the order of Z; none for a CT that is no DICOM.
        shape: ``[X, Y, Z]``.
        affine: 4 x 4, voxel to world mm.

    Returns:
        A note for each thing; none for a good series.
    """
    if not files:
        return ()
    import pydicom  # slow to import, and NIfTI does without

    middle = files[max(0, len(files) // 2 - 2) :][:LOOKED_AT]
    headers = [pydicom.dcmread(f, stop_before_pixels=True, force=True, specific_tags=ATTRIBUTES) for f in middle]
    mm = np.linalg.norm(affine[:3, :3], axis=0)
    texts = {
        "gaps": about_gaps(headers, float(mm[2])),
        "field": about_field(headers[0], float(max(shape[0] * mm[0], shape[1] * mm[1]))),
        "lossy": about_loss(headers),
        "computed": about_origin(headers[0]),
    }
    return tuple(Note(code, text) for code, text in texts.items() if text)


def about_gaps(headers: Sequence[pydicom.Dataset], apart: float) -> str | None:
    """Slices that are missing at even distances, which their positions cannot tell."""
    numbers = [_number(header, "InstanceNumber") for header in headers]
    steps = {b - a if a and b else 1 for a, b in pairwise(numbers)}
    if len(numbers) > 2 and len(steps) == 1 and abs(steps.pop()) > 1:
        shown = ", ".join(f"{number:g}" for number in numbers[:3])
        return f"Slices are numbered {shown} and so on: those between may have been lost."
    between = abs(_number(headers[0], "SpacingBetweenSlices") or apart)
    if abs(between / apart - 1) > ALIKE:
        return f"Slices lie {apart:.3g} mm apart, but SpacingBetweenSlices is {between:g}: some may have been lost."
    thickness = _number(headers[0], "SliceThickness") or apart
    if 0 < GAP * thickness < apart:
        return f"Slices of {thickness:g} mm lie {apart:.3g} mm apart: nothing is known of what is between them."
    return None


def about_field(header: pydicom.Dataset, field: float) -> str | None:
    """Voxel sizes that another attribute contradicts."""
    diameter = _number(header, "ReconstructionDiameter") or field
    if abs(field / diameter - 1) <= ALIKE:
        return None
    return (
        f"Slices are {field:.0f} mm wide, but ReconstructionDiameter is {diameter:g}: cropped, or of wrong voxel sizes."
    )


def about_loss(headers: Sequence[pydicom.Dataset]) -> str | None:
    """Values that a compression has changed."""
    lossy = [h.get("LossyImageCompression") == "01" or h.file_meta.get("TransferSyntaxUID") in LOSSY for h in headers]
    return "The slices were compressed with loss, which changes their values." if any(lossy) else None


def about_origin(header: pydicom.Dataset) -> str | None:
    """HU that no CT has measured."""
    kind = f"{header.get('RescaleType')} {header.get('ImageType')}".upper()
    found = next((name for name in COMPUTED if name in kind), None)
    return (
        f"By its header ({found}) computed from CTs at two energies: HU may be unlike those learned." if found else None
    )


def _number(header: pydicom.Dataset, name: str) -> float | None:
    """An attribute that is one number, else None."""
    try:
        return float(header.get(name))
    except (TypeError, ValueError):
        return None
