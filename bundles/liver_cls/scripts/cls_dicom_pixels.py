# A copy of dicom_pixels.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""HU from the pixels of DICOM slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scripts.cls_dicom_slices import Slice
from scripts.cls_errors import StudyError

if TYPE_CHECKING:
    import pydicom

SEND_AGAIN = "Send or copy this series again."
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")  # little endian; the last deflated


def read_voxels(slices: Sequence[Slice]) -> np.ndarray:
    """HU ``[Z, Y, X]`` of sorted slices, each by its own slope and intercept; int16, or float32 where int16 loses."""
    volume = np.empty((len(slices), slices[0].header.Rows, slices[0].header.Columns), np.int16)
    for i, one in enumerate(slices):
        hu = slice_hu(one)
        if hu.dtype != np.int16 and volume.dtype == np.int16:
            volume = volume.astype(np.float32)
        volume[i] = hu
        del one.header.PixelData  # of which the volume is now a copy
    return volume


def slice_hu(one: Slice) -> np.ndarray:
    """HU ``[Y, X]`` of a slice, int16 or float32; raises StudyError for pixels that are cut short or undecodable."""
    header, slope, intercept = one.header, one.slope, one.intercept
    stored = stored_values(header)
    if stored is None:
        return decode_hu(header)
    ends = [float(v) * slope + intercept for v in (stored.min(), stored.max())]
    fits_int16 = max(abs(v) for v in (slope, intercept, *ends)) < 2**15
    if not (slope.is_integer() and intercept.is_integer() and fits_int16):
        return (stored * np.float64(slope) + intercept).astype(np.float32)
    hu = stored.astype(np.int16)  # what wraps around here wraps back below, as the result fits
    if slope != 1:
        hu *= np.int16(slope)
    hu += np.int16(intercept)
    return hu


def stored_values(header: pydicom.Dataset) -> np.ndarray | None:
    """Stored integers ``[Y, X]`` of a slice in plain 16 bit, or None for other ways to store; raises StudyError."""
    syntax, bits = header.file_meta.get("TransferSyntaxUID"), header.BitsStored
    plain = header.BitsAllocated == 16 and header.HighBit == bits - 1
    if "PixelData" not in header or syntax is None:
        raise StudyError(f"{header.filename}: slice cannot be read (it holds no pixels). {SEND_AGAIN}")
    if not plain or syntax not in PLAIN:
        return None
    if len(header.PixelData) < 2 * header.Rows * header.Columns:
        raise StudyError(f"{header.filename}: slice cannot be read (its pixel data is cut short). {SEND_AGAIN}")
    signed = header.PixelRepresentation == 1
    stored = np.frombuffer(header.PixelData, "<i2" if signed else "<u2", header.Rows * header.Columns)
    unused = 16 - bits  # may hold an overlay, or lack the sign
    if unused:
        stored = np.right_shift(np.left_shift(stored, unused), unused)
    return stored.reshape(header.Rows, header.Columns)


def decode_hu(header: pydicom.Dataset) -> np.ndarray:
    """HU ``[Y, X]`` of a slice that is compressed or stored unusually, by ITK, whose codecs come with it.

    Raises:
        StudyError: there is no decoder, or the pixels are damaged.
    """
    import itk  # slow to import, and few series need it

    try:
        hu = itk.array_from_image(itk.imread(str(header.filename), itk.F)).reshape(header.Rows, header.Columns)
    except Exception as e:
        syntax = header.file_meta.TransferSyntaxUID.name
        raise StudyError(
            f"{header.filename}: pixels stored as {syntax} cannot be decoded (no decoder here, or damaged). "
            "Have the PACS send it uncompressed, or decompress it with gdcmconv --raw."
        ) from e
    whole = hu.clip(-(2**15), 2**15 - 1).astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu
