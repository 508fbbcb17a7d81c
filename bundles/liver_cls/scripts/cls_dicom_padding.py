# A copy of dicom_padding.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Padding around a slice's field of view, which is air whatever value it is written with."""

from __future__ import annotations

import numpy as np
from scripts.cls_dicom_files import value
from scripts.cls_dicom_slices import ORIGINAL, Layout, Slice
from scripts.cls_errors import StudyError

AIR = -1024  # HU, the lowest of most scanners
BODY = (-900, 3100)  # HU that are also found inside


def is_padding(one: Slice, raw: np.ndarray, stored: np.ndarray) -> np.ndarray | None:
    """Which pixels ``[Y, X]`` of a slice are padding; None for none.

    Args:
        one: the slice; PixelPaddingValue and PixelPaddingRangeLimit are often written with the other sign.
        raw: its pixels as they lie in the file.
        stored: the same without unused bits.
    """
    ends = padding_range(one)
    if ends is None:
        return None
    pixels = stored if all(_fits(end, one.layout) for end in ends) else raw
    return _outside(pixels, ends, one)


def padding_range(one: Slice) -> tuple[int, int] | None:
    """First and last value of padding, with the sign that the slice's pixels have; None where it has none."""
    first = _whole_number(value(one.header, "PixelPaddingValue"))
    if first is None:
        return None
    last = _whole_number(value(one.header, "PixelPaddingRangeLimit"))
    size, ends = 1 << one.layout.allocated, []
    for end in (first, first if last is None else last):
        end %= size
        ends.append(end - size if one.layout.signed and end >= size // 2 else end)
    return min(ends), max(ends)


def _whole_number(found: object) -> int | None:
    """An attribute as a number; where the file does not say its type, pydicom gives bytes."""
    if isinstance(found, bytes):
        return int.from_bytes(found, "little") if len(found) == 2 else None
    return found if isinstance(found, int) else None


def _fits(end: int, layout: Layout) -> bool:
    """Whether a value can be stored in the bits that are used."""
    size = 1 << (layout.stored - layout.signed)
    return -size * layout.signed <= end < size


def _outside(pixels: np.ndarray, ends: tuple[int, int], one: Slice) -> np.ndarray | None:
    """Pixels within ``ends``; of those that could be body too, the ones that hang together with the border.

    Raises:
        StudyError: body lies between ``ends``.
    """
    found = (pixels >= ends[0]) & (pixels <= ends[1])
    low, high = (end * one.slope + one.intercept for end in ends)
    if found.any() and low <= BODY[1] and high >= BODY[0]:
        if low < high:
            cause = f"by PixelPaddingRangeLimit {low:g} to {high:g} HU are padding, which a body holds, too"
            raise StudyError(f"{one.header.filename}: {cause}. {ORIGINAL}")
        found = _from_border(found)
    return found if found.any() else None


def _from_border(found: np.ndarray) -> np.ndarray:
    """The parts of a mask ``[Y, X]`` that touch its border."""
    from scipy.ndimage import label

    parts, _ = label(found)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return np.isin(parts, border[border > 0])
