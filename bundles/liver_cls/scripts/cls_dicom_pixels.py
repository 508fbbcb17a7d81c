# A copy of dicom_pixels.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""HU from the pixels of DICOM slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scripts.cls_dicom_codestream import UNDEFINED, codestream, is_lossy, pixels_alone
from scripts.cls_dicom_files import EXPLICIT, IMPLICIT, SEND_AGAIN, has_pydicom_2
from scripts.cls_dicom_padding import AIR, is_padding
from scripts.cls_dicom_slices import ORIGINAL, Layout, Slice
from scripts.cls_errors import StudyError

BIG_ENDIAN = ("1.2.840.10008.1.2.2", "1.2.840.113619.5.2")  # the second is GE's, of the pixels only
UNCOMPRESSED = (IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.1.99", *BIG_ENDIAN)  # the third is deflated
PIXEL_GROUP = 0x7FE0  # elements come in the order of their groups
WRAPPED = 10, 0.02  # pairs of neighbours that wrap around, and their share of those that differ in the bits above
SLACK = 16  # bytes after the pixels that some writers fill up with


def read_voxels(slices: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """HU ``[Z, Y, X]`` of sorted slices, each by its own slope and intercept, int16 or float32 where that loses; and
    whether each, ``[Z]``, was compressed with loss."""
    volume = np.empty((len(slices), slices[0].layout.rows, slices[0].layout.columns), np.int16)
    lossy = np.zeros(len(slices), bool)
    for i, one in enumerate(slices):
        hu, lossy[i] = slice_hu(one), is_lossy(one.header)
        if hu.dtype != np.int16 and volume.dtype == np.int16:
            volume = volume.astype(np.float32)
        volume[i] = hu
        del one.header.PixelData  # of which the volume is now a copy
    return volume, lossy


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


def raw_values(one: Slice) -> np.ndarray:
    """Integers ``[Y, X]`` of a slice as they lie in the file, unused bits and all; raises StudyError as `decoded`."""
    layout, syntax = one.layout, one.header.file_meta.TransferSyntaxUID
    if syntax not in UNCOMPRESSED or (syntax in BIG_ENDIAN and layout.allocated > 16):
        return decoded(one)
    data, order, kind = one.header.PixelData, ">" if syntax in BIG_ENDIAN else "<", "i" if layout.signed else "u"
    if order == ">" and layout.allocated == 8 and one.header["PixelData"].VR == "OW":  # swapped in words of 16 bits
        data = np.frombuffer(data, ">u2").astype("<u2")
    raw = np.frombuffer(data, f"{order}{kind}{layout.allocated // 8}", layout.rows * layout.columns)
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


def decoded(one: Slice) -> np.ndarray:
    """The same of a slice that is compressed, by ITK, whose codecs come with it.

    It is told that all bits are used, and nothing of scaling: else it cuts what BitsStored does not hold silently.

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
        with TemporaryDirectory() as folder:  # whose name is UTF-8, as ITK needs it
            Path(folder, "slice.dcm").write_bytes(pixels_alone(layout, header.file_meta.TransferSyntaxUID, data))
            values = itk.array_from_image(itk.imread(str(Path(folder, "slice.dcm")), itk.F))
        return values.reshape(shape).astype(f"{'i' if layout.signed else 'u'}{layout.allocated // 8}")
    except OSError as e:  # of the temporary folder
        cause = f"the folder for temporary files cannot be written to ({e.strerror or e})"
        raise StudyError(f"{header.filename}: {cause}. Free space, or set TMPDIR to a folder that has it.") from e
    except Exception as e:
        syntax = header.file_meta.TransferSyntaxUID.name
        raise StudyError(
            f"{header.filename}: pixels stored as {syntax} cannot be decoded (no decoder here, or damaged). "
            "Have the PACS send it uncompressed, or decompress it with gdcmconv --raw."
        ) from e
