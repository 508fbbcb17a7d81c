"""Archives that are not opened, told by what lies in them, so that no study in one is passed over in silence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from liver_ct.chain.formats import ARCHIVE, CLOSED, PROGRAM, TARS, ZIP, is_tar, kind_of, packing_of, read_head
from liver_ct.chain.zips import DAMAGE, DAMAGED, MOST_FILES, UNPACK
from liver_ct.files import is_zip

DISC = (32769, b"CD001")  # where ISO 9660 has its mark
LOOKED_AT = 2**27  # bytes of a tar; its headers alone may declare gigabytes, which a few hundred bytes of bzip2 become
OPENERS: dict[str, Callable[..., Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
NO_ARCHIVE = (*DAMAGED, tarfile.TarError, RuntimeError)  # the last of a password, or a packing that is not known


def why_not_opened(path: Path) -> str | None:
    """Cause and fix where a file is an archive of images and no zip by its name; None for any other file.

    An archive in a tar counts as images: it is not looked into.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = read_head(file)
        file.seek(DISC[0])
        disc = file.read(len(DISC[1])) == DISC[1]
    if head.startswith(CLOSED) or disc:
        return f"{'a disc image' if disc else 'an archive'} that is not opened, and may hold images. {UNPACK}"
    try:
        packed = head.startswith(ZIP) or (head.startswith(PROGRAM) and zipfile.is_zipfile(path))
        if packed and not is_zip(path) and any(kind not in (None, ARCHIVE) for kind in _in_zip(path)):
            return "a zip of images, but its name does not say so. Let it end in .zip."
        if (path.name.lower().endswith(TARS) or is_tar(head)) and any(_in_tar(path, packing_of(head))):
            return f"an archive of images, which is not opened. {UNPACK}"
    except _TooLargeError:
        cause = f"an archive without images in its first {LOOKED_AT >> 20} MB, and not looked into beyond"
        return f"{cause}. If it may hold any, unpack it and give the folder."
    except (*NO_ARCHIVE, OSError) as e:
        if isinstance(e, OSError) and e.errno not in DAMAGE:
            raise
        return f"an archive that cannot be looked into, and may hold images. {UNPACK}"
    return None


def _in_zip(path: Path) -> Iterator[str | None]:
    """What each file in a zip is."""
    with zipfile.ZipFile(path) as archive:
        for entry in islice(archive.infolist(), MOST_FILES):
            if not entry.is_dir():
                with archive.open(entry) as file:
                    yield kind_of(entry.filename, read_head(file))


def _in_tar(path: Path, packing: str | None) -> Iterator[str | None]:
    """What each file in a tar is; raises _TooLargeError.

    A header that is damaged is passed over, where tarfile would take it for the end.
    """
    opener = OPENERS[packing] if packing else Path.open
    with opener(path, "rb") as file:
        some, found = _Some(file), False
        with tarfile.open(fileobj=some, mode="r|", ignore_zeros=True) as archive:
            for entry in archive:
                found = True
                if entry.isfile() and (content := archive.extractfile(entry)):
                    yield kind_of(entry.name, read_head(content))
    if some.read_so_far % tarfile.BLOCKSIZE or (some.any and not found):
        raise tarfile.ReadError("cut short, or no tar")


class _TooLargeError(Exception):
    pass


class _Some(io.RawIOBase):
    """A file, of which no more than LOOKED_AT bytes can be read; ``any`` says whether one of them was not 0."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.read_so_far, self.any = file, 0, False

    def read(self, count: int = -1, /) -> bytes:
        if self.read_so_far >= LOOKED_AT:
            raise _TooLargeError
        data = self.file.read(count)
        self.read_so_far += len(data)
        self.any = self.any or bool(data.strip(b"\0"))
        return data
