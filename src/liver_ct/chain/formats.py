"""What a file in the input folder is, by its name and by the mark in its first bytes."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
NOT_READ = (  # of images, too
    *(".hdr", ".img", ".hdr.gz", ".img.gz", ".nia", ".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".mha.gz"),
    *(".nrrd.gz", ".mgh", ".mgz", ".mnc", ".mif", ".mif.gz", ".mih", ".gipl", ".gipl.gz", ".vtk", ".vti"),
    *(".dcm.gz", ".dcm.bz2", ".dcm.zip"),
)
DEFLATED = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"  # TransferSyntaxUID as it lies in a DICOM file
HEAD = 8192  # bytes that hold every mark, also deflated
GZIP = b"\x1f\x8b"
DICOM, PAIR = "DICOM", "an Analyze or NIfTI pair"
UNDER_THEIR_NAMES = "Give it its own suffix, one of " + " ".join(SUFFIXES) + "."
CONVERT = "Convert it to .nii.gz."


def why_not_read(path: Path) -> str | None:
    """Cause and fix where a file looks like an image and its name is not one that is read; None for any other file.

    Raises:
        OSError: it cannot be read.
    """
    found = format_of(path)
    if path.name.startswith("."):
        return f"{found}, hidden by the dot that its name begins with. Rename it." if found else None
    if path.name.lower().endswith(NOT_READ):
        return f"{found or 'an image'} of a format that is not read. {CONVERT}"
    if found == PAIR:
        return f"{found}, which is not read. {CONVERT}"
    if found == DICOM:
        return "DICOM in gzip, which is not read. Unpack it." if _head(path).startswith(GZIP) else None
    return f"{found}, but its name does not say so. {UNDER_THEIR_NAMES}" if found else None


def format_of(path: Path) -> str | None:
    """The image format whose mark a file bears, also in gzip; raises OSError."""
    return format_of_bytes(_head(path))


def format_of_bytes(head: bytes) -> str | None:
    """The image format whose mark a file's first bytes bear, of which HEAD are enough."""
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, HEAD)
        except zlib.error:
            return None
    if _is_dicom(head):
        return DICOM
    if head.startswith(b"NRRD000"):
        return "NRRD"
    if re.match(rb"\s*(ObjectType|NDims)\s*=", head):
        return "MetaImage"
    return _nifti_or_analyze(head)


def _nifti_or_analyze(head: bytes) -> str | None:
    """By the header's size, which it begins with, and the mark at its end."""
    sizes = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    if 540 in sizes and head[4:7] in (b"n+2", b"ni2"):
        return "NIfTI" if head[4:7] == b"n+2" else PAIR
    if 348 not in sizes or len(head) < 348:
        return None
    return "NIfTI" if head[344:347] == b"n+1" else PAIR


def is_dicom(path: Path) -> bool:
    """By the suffix or by the mark in the file: series often have no suffix, damaged slices no mark."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        return _is_dicom(_head(path))
    except OSError:
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM" or _is_bare_dicom(head)


def _is_bare_dicom(head: bytes) -> bool:
    """Whether bytes are DICOM without preamble and mark, as old archives write it: group 2 or 8 comes first."""
    if head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3:4] != b"\x00":
        return False
    import pydicom  # slow to import, and NIfTI does without

    try:
        found = pydicom.filereader.read_partial(
            io.BytesIO(head), stop_when=lambda tag, _vr, _length: tag > 0x00080060, force=True
        )
        return "SOPClassUID" in found or "Modality" in found
    except Exception:  # bytes that only begin like it
        return False


def may_be_slice(path: Path) -> bool:
    """Whether a DICOM file is a scanner's image or damaged; exports hold reports and scouts in folders of their own."""
    import pydicom  # slow to import, and NIfTI does without

    try:
        if DEFLATED in _head(path):  # of which pydicom would inflate all, whatever it holds
            return True
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "ImageType"])
        kind = header.SOPClassUID.name
    except Exception:  # reading the study will say what is wrong with it
        return True
    other = kind.endswith("Storage") and not kind.endswith("Image Storage")
    other = other or "Secondary Capture" in kind
    return not other and "LOCALIZER" not in str(header.get("ImageType")).upper()
