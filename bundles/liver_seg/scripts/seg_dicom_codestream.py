# A copy of dicom_codestream.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""The size that compressed pixels have of themselves, which must be the one that the header declares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.seg_dicom_files import SEND_AGAIN
from scripts.seg_errors import StudyError

if TYPE_CHECKING:
    import pydicom

ITEM, END_OF_ITEMS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers after which JPEG and JPEG-LS say their size


def check_codestream(header: pydicom.Dataset) -> None:
    """Raise StudyError where compressed pixels do not hang together, or say that they have other Rows and Columns.

    ITK's decoders fill or cut such an image silently.
    """
    if not are_items(header.PixelData):
        raise StudyError(f"{header.filename}: slice cannot be read (its compressed pixels are damaged). {SEND_AGAIN}")
    data = bytes(header.PixelData[:4096])
    size, declared = jpeg_2000_size(data) or jpeg_size(data), (header.Rows, header.Columns)
    if size not in (None, declared):
        fix = "Give the scanner's original series."
        raise StudyError(f"{header.filename}: compressed pixels of {size}, but Rows and Columns are {declared}. {fix}")


def are_items(data: bytes) -> bool:
    """Whether encapsulated pixels are items that lie end to end; ITK takes as much memory as one says it is long."""
    at = 0
    while data[at : at + 4] == ITEM:
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    return not data.startswith(ITEM) or at == len(data) or data[at : at + 4] == END_OF_ITEMS


def jpeg_2000_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of the first JPEG 2000 image in encapsulated pixels, or None."""
    at = data.find(JPEG_2000)
    if at < 0 or len(data) < at + 24:
        return None
    width, height, left, top = (int.from_bytes(data[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
    return height - top, width - left


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of the first JPEG or JPEG-LS image in encapsulated pixels, or None."""
    at = data.find(JPEG + b"\xff") + 2
    while 2 <= at <= len(data) - 9 and data[at] == 0xFF:
        if data[at + 1] in FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
