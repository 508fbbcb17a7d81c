"""Zipped DICOM series: told from other archives, and unpacked to one folder after a check of what that would take."""

from __future__ import annotations

import errno
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from liver_ct.chain.formats import ARCHIVE, DICOM, LABEL_PREFIX, PROGRAM, ZIP, kind_of, read_head
from liver_ct.errors import StudyError
from liver_ct.outputs.names import OUTPUTS

UNPACK = "Unpack it and give the folder."
UNPACK_FILES = "Unpack it, and the files in it, and give the folder."
COPY_AGAIN = "Copy or export it again."
NO_ZIP = f"not a readable zip (damaged or cut short). {COPY_AGAIN}"
MOST_FILES = 100_000
LARGE, DENSEST = (2**30, 200)  # bytes, and those that one of a zip becomes; of CTs, whose noise stays, 2 to 10
DAMAGED = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, ValueError, IndexError, struct.error)
ENCRYPTED = 1  # of an entry's flags
MORE_SPACE = "Free space, or set TMPDIR to a folder that has it."
UNPACKED = {  # what the system says to that
    errno.ENOSPC: f"the folder for temporary files became full. {MORE_SPACE}",
    errno.EDQUOT: f"the folder for temporary files became full. {MORE_SPACE}",
    errno.ENAMETOOLONG: f"a file in it has too long a name. {UNPACK}",
}
DAMAGE = (None, errno.EINVAL)  # of an OSError: bzip2's word for it, and the system's for a place before the start
LOCKED = f"a zip with a password, which is not opened. {UNPACK}"


def holds_series(path: Path) -> bool:
    """Whether there is DICOM in a zip; raises StudyError for one that cannot be read."""
    with opened(path) as archive:
        return _holds_dicom(archive)


def why_not_all(path: Path) -> str | None:
    """Cause and fix where a zip of DICOM also holds what may be images and is not read from it; None where reading it
    will say what is wrong."""
    with suppress(StudyError), opened(path) as archive:
        return _why_not_read(archive)
    return None


def why_no_series(path: Path) -> str | None:
    """Cause and fix where a zip without DICOM may hold images nevertheless; raises StudyError as `holds_series`."""
    with opened(path) as archive:
        if any(entry.flag_bits & ENCRYPTED for entry in archive.infolist()):
            return LOCKED
        return _why_empty(archive) or _why_not_read(archive)


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
        if not _holds_dicom(archive) and (why := _why_empty(archive) or _why_not_read(archive)):
            raise StudyError(f"{path}: {why}")
        homes = [*dict.fromkeys(place(entry).parent for entry in entries)]
        for entry in entries:
            name = place(entry)
            letters = "".join(chr(ord("g") + int(digit)) for digit in str(homes.index(name.parent)))  # no hexadecimal
            target = folder / (name.name if len(homes) == 1 else f"{letters}-{name.name}")
            with archive.open(entry) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, 2**20)


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read from; what is wrong with it becomes a StudyError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except StudyError:
        raise
    except DAMAGED as e:
        raise StudyError(f"{path}: {NO_ZIP}") from e
    except RuntimeError as e:  # NotImplementedError is one
        raise StudyError(f"{path}: a zip packed in a way that is not read here. {UNPACK}") from e
    except FileExistsError as e:
        raise StudyError(f"{path}: two files in it have the same name ({Path(e.filename).name}). {COPY_AGAIN}") from e
    except OSError as e:
        if e.errno in UNPACKED:
            raise StudyError(f"{path}: {UNPACKED[e.errno]}") from e
        if e.errno not in DAMAGE:
            raise
        raise StudyError(f"{path}: {NO_ZIP}") from e


