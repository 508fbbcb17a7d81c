# A copy of dicom_files.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""DICOM files: told by their content, read, and missed where one of a folder's slices is none."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from scripts.cls_errors import StudyError

if TYPE_CHECKING:
    import pydicom

SEND_AGAIN = "Send or copy this series again."
DEFER = 2**14  # bytes; longer values, the pixels, are read when they are asked for
ZEROS = 1000  # elements of nothing, a tag of 0 each
SUFFIXES = (".dcm", ".ima")
UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".gz", ".bz2", ".zip")
GZIP = b"\x1f\x8b"
DEFLATED = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"  # TransferSyntaxUID as it lies in a file
CHUNK, INFLATED = 2**20, 2**28  # bytes; a slice of 4096 x 4096 has 2**25
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"  # transfer syntaxes, little endian


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by suffix or first bytes: series often have no suffix, damaged slices no mark."""
    if not path.is_file() or path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    return path.suffix.lower() in SUFFIXES or has_dicom_mark(path)


def has_dicom_mark(path: Path) -> bool:
    """Whether a file's first bytes are those of DICOM, with preamble or without."""
    head = _head(path, 132)
    return head[128:] == b"DICM" or _is_bare(head)


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _is_bare(head: bytes) -> bool:
    """Whether a file begins with its first attribute, of group 2 or 8, as old archives write it."""
    if len(head) < 132 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    length = int.from_bytes(head[6:8] if explicit else head[4:8], "little")
    return length % 2 == 0 and length < 1024


def files_in(folder: Path) -> Iterator[Path]:
    """What a folder holds, by name, without its folders, hidden files and DICOMDIR."""
    for path in sorted(folder.iterdir()):
        if not (path.is_dir() or path.name.startswith(".") or path.name.upper() == "DICOMDIR"):
            yield path


def read_dicom(path: Path) -> pydicom.Dataset:
    """A DICOM file with its pixels, its transfer syntax said where it lacked; raises StudyError."""
    import pydicom  # slow to import, and NIfTI does without

    try:
        try:
            header = read_elements(path)
        except pydicom.errors.InvalidDicomError:
            if path.stat().st_size == 0:
                raise ValueError("the file is empty") from None
            if _head(path, 2) == GZIP:
                raise ValueError("it is packed with gzip: unpack it first") from None
            if not has_dicom_mark(path):
                raise
            header = read_elements(path, force=True)
        if not any(name in header for name in ("SeriesInstanceUID", "PixelData", "DirectoryRecordSequence")):
            raise ValueError("it is cut short")
    except PermissionError:  # no fault of the file's
        raise
    except MemoryError:  # only the header is read here, and that is small
        raise StudyError(f"{path}: slice cannot be read (a length in it is damaged). {SEND_AGAIN}") from None
    except Exception as e:
        cause = str(e).splitlines()[0][:80] if type(e) is ValueError else "not a complete DICOM file"
        cause = e.strerror or cause if isinstance(e, OSError) and e.errno else cause
        raise StudyError(f"{path}: slice cannot be read ({cause}). {SEND_AGAIN}") from e
    old = has_pydicom_2()
    implicit, little = (header.is_implicit_VR, header.is_little_endian) if old else header.original_encoding
    if not header.file_meta.get("TransferSyntaxUID") and little:
        header.file_meta.TransferSyntaxUID = IMPLICIT if implicit else EXPLICIT
    return header


def read_elements(path: Path, force: bool = False) -> pydicom.Dataset:
    """As pydicom's dcmread, but a file filled with zeros is a ValueError: each eight would be read as an element of
    nothing, for minutes."""
    from pydicom.filereader import read_partial

    seen = itertools.count()

    def filled_with_zeros(tag: int, _vr: str | None, _length: int) -> bool:
        if tag == 0 and next(seen) > ZEROS:
            raise ValueError("it is filled with zeros")
        return False

    with path.open("rb") as file:
        if file.read(140)[128:] == b"DICM" + bytes(8):
            raise ValueError("it is filled with zeros")
        _check_inflated(file)
        file.seek(0)
        return read_partial(file, filled_with_zeros, defer_size=DEFER, force=force)


def _check_inflated(file: BinaryIO) -> None:
    """Raise ValueError where a deflated data set becomes larger than any slice: pydicom inflates all of it at once."""
    file.seek(0)
    head = file.read(1024)
    if DEFLATED not in head:
        return
    file.seek(144 + int.from_bytes(head[140:144], "little"))  # behind the file meta, whose length comes first
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while packed := inflate.unconsumed_tail or file.read(CHUNK):
        size += len(inflate.decompress(packed, CHUNK))
        if size > INFLATED:
            raise ValueError(f"deflated, and more than {INFLATED >> 20} MB large")


def has_pydicom_2() -> bool:
    """Whether pydicom is of version 2, which MONAI Label needs; the bundles take 3, too."""
    import pydicom

    return pydicom.__version__.startswith("2.")


def sop_class(header: pydicom.Dataset) -> str:
    """UID of what kind of object this is, from the file meta where the data set lacks it; else empty."""
    return str(value(header, "SOPClassUID") or value(header.file_meta, "MediaStorageSOPClassUID") or "")


def value(header: pydicom.Dataset, name: str) -> Any:
    """An attribute, or None where it is missing, blank or cannot be understood."""
    try:
        found = header.get(name)
    except Exception:  # whatever the bytes of one attribute make pydicom raise
        return None
    return None if found is None or found == "" else found


def check_companions(slices: Iterable[Path], others: Iterable[Path]) -> None:
    """Raise StudyError for one of the other files that is named like the slices: cut off, lost, or foreign."""
    namings = {naming(path.name) for path in slices}
    for path in others:
        if naming(path.name) in namings:
            raise StudyError(f"{path}: {_why_no_dicom(path)}, but named like the slices beside it. {SEND_AGAIN}")


def naming(name: str) -> str:
    """What the names of a series' slices share: their numbers become ``#``, and what marks an unfinished copy goes."""
    name = name.lower()
    for ending in UNFINISHED:
        name = name.removesuffix(ending)
    if found := re.fullmatch("([g-p]+-)?[0-9a-f-]{6,}", name):  # hexadecimal, a UUID; letters of a folder in a zip
        return f"{found[1] or ''}#"
    return re.sub(r"#([._-]#)+", "#", re.sub("[0-9]+", "#", name))


def _why_no_dicom(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return "a link to a file that is not there"
    if not path.is_file():
        return "not a file"
    return "not DICOM" if path.stat().st_size else "the file is empty"
