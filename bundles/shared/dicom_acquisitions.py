"""Acquisitions within a series: they may follow each other, and must not lie between each other's slices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shared.dicom_files import value
from shared.dicom_slices import Slice, normal
from shared.errors import StudyError

ONE = (  # of a series; anonymisers may give each slice its own
    "FrameOfReferenceUID", "StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "PatientAge", "PatientPosition", "StudyDate", "Manufacturer", "ManufacturerModelName", "StationName",
    "DeviceSerialNumber",
)  # fmt: skip
MARKS = (  # each the same throughout an acquisition and its reconstruction
    "AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase",
    "KVP", "ConvolutionKernel", "ContrastBolusAgent", "ReconstructionDiameter", "ImageType", "SeriesNumber",
    "SeriesDescription", "SeriesTime", "IrradiationEventUID", *ONE,
)  # fmt: skip
TIMES = ("AcquisitionTime", "AcquisitionDateTime")  # may also be that of each slice
MAX_TIMES = 4  # so many are those of acquisitions
TOLD = ("AcquisitionNumber", "TemporalPositionIdentifier", "KVP", "ConvolutionKernel")  # says nothing of the patient


def check_acquisitions(folder: Path, slices: Sequence[Slice]) -> None:
    """Raise StudyError where acquisitions lie between each other's slices, or are of several people; names two."""
    along = normal(slices[0])
    ordered = sorted(slices, key=lambda one: float(one.position @ along))
    for name in filter(partial(_differ, slices), (*MARKS, *TIMES)):
        marks = [(mark, one) for one in ordered if (mark := _mark(value(one.header, name)))]
        runs = [pair for before, pair in zip([("", None), *marks], marks) if before[0] != pair[0]]
        found = {mark for mark, _ in runs}
        kinds = 1 if name == "PatientAge" and _is_birthday(found) else len(found)
        if 1 < kinds < len(marks) and name in ONE:
            raise StudyError(f"{folder}: {_named(name, runs, 'are in one series')}. Give each as a series of its own.")
        if len(runs) > kinds > 1 and not (name in TIMES and kinds > MAX_TIMES):
            raise StudyError(f"{folder}: {_named(name, runs)}. Give each acquisition as a series of its own.")


def _mark(found: Any) -> str:
    """An attribute's value as text, a number or a name however it is written; empty where it says nothing."""
    if isinstance(found, (int, float)):
        return f"{float(found):.15g}"
    return " ".join(str(found or "").replace("^", " ").upper().split())


def _is_birthday(ages: set[str]) -> bool:
    """Whether two ages, such as 049Y and 050Y, may be of one person before and after midnight."""
    years = sorted(int(age[:-1]) for age in ages if re.fullmatch("[0-9]+Y", age))
    return len(ages) == len(years) == 2 and years[1] - years[0] <= 1


def _differ(slices: Sequence[Slice], name: str) -> bool:
    """Whether an attribute is not the same in all slices; as bytes, since understanding them takes time."""
    from pydicom.tag import Tag

    tag = Tag(name)
    items = [one.header.get_item(tag) for one in slices]
    return any((item and item.value) != (items[0] and items[0].value) for item in items)


def _named(name: str, runs: Sequence[tuple[str, Any]], what: str = "lie between each other's slices") -> str:
    """The cause, with the first slices of the first two acquisitions."""
    (one, first), (other, second) = runs[:2]
    values = f" {one} and {other}" if name in TOLD else ""
    files = " and ".join(Path(s.header.filename).name for s in (first, second))
    return f"acquisitions that differ in {name}{values} {what} ({files})"
