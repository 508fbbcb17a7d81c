"""What a file in the input folder is, by its name and by the mark in its first bytes."""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

LABEL_PREFIX = "segmentation-"  # LiTS keeps its labels beside the CTs
SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
NOT_READ = (  # of images, too
    ".hdr", ".img", ".hdr.gz", ".img.gz", ".nia", ".mgh", ".mgz", ".mnc", ".mif", ".mif.gz", ".mih", ".gipl",
    ".gipl.gz", ".vtk", ".vti",
    *(name + packing for name in (".nii", ".mha", ".nrrd") for packing in PACKINGS if name + packing != ".nii.gz"),
)  # fmt: skip
MARKED = (".hdr", ".img")  # of a pair, whose header bears its mark; programs' installers have such files, too
HEADER = 348  # bytes of a pair's header at least
BOOT = (510, b"\x55\xaa")  # where what computers start from has its mark, and what voxels of a CT never are
PACKED_DICOM = tuple(f".dcm{packing}" for packing in PACKINGS)
TARS = (".tar", ".tgz", ".tbz2", ".tbz", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.lzma")
ARCHIVES = (*TARS, ".zip", ".7z", ".rar", ".iso", ".tar.zst", ".tar.lz4", ".tar.z")
CLOSED = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x1f\x9d")  # 7z .. Z
ZIP, PROGRAM = b"PK\x03\x04", b"MZ"  # of Windows, which may be a zip that unpacks itself
DEFLATED = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"  # TransferSyntaxUID as it lies in a DICOM file
HEAD = 8192  # bytes that hold every mark, also deflated
GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ"
PACKED = {GZIP: "gzip", BZIP2: "bzip2", XZ: "xz"}
BLOCK = 2**20  # of bzip2, which becomes nothing before all of it is there
MEMORY = 2**27  # bytes that xz may take
DICOM, PAIR, ARCHIVE = "DICOM", "an Analyze or NIfTI pair", "an archive"
UNDER_THEIR_NAMES = "Give it its own suffix, one of " + " ".join(SUFFIXES) + "."
CONVERT = "Convert it to .nii.gz."
CONVERT_BOTH = "If it is a CT, convert header and voxels to .nii.gz where they are whole."


def why_not_read(path: Path) -> str | None:
    """Cause and fix where a file looks like an image and its name is not one that is read; None for any other file.

    Raises:
        OSError: it cannot be read.
    """
    head = _head(path)
    found = format_of_bytes(head)
    if path.name.startswith("."):
        return f"{found}, hidden by the dot that its name begins with. Rename it." if found else None
    if not found and path.suffix.lower() in MARKED:
        return _why_no_pair(path, head)
    if path.name.lower().endswith(NOT_READ):
        return f"{found or 'an image'} of a format that is not read. {CONVERT}"
    if found == PAIR:
        return f"{found}, which is not read. {CONVERT}"
    packing = packing_of(head) if found == DICOM else None
    if packing or path.name.lower().endswith(PACKED_DICOM):
        return f"DICOM in {packing or 'a compressed file'}, which is not read. Unpack it."
    if found == DICOM:
        return None
    return f"{found}, but its name does not say so. {UNDER_THEIR_NAMES}" if found else None


def _why_no_pair(path: Path, head: bytes) -> str | None:
    """Cause and fix where a file is named as one of a pair and bears no mark; None where it is something else."""
    if path.suffix.lower() == ".img":
        if head[BOOT[0] :].startswith(BOOT[1]):
            return None
        return f"voxels without their header (.hdr), which are not read; or no image. {CONVERT_BOTH}"
    if len(head) >= HEADER and not beside(path, ".img"):
        return None
    return f"an image's header (.hdr) that is damaged and not read; or none. {CONVERT_BOTH}"


def beside(path: Path, suffix: str) -> bool:
    """Whether there is a file of the same name with another suffix, in small letters or capitals."""
    return any(path.with_suffix(each).exists() for each in (suffix, suffix.upper()))


def format_of(path: Path) -> str | None:
    """The image format whose mark a file bears, also where it is compressed; raises OSError."""
    return format_of_bytes(_head(path))


def kind_of(name: str, head: bytes) -> str | None:
    """What a file in an archive is, by its name and `read_head`: DICOM, another image, an archive, or None."""
    name = name.lower()
    found = format_of_bytes(head)
    if name.endswith((".dcm", ".ima")) or (found == DICOM and not packing_of(head)):
        return DICOM
    if name.endswith(PACKED_DICOM) or found == DICOM:
        return "compressed DICOM"
    if found or (name.endswith((*SUFFIXES, *NOT_READ)) and not name.endswith(MARKED)):
        return found or "an image"
    return ARCHIVE if name.endswith(ARCHIVES) or head.startswith(CLOSED) or is_tar(head) else None


def packing_of(head: bytes) -> str | None:
    """How a file that begins so is compressed; None where it is not, or in a way that is not looked into."""
    return next((name for mark, name in PACKED.items() if head.startswith(mark)), None)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar, compressed or not."""
    return inflated(head)[257:262] == b"ustar"


def inflated(head: bytes) -> bytes:
    """Up to HEAD bytes of what a file's first bytes become, which are they themselves where they are not compressed."""
    with suppress(zlib.error, lzma.LZMAError, EOFError, OSError):  # damaged, or begins so by chance
        if head.startswith(GZIP):
            return zlib.decompressobj(wbits=31).decompress(head, HEAD)
        if head.startswith(BZIP2):
            return bz2.BZ2Decompressor().decompress(head, HEAD)
        if head.startswith(XZ):
            return lzma.LZMADecompressor(memlimit=MEMORY).decompress(head, HEAD)
    return head


def format_of_bytes(head: bytes) -> str | None:
    """The image format whose mark a file's first bytes bear, as `read_head` gives them."""
    head = inflated(head)
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
        return read_head(file)


def read_head(file: IO[bytes]) -> bytes:
    """The first bytes of a file, enough of them to tell its format."""
    head = file.read(HEAD)
    return head + file.read(BLOCK) if head.startswith(BZIP2) else head


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
