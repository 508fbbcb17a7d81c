# A copy of headers_nrrd.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""NRRD headers (.nrrd, .nhdr).

ITK's parser ends the process on some damaged headers, and follows a header to any file of the system.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from scripts.seg_errors import StudyError
from scripts.seg_headers import (
    AS_NIFTI,
    FIX_HEADER,
    NUMBER,
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

LONGEST = 2**20  # bytes of a header; exports with the tags of every slice have some 100,000
TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
CODES = {name: code for code, names in TYPES.items() for name in names.split(", ")}
TO_LPS = {  # signs of a space's axes in LPS
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
KINDS = {"domain", "space", "???", "none"}  # of axes in space
PACKED = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
NAMES = (  # all that there are; a program's own have := behind them
    "content", "number", "type", "block size", "dimension", "space", "space dimension", "sizes", "spacings",
    "thicknesses", "axis mins", "axis maxs", "centers", "centerings", "labels", "units", "kinds", "min", "max",
    "old min", "old max", "data file", "endian", "encoding", "line skip", "byte skip", "sample units", "space units",
    "space origin", "space directions", "measurement frame",
)  # fmt: skip
SPELLINGS = {name.replace(" ", ""): name for name in NAMES}
VECTOR = rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*,\s*{NUMBER}\s*\)"


def read_nrrd(path: Path) -> Header:
    """The header of an NRRD.

    Raises:
        StudyError: fields that are missing, contradict each other or cannot be used.
    """
    fields, end = _fields(path)
    shape = sizes(path, "sizes", fields.get("sizes", ""))
    if (dimension := fields.get("dimension", "missing")) != "3":
        raise StudyError(f"{path}: dimension is {quoted(dimension)}, but it has 3 sizes. {FIX_HEADER}")
    if others := {*fields.get("kinds", "").lower().split()} - KINDS:
        raise StudyError(
            f"{path}: an axis of kind {quoted(min(others))} (time, colours or vectors). Give one CT volume."
        )
    if {"old min", "old max"} & {*fields}:
        raise StudyError(f"{path}: old min or old max say that its values were mapped. Give the CT in HU.")
    check_attribute(path, "sample units", fields.get("sample units", ""))
    dtype, affine = _dtype(path, fields), _affine(path, fields)
    encoding = fields.get("encoding", "missing").lower()
    if encoding not in PACKED:
        raise StudyError(f"{path}: encoding {quoted(encoding)} is not read here. {AS_NIFTI}")
    return _place(path, fields, end, Header(shape, dtype, affine, path, packed=PACKED[encoding]))


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields, and the bytes up to the empty line that ends it (or the file)."""
    text = read_start(path, LONGEST)
    if not re.match(rb"NRRD000[1-5]\r?\n", text):
        raise not_this(path, "NRRD")
    end = re.search(rb"\r?\n\r?\n", text)
    if end is None and len(text) == LONGEST:
        raise not_this(path, "NRRD")
    fields: dict[str, str] = {}
    for number, line in enumerate(re.split("\r?\n", text[: end.start() if end else None].decode("latin-1")), 1):
        if number == 1:  # the mark
            continue
        name, value = _field(path, number, line)
        if name in fields:
            raise StudyError(f"{path}: {name!r} stands twice in its header. {FIX_HEADER}")
        if name:
            fields[name] = value
        if name == "data file" and value.split()[:1] == ["LIST"]:  # names of files follow
            break
    return fields, end.end() if end else len(text)


def _field(path: Path, number: int, line: str) -> tuple[str, str]:
    """Name and value of a line; both are empty for a comment, and for a pair of a program's own, ``name:=value``."""
    key, pair, value = line.partition(":=")
    if not line.strip() or line.startswith("#") or (pair and ": " not in key):
        check_attribute(path, key, value)
        return "", ""
    check_line(path, number, line)
    key, _, value = line.partition(": ")
    name = SPELLINGS.get(key.strip().lower().replace(" ", ""))
    if name is None:
        raise StudyError(f"{path}: line {number} of its header is none of NRRD's. {FIX_HEADER}")
    return name, value.strip()


def _dtype(path: Path, fields: dict[str, str]) -> np.dtype:
    name = fields.get("type", "missing").lower()
    if name not in CODES:
        raise StudyError(f"{path}: type {quoted(name)} holds no HU. Save it as short.")
    dtype = np.dtype(CODES[name])
    order = fields.get("endian", "missing" if dtype.itemsize > 1 else "little").lower()
    if order not in ("little", "big"):
        raise StudyError(f"{path}: endian is {quoted(order)}, not little or big. {FIX_HEADER}")
    return dtype.newbyteorder(">" if order == "big" else "<")


def _affine(path: Path, fields: dict[str, str]) -> np.ndarray:
    space = fields.get("space", "").lower()
    missing = [name for name in ("space directions", "space origin") if name not in fields]
    missing = missing if space in TO_LPS else [f"a space of the patient (it is {quoted(space)})"]
    if missing:
        raise StudyError(f"{path}: {missing[0]} is needed: how the patient lies is not known. Export it with it.")
    directions, (origin,) = _vectors(path, "space directions", fields, 3), _vectors(path, "space origin", fields, 1)
    _check_spacings(path, fields, directions)
    columns = [[step * sign for step, sign in zip(direction, TO_LPS[space])] for direction in directions]
    affine = lps_to_ras(columns, [place * sign for place, sign in zip(origin, TO_LPS[space])])
    units = {unit_mm(path, "space units", unit) for unit in fields.get("space units", "mm").split()}
    if len(units) != 1:
        raise StudyError(f"{path}: space units differ between its axes. {FIX_HEADER}")
    affine[:3] *= units.pop()
    return affine


def _vectors(path: Path, name: str, fields: dict[str, str], count: int) -> list[list[float]]:
    """Vectors as they must be written, ``(1,0,0) (0,1,0)``, else StudyError."""
    text = fields[name]
    if not re.fullmatch(rf"({VECTOR}\s*){{{count}}}", text, re.ASCII):
        raise StudyError(f"{path}: {name} is not {3 * count} finite numbers ({quoted(text)}). {FIX_HEADER}")
    found = numbers(path, name, re.sub("[(),]", " ", text), 3 * count)
    return [found[i : i + 3] for i in range(0, 3 * count, 3)]


def _check_spacings(path: Path, fields: dict[str, str], directions: list[list[float]]) -> None:
    """Raise StudyError where what also tells of the voxels' sizes or of the space says otherwise."""
    if fields.get("space dimension", "3") != "3":
        raise StudyError(f"{path}: space dimension is {quoted(fields['space dimension'])}, not 3. {FIX_HEADER}")
    if "spacings" not in fields or set(fields["spacings"].lower().split()) == {"nan"}:
        return
    spacings = numbers(path, "spacings", fields["spacings"], 3)
    if not np.allclose(spacings, np.linalg.norm(directions, axis=1), rtol=0.01):
        raise StudyError(f"{path}: spacings and space directions speak of other voxel sizes. {FIX_HEADER}")


def _place(path: Path, fields: dict[str, str], end: int, header: Header) -> Header:
    """With the file and the place in it of the voxels."""
    name = fields.get("data file")
    if name is not None and (name.split()[:1] == ["LIST"] or re.search(r"%\d*d", name)):
        raise StudyError(f"{path}: its voxels lie in several files. {AS_NIFTI}")
    data, start = (path, end) if name is None else (data_beside(path, name), 0)
    (lines,) = integers(path, "line skip", fields.get("line skip", "0"), 1)
    (skip,) = integers(path, "byte skip", fields.get("byte skip", "0"), 1)
    if lines or skip < -1 or (skip and header.packed):
        raise StudyError(f"{path}: line skip {lines} and byte skip {skip} are not read here. {AS_NIFTI}")
    if skip == -1:  # the voxels are the end of the file
        start, skip = max(data.stat().st_size - header.bytes, start), 0
    return Header(header.shape, header.dtype, header.affine, data, start + skip, packed=header.packed)
