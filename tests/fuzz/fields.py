"""Which field of a header lies where in a file, so that a mutant knows what it has changed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import nibabel as nib
from pydicom.datadict import keyword_for_tag

LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")  # types whose length takes four bytes
ITEM = (0xFFFE, 0xE000)
PIXELS = "pixels"


class Span(NamedTuple):
    """Bytes ``start`` to ``end`` of a file belong to a field."""

    start: int
    end: int
    field: str


@lru_cache(maxsize=64)
def spans(name: str, data: bytes) -> tuple[Span, ...]:
    """The fields of a file in the order of their bytes, by the file's name."""
    if name.endswith((".nii", ".nii.gz")):
        found = nifti_spans(data) if data[:2] != b"\x1f\x8b" else [Span(0, len(data), "gzip")]
    elif name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        found = text_spans(data, ": " if name.endswith((".nrrd", ".nhdr")) else " = ")
    elif name.endswith(".dcm"):
        found = dicom_spans(data)
    else:
        found = [Span(0, len(data), PIXELS)]
    return tuple(sorted(span for span in found if span.end > span.start))


def nifti_spans(data: bytes) -> list[Span]:
    """Each field of the header, the extension and the pixels."""
    found = []
    for field, (kind, offset) in nib.nifti1.header_dtype.fields.items():
        found.append(Span(offset, offset + kind.itemsize, field))
    return [*found, Span(348, 352, "extension"), Span(352, len(data), PIXELS)]


def text_spans(data: bytes, separator: str) -> list[Span]:
    """Each line's name and value, and the pixels. A line's end is its name's: without it the line is lost."""
    found, at = [], 0
    compressed = b"encoding: gzip" in data or b"CompressedData = True" in data
    while at < len(data):
        end = data.find(b"\n", at) + 1 or len(data)
        line = data[at:end].decode("ascii", "replace")
        if line == "\n":  # the end of an NRRD's header
            found.append(Span(at, end, "end of the header"))
            at = end
            break
        key, found_separator, _ = line.partition(separator)
        if not found_separator:
            found.append(Span(at, end, "comment"))
            at = end
            continue
        value = at + len(key) + len(found_separator)
        found += [Span(at, value, f"{key} (name)"), Span(value, end - 1, key), Span(end - 1, end, f"{key} (name)")]
        at = end
        if key == "ElementDataFile":
            break
    return [*found, Span(at, len(data), "compressed pixels" if compressed else PIXELS)]


def value_around(name: str, data: bytes, start: int, end: int) -> str | None:
    """The field of a text header whose value holds all of these bytes, so that without them it has another value."""
    if not name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        return None
    held = [span.field for span in spans(name, data) if span.start <= start and end <= span.end]
    return next((field for field in held if not field.endswith(("(name)", PIXELS, "header", "comment"))), None)


def dicom_spans(data: bytes) -> list[Span]:
    """Each element's value, and its tag, type and length; elements of sequences lie inside these."""
    return [Span(0, 128, "preamble"), Span(128, 132, "mark"), *element_spans(data, 132, len(data))]


def element_spans(data: bytes, at: int, end: int) -> Iterator[Span]:
    """Elements in explicit little endian, sequences and their items with a length, as pydicom writes them.

    pydicom tells where an element lies only outside of sequences.
    """
    while at < end:
        tag = struct.unpack_from("<HH", data, at)
        if tag == ITEM:
            yield Span(at, at + 8, "item (tag)")
            at += 8
            continue
        long = data[at + 4 : at + 6] in LONG
        size = struct.unpack_from("<I" if long else "<H", data, at + (8 if long else 6))[0]
        value, keyword = at + (12 if long else 8), keyword_for_tag(tag)
        yield Span(at, value, f"{keyword} (tag)")
        if data[at + 4 : at + 6] == b"SQ":
            yield from element_spans(data, value, value + size)
        else:
            yield Span(value, value + size, PIXELS if keyword == "PixelData" else keyword)
        at = value + size


def touched(name: str, data: bytes, start: int, end: int) -> tuple[set[str], int]:
    """The fields that bytes ``start`` to ``end`` lie in, and how many of the bytes are pixels."""
    fields, pixels = set(), 0
    for span in spans(name, data):
        overlap = min(end, span.end) - max(start, span.start)
        if overlap > 0:
            fields.add(span.field)
            pixels += overlap if span.field == PIXELS else 0
    return fields or {"between fields"}, pixels
