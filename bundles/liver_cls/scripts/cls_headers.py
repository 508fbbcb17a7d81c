# A copy of headers.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""What the header of an image file must say, whatever its format, and the fields that all formats share."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scripts.cls_errors import EXPORT_AGAIN, StudyError, printable

FIX_HEADER = "Fix the header, or export it again from the original."
AS_NIFTI = "Convert it to NIfTI."
MM = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 0.001}  # by unit
NUMBER = r"[-+]?(\d+(?:\.\d*)?|\.\d+)([eE][-+]?\d+)?"  # Python's float also takes 1_000 and digits of other scripts
VALUE = r"[-+.,()\d\seE]+|[\w|+.#'\[\]{}/-]{1,40}"  # numbers, or one word or code
NO_TEXT = range(0xDC80, 0xDD00)  # what Python keeps the bytes of a name as that are no UTF-8
NO_MODALITY = ("", "CT", "OT", "OTHER", "UNKNOWN")  # but for CT they say nothing
UNITS = (  # of values that are HU, or say nothing, as `spelled` gives them; US is unspecified, HNSF_U UCUM's code
    "", "HU", "H_U", "HUS", "HU_MOD", "US", "UNSPECIFIED", "HOUNSFIELD", "HOUNSFIELD_UNIT", "HOUNSFIELD_UNITS",
    "HOUNSFIELD_UNIT_HU", "HOUNSFIELD_UNITS_HU", "HNSF_U", "UNKNOWN", "NONE", "1", "NO_UNITS",
)  # fmt: skip
# What keys of programs are of, but for their punctuation and "DICOM": ITK's `0008|0060`, DWIConvert's
# `DICOM_0008_0060_Modality`, MITK's `DICOM_0008_0060`, Slicer's `DICOM.Modality` and `DICOM.MeasurementUnitsCodeValue`
MODALITY_KEYS = ("modality", "00080060", "00080060modality")
UNIT_KEYS = (
    "00281054", "00281054rescaletype", "rescaletype", "00541001", "00541001units", "sampleunits", "units",
    "measurementunitscodevalue", "voxelvalueunits",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Where the voxels of an image lie and how they are stored.

    Attributes:
        shape: of the array, its first axis running fastest.
        dtype: of a stored voxel, with its byte order.
        affine: 4 x 4, voxel to world mm (RAS).
        data: the file that holds the voxels.
        start: bytes of that file before the stream of voxels.
        skip: bytes of the (inflated) stream before the first voxel.
        packed: how the stream is compressed: "", "gzip", "zlib" or "bzip2".
        slope, inter: a value is ``slope * stored + inter``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    data: Path
    start: int = 0
    skip: int = 0
    packed: str = ""
    slope: float = 1.0
    inter: float = 0.0

    @property
    def bytes(self) -> int:
        """Of all stored voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


def quoted(text: str) -> str:
    """A field's value for a message, where it is numbers or one word as such fields hold: other text may name somebody,
    and messages go to logs and pages."""
    text = text.strip()
    return repr(text[:60]) if re.fullmatch(VALUE, text, re.ASCII) else "other text" if text else "empty"


def numbers(path: Path, name: str, text: str, count: int) -> list[float]:
    """The ``count`` finite numbers of a field, else StudyError."""
    words = text.split()
    whole = all(re.fullmatch(NUMBER, word, re.ASCII) for word in words)
    values = [float(word) for word in words] if whole else []
    if len(values) != count or not np.isfinite(values).all():
        raise StudyError(f"{path}: {name} is not {count} finite numbers ({quoted(text)}). {FIX_HEADER}")
    return values


def integers(path: Path, name: str, text: str, count: int) -> list[int]:
    """The ``count`` whole numbers of a field, else StudyError."""
    values = numbers(path, name, text, count)
    if any(value != int(value) or abs(value) > 2**53 for value in values):
        raise StudyError(f"{path}: {name} is not {count} whole numbers ({quoted(text)}). {FIX_HEADER}")
    return [int(value) for value in values]


def sizes(path: Path, name: str, text: str) -> tuple[int, ...]:
    """Three numbers of voxels, each at least 1, else StudyError."""
    count = len(text.split())
    if not count:
        raise StudyError(f"{path}: {name} is missing. {FIX_HEADER}")
    if count > 3:
        raise StudyError(f"{path}: {name} has {count} axes (time, colours or vectors). Give one CT volume.")
    if count < 3:
        raise StudyError(f"{path}: a 2D image, {name} {quoted(text)}. Give a whole CT volume.")
    shape = tuple(integers(path, name, text, 3))
    if min(shape) < 1:
        raise StudyError(f"{path}: {name} is {quoted(text)}. {FIX_HEADER}")
    return shape


def check_attribute(path: Path, key: str, value: str) -> None:
    """Raise StudyError where a key and value that a program wrote say that the image is no CT, or its values no HU."""
    name = re.sub("[ _.|,()-]", "", key.lower()).removeprefix("dicom")
    if name not in MODALITY_KEYS + UNIT_KEYS:
        return
    for text in re.findall(r'"value"\s*:\s*"([^"]*)"', value) or [value]:  # MITK's are JSON, with one for each slice
        plain = text.strip("\"' \0").upper()
        if name in MODALITY_KEYS and plain.removeprefix("MET_MOD_") not in NO_MODALITY:
            raise StudyError(f"{path}: its {key} is {quoted(text)}, not CT. Give a CT.")
        lengths = name == "units" and all(unit.strip("\"'").lower() in MM for unit in text.split())
        if name in UNIT_KEYS and spelled(text) not in UNITS and not lengths:
            raise StudyError(f"{path}: its {key} is {quoted(text)}, not HU. Give a CT in HU.")


def spelled(unit: str) -> str:
    """A unit's letters and digits in capitals, the rest between them as ``_``."""
    return re.sub("[^A-Z0-9]+", "_", unit.upper()).strip("_")


def check_line(path: Path, number: int, line: str) -> None:
    """Raise StudyError where a line of a text header, which is not shown, holds what no text does."""
    if any(ord(character) < ord(" ") and character != "\t" for character in line) or "\x7f" in line:
        raise StudyError(f"{path}: line {number} of its header holds control characters. {FIX_HEADER}")


def unit_mm(path: Path, name: str, unit: str) -> float:
    """Millimetres per unit of length, else StudyError."""
    unit = unit.strip("\"' ").lower().replace("\u00b5", "u").replace("\u03bc", "u")
    if unit not in MM:
        raise StudyError(f"{path}: {name} is {quoted(unit)}, not one of {', '.join(MM)}. {FIX_HEADER}")
    return MM[unit]


def data_beside(path: Path, name: str) -> Path:
    """The file with the voxels that a header names: in the header's folder or below, else StudyError.

    Its bytes are those that the system has for the file, in UTF-8 or not, as programs write them.
    """
    stored = name.encode("latin-1")
    name = os.fsdecode(stored)
    if not name or len(stored) > 255 or not all(each.isprintable() or ord(each) in NO_TEXT for each in name):
        raise StudyError(f"{path}: it names no usable data file. {FIX_HEADER}")
    data = path.parent / name
    folders = {path.parent.resolve(), path.resolve().parent}  # they differ where the header is a link
    if not any(data.resolve().is_relative_to(folder) for folder in folders):
        raise StudyError(f"{path}: its data file lies outside the header's folder. Put the two together.")
    if not data.is_file():
        cause = "no file (a folder, pipe or device)" if data.exists() else "missing"
        raise StudyError(f"{path}: its data file {printable(name)} is {cause}. Copy it beside the header.")
    return data


def lps_to_ras(columns: list[list[float]], origin: list[float]) -> np.ndarray:
    """Affine (RAS) from the voxel axes' steps and the first voxel's place, all in LPS."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.transpose(columns), origin
    return np.diag([-1.0, -1, 1, 1]) @ affine


def read_start(path: Path, count: int) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(count)


def not_this(path: Path, format_name: str) -> StudyError:
    """The error for a file whose content is not what its name says."""
    cause = f"not a readable image (no {format_name} header: damaged, cut short or of another format)"
    return StudyError(f"{path}: {cause}. {EXPORT_AGAIN}")
