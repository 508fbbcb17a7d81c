"""Zipped DICOM series: told from other archives, and unpacked to one folder after a check of what that would take."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from liver_ct.chain.formats import DICOM, GZIP, HEAD, NOT_READ, SUFFIXES, format_of_bytes
from liver_ct.errors import StudyError

UNPACK = "Unpack it and give the folder."
UNPACK_BOTH = "Unpack it and them, and give the folder."
COPY_AGAIN = "Copy or export it again."
MOST_FILES = 100_000
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)
ENCRYPTED = 1  # of an entry's flags


def holds_series(path: Path) -> bool:
    """Whether there is DICOM in a zip; raises StudyError for one that cannot be read."""
    with opened(path) as archive:
        return any(_is_dicom(archive, entry) for entry in _entries(archive) if not entry.flag_bits & ENCRYPTED)


def why_no_series(path: Path) -> str | None:
    """Cause and fix where a zip without DICOM may hold images nevertheless; raises StudyError as `holds_series`."""
    with opened(path) as archive:
        names = [entry.filename.lower() for entry in _entries(archive)]
        locked = any(entry.flag_bits & ENCRYPTED for entry in archive.infolist())
    if not names:
        return f"an empty zip. {COPY_AGAIN}"
    if locked:
        return f"a zip with a password, which is not opened. {UNPACK}"
    if any(name.endswith(".zip") and not name.endswith(NOT_READ) for name in names):
        return f"a zip in a zip, which is not opened. {UNPACK}"
    if any(name.endswith((*SUFFIXES, *NOT_READ)) for name in names):
        return f"a zip of images other than DICOM. {UNPACK}"
    return None


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip of one DICOM study to one folder; files are named after their own names alone.

    Files of different folders get different letters before their names, unless there is one folder only. Hidden files
    and DICOMDIR stay in the zip.

    Args:
        path: the zip.
        folder: to write to, which is empty.

    Raises:
        StudyError: damaged, locked, of a kind that is not unpacked, too large for the disk; OSError.
    """
    with opened(path) as archive:
        entries = [*_entries(archive)]
        _check(path, entries, folder)
        homes = [*dict.fromkeys(place(entry).parent for entry in entries)]
        for entry in entries:
            name = place(entry)
            letters = "".join(chr(ord("g") + int(digit)) for digit in str(homes.index(name.parent)))  # no hexadecimal
            target = folder / (name.name if len(homes) == 1 else f"{letters}-{name.name}")
            with archive.open(entry) as source, target.open("xb") as file:
                head = source.read(HEAD)
                if head.startswith(GZIP) and format_of_bytes(head) == DICOM:
                    raise StudyError(f"{path}: slices in it are packed with gzip, each by itself. {UNPACK_BOTH}")
                file.write(head)
                shutil.copyfileobj(source, file, 2**20)


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read from; what is wrong with it becomes a StudyError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DAMAGED as e:
        raise StudyError(f"{path}: not a readable zip (damaged or cut short). {COPY_AGAIN}") from e
    except NotImplementedError as e:
        raise StudyError(f"{path}: a zip packed in a way that is not read here. {UNPACK}") from e
    except FileExistsError as e:
        raise StudyError(f"{path}: two files in it have the same name ({Path(e.filename).name}). {COPY_AGAIN}") from e


def place(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Where a file lies in a zip; some programs on Windows separate folders in their own way."""
    return PurePosixPath(entry.filename.replace("\\", "/"))


def _entries(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """Its files, without what programs leave beside images."""
    for entry in archive.infolist():
        name = place(entry).name
        if not (entry.is_dir() or name.startswith(".") or name.upper() == "DICOMDIR"):
            yield entry


def _is_dicom(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    if entry.filename.lower().endswith((".dcm", ".ima")):
        return True
    with archive.open(entry) as file:
        return format_of_bytes(file.read(HEAD)) == DICOM


def _check(path: Path, entries: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    """Raise StudyError for a zip that is not to be unpacked; nothing has been inflated yet."""
    if any(".." in place(entry).parts for entry in entries):
        raise StudyError(f"{path}: a file in it is named to lie outside of it. Do not open it; ask who sent it.")
    if any(entry.flag_bits & ENCRYPTED for entry in entries):
        raise StudyError(f"{path}: a zip with a password, which is not opened. {UNPACK}")
    if any(entry.filename.lower().endswith(".zip") for entry in entries):
        raise StudyError(f"{path}: a zip in a zip, which is not opened. {UNPACK}")
    if not entries or len(entries) > MOST_FILES:
        cause = f"holds {len(entries)} files, more than a study has" if entries else "an empty zip"
        raise StudyError(f"{path}: {cause}. Give the zip of one DICOM study.")
    need, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
    if need > free:
        cause = f"unpacked it takes {need / 2**30:.1f} GB, and {free / 2**30:.1f} GB are free in {folder.parent}"
        raise StudyError(f"{path}: {cause}. Free space, or set TMPDIR to a folder that has it.")
