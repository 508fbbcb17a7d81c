"""Archives that are not opened, told by what lies in them, so that no study in one is passed over in silence."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from lzma import LZMAError
from pathlib import Path

from liver_ct.chain.formats import HEAD, SUFFIXES, format_of_bytes
from liver_ct.files import is_zip

TARS = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
ZIP = b"PK\x03\x04"
CLOSED = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07")
LOOKED_AT = 10  # files of an archive
UNPACK = "Unpack it and give the folder."


def why_not_opened(path: Path) -> str | None:
    """Cause and fix where a file is an archive of images and no zip by its name; None for any other file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        mark = file.read(6)
    if mark in CLOSED:
        return f"an archive that is not opened, and may hold images. {UNPACK}"
    try:
        if mark.startswith(ZIP) and not is_zip(path) and any(map(_is_image, islice(_zipped(path), LOOKED_AT))):
            return "a zip of images, but its name does not say so. Let it end in .zip."
        if path.name.lower().endswith(TARS) and any(map(_is_image, islice(_in_tar(path), LOOKED_AT))):
            return f"an archive of images, which is not opened. {UNPACK}"
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError, RuntimeError):
        return f"an archive that cannot be looked into, and may hold images. {UNPACK}"
    return None


def _is_image(item: tuple[str, bytes]) -> bool:
    name, head = item
    return name.lower().endswith((*SUFFIXES, ".dcm", ".ima")) or format_of_bytes(head) is not None


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and first bytes of the files in a zip."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                with archive.open(entry) as file:
                    yield entry.filename, file.read(HEAD)


def _in_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and first bytes of the files in a tar, compressed or not."""
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.isfile() and (file := archive.extractfile(entry)):
                yield entry.name, file.read(HEAD)