def place(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Where a file lies in a zip; some programs on Windows separate folders in their own way."""
    return PurePosixPath(entry.filename.replace("\\", "/"))


def _entries(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """Its files, without what programs leave beside images."""
    for entry in archive.infolist():
        name = place(entry).name
        if not (entry.is_dir() or name.startswith(".") or name.upper() == "DICOMDIR"):
            yield entry


def _is_hidden(entry: zipfile.ZipInfo) -> bool:
    """Whether a file's name begins with a dot, but for what macOS leaves beside each."""
    name = place(entry).name
    return name.startswith(".") and not name.startswith("._")


def _why_empty(archive: zipfile.ZipFile) -> str | None:
    """Cause and fix where it holds nothing but hidden files, which may be images."""
    if any(True for _ in _entries(archive)):
        return None
    if any(_kind(archive, entry) for entry in archive.infolist() if _is_hidden(entry)):
        return "a zip of images that are hidden by the dot that their names begin with. Rename them."
    return "an empty zip. Export it again, or remove it if nothing belongs in it."


def _kind(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str | None:
    """What a file in a zip is, as `kind_of` has it; an archive is also a zip by its content, or a program that may be
    one."""
    name = place(entry).name
    with archive.open(entry) as file:
        head = read_head(file)
    packed = head.startswith(ZIP) or (head.startswith(PROGRAM) and name.lower().endswith(".exe"))
    return kind_of(name, head) or (ARCHIVE if packed else None)


def _holds_dicom(archive: zipfile.ZipFile) -> bool:
    return any(_kind(archive, entry) == DICOM for entry in _entries(archive) if not entry.flag_bits & ENCRYPTED)


def _why_not_read(archive: zipfile.ZipFile) -> str | None:
    """Cause and fix where not all images in a zip are plain DICOM; labels and results beside them are no CTs."""
    for entry in _entries(archive):
        name = place(entry).name
        kind = None if name.startswith(LABEL_PREFIX) or name in OUTPUTS else _kind(archive, entry)
        if kind == ARCHIVE and not _is_program(archive, entry):
            inner = "a zip" if name.lower().endswith(".zip") else "another archive"
            return f"{inner} in a zip ({name}), which is not opened, and may hold images. {UNPACK}"
        if kind == "compressed DICOM":
            return f"a zip of DICOM files that are compressed once more ({name}), which is not read. {UNPACK_FILES}"
        if kind not in (None, DICOM, ARCHIVE):
            return f"a zip of images other than DICOM, or beside it ({name}), which are not read from a zip. {UNPACK}"
    return None


def _is_program(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    """Whether a file in a zip is a program or a zip without images, such as of a viewer that hospitals' discs hold; an
    archive in it may hold some unless it is no ``.zip``, as programs are."""
    if entry.file_size > DENSEST * entry.compress_size:  # no zip is; looking into it inflates it
        return False
    name = place(entry).name.lower()
    harmless = (None,) if name.endswith(".zip") else (None, ARCHIVE)
    try:
        with archive.open(entry) as file, zipfile.ZipFile(file) as inner:
            inside = sorted(inner.infolist(), key=lambda one: one.header_offset)  # going back inflates all of it again
            kinds = (_kind(inner, one) for one in inside if not one.is_dir())
            return len(inside) <= MOST_FILES and all(kind in harmless for kind in kinds)
    except zipfile.BadZipFile:
        return name.endswith(".exe")
    except (*DAMAGED, RuntimeError):  # of a password, or NotImplementedError
        return False


def _check(path: Path, entries: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    """Raise StudyError for a zip that is not to be unpacked; nothing has been inflated yet."""
    if any(".." in place(entry).parts for entry in entries):
        raise StudyError(f"{path}: a file in it is named to lie outside of it. Do not open it; ask who sent it.")
    if any(entry.flag_bits & ENCRYPTED for entry in entries):
        raise StudyError(f"{path}: {LOCKED}")
    if len(entries) > MOST_FILES:
        raise StudyError(f"{path}: holds {len(entries)} files, more than a study has. Give the zip of one DICOM study.")
    need, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
    if need > free:
        cause = f"unpacked it takes {need / 2**30:.1f} GB, and {free / 2**30:.1f} GB are free in {folder.parent}"
        raise StudyError(f"{path}: {cause}. {MORE_SPACE}")
    packed = path.stat().st_size
    if need > LARGE and need > packed * DENSEST:
        cause = f"{need / 2**30:.1f} GB from {packed / 2**20:.1f} MB, though a CT has noise"
        raise StudyError(f"{path}: {cause}. {COPY_AGAIN}")
