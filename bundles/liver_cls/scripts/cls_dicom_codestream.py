# A copy of dicom_codestream.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Compressed pixels: one image in one piece, of the size that the header declares."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from scripts.cls_dicom_files import SEND_AGAIN, value
from scripts.cls_dicom_slices import ORIGINAL, Layout
from scripts.cls_errors import StudyError

if TYPE_CHECKING:
    import pydicom

ITEM, END_OF_ITEMS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
UNDEFINED = 0xFFFFFFFF  # length of compressed pixels
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers after which JPEG and JPEG-LS say their size
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}  # those of them that JPEG is without loss after
JPEG_LS, SCAN, CODING = 0xF7, 0xDA, 0x52  # markers: a frame of JPEG-LS, what follows a frame, how JPEG 2000 is coded
JPEG_SYNTAXES = "1.2.840.10008.1.2.4."  # begin so


def codestream(header: pydicom.Dataset) -> bytes:
    """Compressed pixels as they lie in a file, the fragments of the image joined to one.

    ITK's decoders do not read fragments that end anywhere, and fill or cut an image of another size silently.

    Raises:
        StudyError: they do not hang together, are several images, or say that they have other Rows and Columns.
    """
    path, data = header.filename, header.PixelData
    if data.startswith(ITEM):
        items = items_of(data)
        if items is None:
            raise StudyError(f"{path}: slice cannot be read (its compressed pixels are damaged). {SEND_AGAIN}")
        if len(items[0]) > 4 or sum(item.startswith((JPEG, JPEG_2000)) for item in items[1:]) > 1:
            raise StudyError(f"{path}: several compressed images in one slice. {ORIGINAL}")
        if len(items) > 2:
            image = b"".join(items[1:])
            data = ITEM + bytes(4) + ITEM + len(image).to_bytes(4, "little") + image
    head = data[:4096]
    size, declared = jpeg_2000_size(head) or jpeg_size(head), (header.Rows, header.Columns)
    if size not in (None, declared):
        raise StudyError(f"{path}: compressed pixels of {size}, but Rows and Columns are {declared}. {ORIGINAL}")
    # Below zero it wraps around; files that are wrong the other way round exist, and each value's bits are right.
    if jpeg_2000_signed(head) and header.PixelRepresentation == 0:
        cause = "compressed pixels that have signs, though PixelRepresentation is 0"
        raise StudyError(f"{path}: {cause}. {ORIGINAL}")
    return data


def items_of(data: bytes) -> list[bytes] | None:
    """Offset table and fragments of encapsulated pixels; None unless they lie end to end.

    ITK takes as much memory as one says it is long.
    """
    at, items = 0, []
    while data[at : at + 4] == ITEM:
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        items.append(data[at + 8 : end])
        at = end
    return items if at == len(data) or data[at : at + 4] == END_OF_ITEMS else None


def jpeg_2000_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of the first JPEG 2000 image in encapsulated pixels, or None."""
    at = data.find(JPEG_2000)
    if at < 0 or len(data) < at + 24:
        return None
    width, height, left, top = (int.from_bytes(data[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
    return height - top, width - left


def jpeg_2000_signed(data: bytes) -> bool:
    """Whether encapsulated pixels hold a JPEG 2000 image, and the first says that its values have signs."""
    at = data.find(JPEG_2000)
    return at >= 0 and data[at + 42 : at + 43] >= b"\x80"


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of the first JPEG or JPEG-LS image in encapsulated pixels, or None."""
    for marker, said in _segments(data, data.find(JPEG + b"\xff")):
        if marker in FRAMES and len(said) >= 5:
            return int.from_bytes(said[1:3], "big"), int.from_bytes(said[3:5], "big")
    return None


def is_lossy(header: pydicom.Dataset) -> bool:
    """Whether a slice's values were changed by its compression, now or before, by its header or its pixels."""
    flag, methods = (
        value(header, "LossyImageCompression"),
        ("LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    )
    if flag == "01" or (flag is None and any(value(header, name) is not None for name in methods)):
        return True
    if not str(header.file_meta.get("TransferSyntaxUID")).startswith(JPEG_SYNTAXES):
        return False
    data = codestream(header)
    return wavelet_is_lossy(data) or jpeg_is_lossy(data)


def wavelet_is_lossy(data: bytes) -> bool:
    """Whether encapsulated pixels hold a JPEG 2000 image by the wavelet that loses, 9-7."""
    coded = (said for marker, said in _segments(data, data.find(JPEG_2000)) if marker == CODING)
    return next(coded, b"")[9:10] == b"\0"


def jpeg_is_lossy(data: bytes) -> bool:
    """Whether encapsulated pixels hold a JPEG image that loses, or one of JPEG-LS whose values may be off by some."""
    frame = None
    for marker, said in _segments(data, data.find(JPEG + b"\xff")):
        frame = marker if marker in FRAMES else frame
        if marker == SCAN:  # ends in NEAR, and two bytes more
            return frame not in LOSSLESS if frame != JPEG_LS else said[-3:-2] > b"\0"
    return False


def _segments(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Markers of a JPEG, JPEG-LS or JPEG 2000 image that begins at ``start``, -1 for none, and what each says."""
    at = start + 2
    while 2 <= at <= len(data) - 4 and data[at] == 0xFF:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : end]
        at = end


def pixels_alone(layout: Layout, syntax: str, data: bytes) -> bytes:
    """A DICOM file of compressed pixels and of what it takes to decode all of their bits."""
    bits = layout.allocated
    numbers = [
        (0x0002, 1), (0x0010, layout.rows), (0x0011, layout.columns), (0x0100, bits), (0x0101, bits),
        (0x0102, bits - 1), (0x0103, layout.signed),
    ]  # fmt: skip
    meta = _element(0x0002, 0x0010, b"UI", syntax.encode())
    said = [_element(0x0028, element, b"US", struct.pack("<H", number)) for element, number in numbers]
    said.insert(1, _element(0x0028, 0x0004, b"CS", b"MONOCHROME2"))
    in_items = data.startswith(ITEM)
    end = END_OF_ITEMS + bytes(4) if in_items and not data.endswith(END_OF_ITEMS + bytes(4)) else b""
    pixels = struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", UNDEFINED if in_items else len(data)) + data + end
    length = _element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta)))
    return b"".join([bytes(128), b"DICM", length, meta, *said, pixels])


def _element(group: int, element: int, kind: bytes, value: bytes) -> bytes:
    """An element in explicit VR, little endian."""
    value += (b"\0" if kind == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, kind, len(value)) + value
