# A copy of dicom_pixels.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""HU from the pixels of DICOM slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scripts.seg_dicom_codestream import codestream
from scripts.seg_dicom_files import EXPLICIT, IMPLICIT, SEND_AGAIN, has_pydicom_2, value
from scripts.seg_dicom_padding import AIR, is_padding, is_padding_hu
from scripts.seg_dicom_slices import ORIGINAL, Layout, Slice
from scripts.seg_errors import StudyError

BIG_ENDIAN = "1.2.840.10008.1.2.2"
UNCOMPRESSED = (IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.1.99", BIG_ENDIAN)  # the third is deflated
UNDEFINED = 0xFFFFFFFF  # length of compressed pixels
PIXEL_GROUP = 0x7FE0  # elements come in the order of their groups
WRAPPED = 10, 0.02  # pairs of neighbours that wrap around, and their share of those that differ in the bits above
SLACK = 16  # bytes after the pixels that some writers fill up with


def read_voxels(slices: Sequence[Slice]) -> np.ndarray:
    """HU ``[Z, Y, X]`` of sorted slices, each by its own slope and intercept; int16, or float32 where int16 loses."""
    volume = np.empty((len(slices), slices[0].layout.rows, slices[0].layout.columns), np.int16)
    for i, one in enumerate(slices):
        hu = slice_hu(one)
        if hu.dtype != np.int16 and volume.dtype == np.int16:
            volume = volume.astype(np.float32)
        volume[i] = hu
        del one.header.PixelData  # of which the volume is now a copy
    return volume


def check_pixels(one: Slice) -> None:
    """Raise StudyError unless a slice's file holds the pixels that its header declares."""
    header, layout = one.header, one.layout
    path, syntax = header.filename, header.file_meta.get("TransferSyntaxUID")
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        raise StudyError(f"{path}: pixels that are floating-point numbers, which are not read here. {ORIGINAL}")
    if "PixelData" not in header:
        raise StudyError(f"{path}: slice cannot be read (it holds no pixels). {SEND_AGAIN}")
    element = header.get_item("PixelData", **({} if has_pydicom_2() else {"keep_deferred": True}))
    packed = element.is_undefined_length if hasattr(element, "is_undefined_length") else element.length == UNDEFINED
    if packed or syntax not in UNCOMPRESSED:
        if packed and (syntax is None or syntax in UNCOMPRESSED):
            raise StudyError(f"{path}: its pixels are compressed, it does not say how. {ORIGINAL}")
        if not packed and element.value is None and element.value_tell + element.length > Path(path).stat().st_size:
            raise StudyError(f"{path}: slice cannot be read (the length of its pixel data is damaged). {SEND_AGAIN}")
        return
    held = len(element.value) if element.value is not None else element.length
    if element.value is None:  # deferred: not read yet
        held = min(held, Path(path).stat().st_size - element.value_tell)
    declared = layout.rows * layout.columns * layout.allocated // 8
    if held < declared:
        raise StudyError(f"{path}: slice cannot be read (its pixel data is cut short). {SEND_AGAIN}")
    if held > declared + SLACK:
        size = f"{layout.rows} x {layout.columns} pixels of {layout.allocated} bits"
        raise StudyError(f"{path}: {held} bytes of pixel data, but {size}. {ORIGINAL}")
    if syntax in (IMPLICIT, EXPLICIT) and hasattr(element, "value_tell"):
        _check_end(Path(path), element.value_tell + element.length)


def _check_end(path: Path, end: int) -> None:
    """Raise StudyError where what follows the pixels is no element that may: bytes were put in before, or a file."""
    with path.open("rb") as file:
        file.seek(end)
        tag, rest = file.read(4), file.read(128)
    if rest.endswith(b"DICM"):
        raise StudyError(f"{path}: another DICOM file follows in it, as where two were joined. {SEND_AGAIN}")
    if tag.strip(b"\0") and int.from_bytes(tag[:2], "little") < PIXEL_GROUP:  # some files are filled up with zeros
        raise StudyError(f"{path}: slice cannot be read (bytes that are no element follow its pixels). {SEND_AGAIN}")


def slice_hu(one: Slice) -> np.ndarray:
    """HU ``[Y, X]`` of a slice, int16 or float32, with air for padding.

    Raises:
        StudyError: its pixels cannot be decoded, or are no HU.
    """
    raw = raw_values(one)
    if raw is None:
        hu = decode_hu(one)
        outside = is_padding_hu(one, hu)
    else:
        stored = without_unused_bits(raw, one.layout)
        if goes_on_above(raw, stored, one.layout):
            bits = f"BitsStored {one.layout.stored} is too few for its values, which go on in the bits above"
            raise StudyError(f"{one.header.filename}: {bits}. {ORIGINAL}")
        outside = is_padding(one, raw, stored)
        if outside is not None:  # so that it widens no range
            stored = np.where(outside, stored.min(where=~outside, initial=stored.max()), stored)
        hu = rescaled(stored, one)
    if outside is not None:
        hu[outside] = AIR
    if hu.dtype != np.int16 and not -(2**15) <= hu.min() <= hu.max() < 2**15:
        raise StudyError(f"{one.header.filename}: values of {hu.min():g} to {hu.max():g} HU, beyond a CT's. {ORIGINAL}")
    return hu


def rescaled(stored: np.ndarray, one: Slice) -> np.ndarray:
    """HU ``[Y, X]`` of stored integers: int16 where all fit, else float32."""
    slope, intercept = one.slope, one.intercept
    ends = [float(v) * slope + intercept for v in (stored.min(), stored.max())]
    fits_int16 = max(abs(v) for v in (slope, intercept, *ends)) < 2**15
    if not (slope.is_integer() and intercept.is_integer() and fits_int16):
        return (stored * np.float64(slope) + intercept).astype(np.float32)
    hu = stored.astype(np.int16)  # what wraps around here wraps back below, as the result fits
    if slope != 1:
        hu *= np.int16(slope)
    hu += np.int16(intercept)
    return hu


def raw_values(one: Slice) -> np.ndarray | None:
    """Integers ``[Y, X]`` of a slice as they lie in the file, or None where they are compressed."""
    layout, syntax = one.layout, one.header.file_meta.TransferSyntaxUID
    if syntax not in UNCOMPRESSED or (syntax == BIG_ENDIAN and layout.allocated != 16):
        return None
    order, kind = ">" if syntax == BIG_ENDIAN else "<", "i" if layout.signed else "u"
    raw = np.frombuffer(one.header.PixelData, f"{order}{kind}{layout.allocated // 8}", layout.rows * layout.columns)
    return raw.reshape(layout.rows, layout.columns)


def without_unused_bits(raw: np.ndarray, layout: Layout) -> np.ndarray:
    """Stored integers ``[Y, X]``: bits above or below those that are used may hold an overlay, or lack the sign."""
    unused, above = layout.allocated - layout.stored, layout.allocated - 1 - layout.high
    return np.right_shift(np.left_shift(raw, above), unused) if unused else raw


def goes_on_above(raw: np.ndarray, stored: np.ndarray, layout: Layout) -> bool:
    """Whether the bits above those that are used go on where these wrap around, unlike an overlay or what is left over.

    ``raw`` and ``stored`` ``[Y, X]``, before and after ``without_unused_bits``.
    """
    if layout.high + 1 == layout.allocated or np.array_equal(raw, stored):
        return False
    whole = np.right_shift(raw, layout.high + 1 - layout.stored).astype(np.int64)
    above, changes, wrapped = whole - stored, 0, 0
    for axis in (0, 1):
        changed = np.diff(above, axis=axis) != 0
        changes += np.count_nonzero(changed)
        wrapped += np.count_nonzero(np.abs(np.diff(whole, axis=axis)[changed]) < 2 ** (layout.stored - 1))
    return wrapped >= WRAPPED[0] and wrapped > WRAPPED[1] * changes


def decode_hu(one: Slice) -> np.ndarray:
    """HU ``[Y, X]`` of a slice that is compressed, by ITK, whose codecs come with it.

    Raises:
        StudyError: there is no decoder, or the pixels are damaged, lie in other bits than the lowest or are of another
            size than declared.
    """
    import itk  # slow to import, and few series need it

    header, layout, shape = one.header, one.layout, (one.layout.rows, one.layout.columns)
    if layout.allocated > 16 or layout.high != layout.stored - 1:
        bits = f"BitsAllocated {layout.allocated}, BitsStored {layout.stored} and HighBit {layout.high}"
        cause = f"{bits}, which are not read here in pixels stored as {header.file_meta.TransferSyntaxUID.name}"
        raise StudyError(f"{header.filename}: {cause}. Have the PACS send it as Explicit VR Little Endian.")
    data = codestream(header)
    try:
        with name_for_itk(Path(header.filename), header.PixelData, data) as name:
            hu = itk.array_from_image(itk.imread(name, itk.F)).reshape(shape)
    except Exception as e:
        syntax = header.file_meta.TransferSyntaxUID.name
        raise StudyError(
            f"{header.filename}: pixels stored as {syntax} cannot be decoded (no decoder here, or damaged). "
            "Have the PACS send it uncompressed, or decompress it with gdcmconv --raw."
        ) from e
    if value(header, "PhotometricInterpretation") == "MONOCHROME1":  # black is high: ITK turns the stored values over
        highest = -1 if one.layout.signed else 2**one.layout.stored - 1
        hu = (one.slope * highest + 2 * one.intercept - hu.astype(np.float64)).astype(np.float32)
    whole = hu.clip(-(2**15), 2**15 - 1).astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu


@contextmanager
def name_for_itk(path: Path, pixels: bytes, data: bytes) -> Iterator[str]:
    """The name of a file that holds ``data`` for its ``pixels``: itself, or a copy in a temporary folder.

    ITK takes names in UTF-8 only.
    """
    try:
        str(path).encode()
        readable = data == pixels
    except UnicodeEncodeError:
        readable = False
    if readable:
        yield str(path)
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder, "slice.dcm")
        copy.write_bytes(path.read_bytes().replace(pixels, data, 1))
        yield str(copy)
