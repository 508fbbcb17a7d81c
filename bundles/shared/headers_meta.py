"""MetaImage headers (.mha, .mhd).

ITK's parser ends the process on some damaged headers, and reads others that contradict themselves without a word.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from shared.errors import StudyError
from shared.headers import (
    AS_NIFTI,
    FIX_HEADER,
    Header,
    check_attribute,
    check_line,
    data_beside,
    integers,
    lps_to_ras,
    not_this,
    numbers,
    quoted,
    read_start,
    sizes,
    unit_mm,
)

LONGEST = 2**16  # bytes of a header; real ones have about 500
TYPES = {
    "CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
    "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8",
}  # fmt: skip
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "I": (2, 1), "S": (2, -1)}  # of LPS, from that side
PLAIN = 0.8  # cosine from which on there is no doubt which of the patient's axes one of the voxels' is
NAMES = {  # of one field
    "offset": ("Offset", "Origin", "Position"),
    "directions": ("TransformMatrix", "Rotation", "Orientation"),
    "spacing": ("ElementSpacing",),
    "big endian": ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
}
NAMED = {kind: names[0] for kind, names in NAMES.items()}


def read_meta(path: Path) -> Header:
    """The header of a MetaImage.

    Raises:
        StudyError: fields that are missing, contradict each other or cannot be used.
    """
    fields, end = _fields(path)
    for name, value in {"ObjectType": "Image", "NDims": "3", "ElementNumberOfChannels": "1"}.items():
        if fields.get(name, value) != value:
            raise StudyError(f"{path}: {name} is {quoted(fields[name])}, not {value}. Give one 3D CT volume.")
    for name, value in fields.items():
        check_attribute(path, name, value)
    if fields.get("BinaryData", "True").lower() != "true":
        raise StudyError(f"{path}: voxels written as text. {AS_NIFTI}")
    for name, neutral in (("ElementToIntensityFunctionSlope", 1), ("ElementToIntensityFunctionOffset", 0)):
        if name in fields and numbers(path, name, fields[name], 1) != [neutral]:
            raise StudyError(f"{path}: {name} is {quoted(fields[name])}, which programs read differently. {AS_NIFTI}")
    shape, dtype = sizes(path, "DimSize", fields.get("DimSize", "")), _dtype(path, fields)
    return _place(path, fields, end, Header(shape, dtype, _affine(path, fields), path))


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields, and the bytes up to the end of the last one, ElementDataFile."""
    fields: dict[str, str] = {}
    end = 0
    for number, line in enumerate(read_start(path, LONGEST).splitlines(keepends=True), 1):
        end += len(line)
        key, separator, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if not (fields or key.isprintable()):  # another format may hold a "=" by chance
            break
        if not separator and key:
            if "NDims" in fields or "ObjectType" in fields:
                raise StudyError(f"{path}: line {number} of its header is no field (NAME = VALUE). {FIX_HEADER}")
            break
        check_line(path, number, line.decode("latin-1").rstrip("\r\n"))
        if key in fields:
            raise StudyError(f"{path}: line {number} of its header is a field that it holds already. {FIX_HEADER}")
        if key:
            fields[key] = value
        if key == "ElementDataFile":
            return fields, end
    raise not_this(path, "MetaImage")


def _field(path: Path, fields: dict[str, str], kind: str) -> str | None:
    found = [name for name in NAMES[kind] if name in fields]
    if len(found) > 1:
        raise StudyError(f"{path}: {' and '.join(found)} both stand in its header. {FIX_HEADER}")
    return fields[found[0]] if found else None


def _dtype(path: Path, fields: dict[str, str]) -> np.dtype:
    name = fields.get("ElementType", "missing")
    if name.removeprefix("MET_") not in TYPES:
        raise StudyError(f"{path}: ElementType is {quoted(name)}, which holds no HU. Save it as MET_SHORT.")
    big = is_true(path, "its byte order", _field(path, fields, "big endian") or "False")
    return np.dtype(TYPES[name.removeprefix("MET_")]).newbyteorder(">" if big else "<")


def is_true(path: Path, name: str, text: str) -> bool:
    """Whether a field says True; raises StudyError where it says neither True nor False."""
    if text.lower() not in ("true", "false"):
        raise StudyError(f"{path}: {name} is {quoted(text)}, not True or False. {FIX_HEADER}")
    return text.lower() == "true"


def _affine(path: Path, fields: dict[str, str]) -> np.ndarray:
    found = {kind: _field(path, fields, kind) for kind in ("directions", "spacing", "offset")}
    for kind, text in found.items():
        if text is None:
            raise StudyError(f"{path}: {NAMED[kind]} is missing: how the patient lies is not known. Export it with it.")
    steps, matrix, origin = (
        numbers(path, NAMED[kind], str(found[kind]), count)
        for kind, count in (("spacing", 3), ("directions", 9), ("offset", 3))
    )
    if min(steps) <= 0:
        raise StudyError(f"{path}: ElementSpacing is {quoted(str(found['spacing']))}. {FIX_HEADER}")
    rows = np.reshape(matrix, (3, 3))
    if np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 0.01:
        raise StudyError(f"{path}: TransformMatrix holds no directions of length 1. {FIX_HEADER}")
    _check_letters(path, fields.get("AnatomicalOrientation", "???"), rows)
    affine = lps_to_ras((rows * np.array(steps)[:, None]).tolist(), origin)
    affine[:3] *= unit_mm(path, "DistanceUnits", fields.get("DistanceUnits", "mm"))
    return affine


def _check_letters(path: Path, letters: str, rows: np.ndarray) -> None:
    """Raise StudyError where the letters, of the sides that the axes come from, speak of other directions ``[3, 3]``.

    "?" is an axis of which they say nothing.
    """
    for letter, row in zip(letters, rows):
        axis, sign = AXES.get(letter, (0, 0))
        plain = np.abs(row).max() > PLAIN
        if letter != "?" and (sign == 0 or len(letters) != 3 or (plain and row[axis] * sign < PLAIN)):
            cause = f"AnatomicalOrientation is {quoted(letters)}, and TransformMatrix says otherwise"
            raise StudyError(f"{path}: {cause}. {FIX_HEADER}")


def _place(path: Path, fields: dict[str, str], end: int, header: Header) -> Header:
    """With the file, the place in it and the compression of the voxels."""
    name, packed = fields["ElementDataFile"], is_true(path, "CompressedData", fields.get("CompressedData", "False"))
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise StudyError(f"{path}: its voxels lie in several files. {AS_NIFTI}")
    local = name.upper() == "LOCAL"
    data, start = (path, end) if local else (data_beside(path, name), 0)
    (gap,) = integers(path, "HeaderSize", fields.get("HeaderSize", "0"), 1)
    if gap and (local or packed or gap < -1):
        raise StudyError(f"{path}: HeaderSize {gap} does not fit its data. {FIX_HEADER}")
    there = data.stat().st_size - start
    if packed and "CompressedDataSize" in fields:
        (declared,) = integers(path, "CompressedDataSize", fields["CompressedDataSize"], 1)
        if declared != there:
            raise StudyError(f"{path}: CompressedDataSize is {declared}, but {there} bytes are there. {FIX_HEADER}")
    start = max(there - header.bytes, 0) if gap == -1 else start + gap
    return Header(header.shape, header.dtype, header.affine, data, start, packed="zlib" if packed else "")
