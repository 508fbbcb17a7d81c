# A copy of dicom_kind.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""What a slice's values are by its header: HU of one CT, or something else."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from scripts.seg_dicom_files import value
from scripts.seg_dicom_slices import ORIGINAL
from scripts.seg_errors import StudyError
from scripts.seg_headers import UNITS, spelled

if TYPE_CHECKING:
    import pydicom

PROJECTIONS = (  # of what holds the extremes of several slices, or a picture of a volume
    "MIP", "MINIP", "MAXIP", "MAX_IP", "MIN_IP", "PROJECTION", "_MAXIMUM_", "_MINIMUM_", "VOLUME_RENDER",
    "SURFACE_RENDER",
)  # fmt: skip
CURVED = ("CURVED_MPR", "DISTORTED")  # whose pixels do not lie where the header says
NO_HU = (  # in the ImageType of what is computed from CTs, at two energies or times, and is of another unit
    "MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM", "EFFECTIVE_ATOMIC", "ZEFF", "Z_EFF", "RHO_Z",
    "ELECTRON_DENSITY", "IODINE", "FAT_FRACTION", "PERFUSION", "SUBTRACTION", "__SUB__", "STD_DEVIATION", "DIVISION",
    "MULTIPLICATION",
)  # fmt: skip
ACQUIRED = ["ORIGINAL", "PRIMARY"]  # begins an ImageType, in which PERFUSION then says what it was acquired for
WITHOUT_IODINE = "NON_IODINE|IODINE_(REMOVED|SUPPRESSED)"  # virtual non-contrast, in HU
KINDS = ("ImageType", "VolumetricProperties", "VolumeBasedCalculationTechnique")
MAPPINGS, HOUNSFIELD = 0x00409096, ("[hnsf'U]", "HU", "1")  # RealWorldValueMappingSequence; units, the last of none


def check_kind(header: pydicom.Dataset) -> None:
    """Raise StudyError where a slice's header says that its values are no HU of one CT."""
    path = header.filename
    for name in KINDS:
        found = value(header, name) or ""
        if cause := why_no_ct(name, found if isinstance(found, str) else "\\".join(map(str, found))):
            raise StudyError(f"{path}: by its {name} {cause}")
    unit = str(value(header, "RescaleType") or "").strip()[:60]
    if spelled(unit) not in UNITS:
        raise StudyError(f"{path}: its values are {unit}, not HU. Give a CT in HU.")
    if spelled(unit) in ("", "US", "UNSPECIFIED") and (found := other_unit(header)):
        raise StudyError(f"{path}: its values are {found} by RealWorldValueMappingSequence, not HU. Give a CT in HU.")
    if "ModalityLUTSequence" in header and value(header, "ModalityLUTSequence") != []:
        cause = "its values become HU by a table, ModalityLUTSequence, which is not read here"
        raise StudyError(f"{path}: {cause}. Give a CT with RescaleSlope and RescaleIntercept only.")


@lru_cache(maxsize=2**8)  # it is the same in nearly all slices
def why_no_ct(name: str, found: str) -> str | None:
    """What else than a CT in HU an attribute of that name says a slice is, and the fix; None for a CT."""
    values = [re.sub("[^A-Z]+", "_", one).strip("_") for one in found.upper().split("\\")]
    kind = re.sub(WITHOUT_IODINE, "", f"__{'__'.join(values)}__")  # each word between one _, each value between two
    kind = kind.replace("PERFUSION", "") if values[:2] == ACQUIRED else kind
    if word := next((word for word in PROJECTIONS if f"_{word}_" in kind), None):
        return f"a projection ({word.strip('_')}), no slice of a CT. {ORIGINAL}"
    if word := next((word for word in CURVED if f"_{word}_" in kind), None):
        return f"({word}) no flat slice of a CT. {ORIGINAL}"
    if word := next((word for word in NO_HU if name == "ImageType" and word in kind), None):
        return f"({word.strip('_')}) a map computed from CTs, not in HU. Give a CT in HU."
    return None


def other_unit(header: pydicom.Dataset) -> str | None:
    """The unit of the values where RealWorldValueMappingSequence says one and none of its items HU."""
    if MAPPINGS not in header:
        return None
    try:
        codes = [unit.CodeValue for item in header[MAPPINGS].value for unit in item.MeasurementUnitsCodeSequence]
    except Exception:  # whatever a sequence's bytes make pydicom raise, or it lacks
        return None
    return None if not codes or any(code in HOUNSFIELD for code in codes) else str(codes[0])[:60]
