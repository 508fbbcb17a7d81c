"""Where studies come from: finding CTs under a path, naming them, and telling which are finished."""

from __future__ import annotations

import errno
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from liver_ct.chain.archives import why_not_opened
from liver_ct.chain.formats import LABEL_PREFIX, SUFFIXES, beside, format_of, is_dicom, may_be_slice, why_not_read
from liver_ct.chain.zips import holds_series, why_no_series, why_not_all
from liver_ct.errors import StudyError
from liver_ct.files import is_file_or_lost, is_zip, read_json, sha256, spelled_out, walk
from liver_ct.outputs.names import (
    ALWAYS,
    DICOM_OF_LESIONS,
    DICOM_OUTPUTS,
    INDEX,
    LESION_OUTPUTS,
    OUTPUTS,
    RESULT,
    SUMMARY,
    safe_name,
)

WHERE_FROM = ("input", "input_path_sha256")  # of a record: what the result does not depend on


class Study(NamedTuple):
    """One CT: a file, a DICOM series folder or a zip of one, and the name of its results' folder."""

    case: str
    path: Path


def check_input(path: Path) -> None:
    """Raise StudyError unless there is a file or folder at ``path``; this takes no time."""
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder. Check --input.")
    if not path.is_dir() and not is_file_or_lost(path):
        raise StudyError(f"{path}: a pipe, socket or device, not a file. Check --input.")


def find_studies(path: Path, report: Callable[[str], None] = lambda _: None) -> list[Study]:
    """The CTs under ``path``, sorted, with unique case names; itself it is a CT, or a folder of such.

    Passed over are hidden entries, LiTS label files and results of earlier runs; also pipes, sockets, devices and
    links that lead back.

    Args:
        path: where to look.
        report: is told, in one line each, of folders that cannot be read and of what looks like an image and is not
            taken.

    Raises:
        StudyError: there is no such path, or no study under it.
    """
    check_input(path)
    root = spelled_out(path)
    found = sorted(_walk(root, report)) if path.is_dir() else [_asked_for(root, report)]
    if not found:
        raise StudyError(f"{path}: holds no CT ({' '.join(SUFFIXES)} or a DICOM series, also as .zip). Check --input.")
    return name_cases(found, root if path.is_dir() else root.parent)


def _asked_for(path: Path, report: Callable[[str], None]) -> Path:
    """A file that is the input itself, also under a name that would be passed over in a folder; raises StudyError for
    an archive or another format, which no reader would name."""
    lines: list[str] = []
    if _is_zipped_series(path, lines.append):  # of any other, reading it says what is wrong
        for line in lines:
            report(line)
    known = path.name.lower().endswith(SUFFIXES) or path.name.startswith(".") or is_zip(path) or is_dicom(path)
    if not known and (why := _why_not_taken(path)):
        raise StudyError(f"{path}: {why}")
    return path


def name_cases(paths: Iterable[Path], root: Path) -> list[Study]:
    """Name each CT by its file or folder; by its path below ``root`` where two share a name (also but for case)."""
    spellings = {path: _spellings(path, root) for path in paths}
    uses = Counter(name.lower() for names in spellings.values() for name in set(names))
    named: dict[str, Study] = {}
    for number, (path, names) in enumerate(spellings.items()):
        numbered = (f"{names[-1]}-{n}" for n in itertools.count(number))
        unique = next((name for name in names if uses[name.lower()] == 1), None)
        unique = unique or next(name for name in numbered if name.lower() not in {*named, *uses})
        named[unique.lower()] = Study(unique, path)
    return [*named.values()]


def fingerprint(path: Path, checksum: Callable[[Path], str] = sha256) -> str:
    """Checksum of what is in a study's files, whatever their names: changes when the study does."""
    return hashlib.sha256("".join(sorted(map(checksum, files_of(path)))).encode()).hexdigest()


def files_of(path: Path) -> Iterator[Path]:
    """The files that a study is read from, or some more; raises OSError."""
    if path.is_dir():
        ours = (".", INDEX, SUMMARY)
        yield from (file for file in path.iterdir() if file.is_file() and not file.name.startswith(ours))
        return
    yield path
    if path.suffix.lower() in (".mhd", ".nhdr") and path.stat().st_size < 2**20:
        header = path.read_text(encoding="utf-8", errors="surrogateescape")
        if "%" in header:  # a pattern of names
            yield from files_of(path.parent)
        words = (word for line in header.splitlines() for word in (line, re.split("[:=]", line, maxsplit=1)[-1]))
        for word in {word.strip() for word in words}:  # the voxels lie in files that it names
            if 0 < len(word) < 256 and "\0" not in word and (path.parent / word).is_file():
                yield path.parent / word


def finished_outputs(target: Path, record: Mapping[str, Any]) -> set[str]:
    """The outputs in ``target``, if it is a whole result whose result.json says all that ``record`` does, else none."""
    try:
        result = read_json(target / RESULT)
    except (OSError, ValueError):
        return set()
    found = {name for name in OUTPUTS if (target / name).is_file()}
    dicom = {*DICOM_OUTPUTS, *(DICOM_OF_LESIONS if result.get("lesions") else ())}
    if not dicom <= found:  # they refer to each other
        found -= {*DICOM_OUTPUTS, *DICOM_OF_LESIONS}
    same = all(result.get(key) == value for key, value in record.items() if key not in WHERE_FROM)
    written = {*ALWAYS, *LESION_OUTPUTS} if result.get("lesions") is not None else {*ALWAYS}
    return found if same and written <= found else set()


def place_of(target: Path, record: Mapping[str, Any]) -> Path:
    """The folder for a study's results: ``target``, or one beside it where that holds those of another CT of this name.

    It is another one where neither content nor place is the same: a CT may be moved, or exported again. One that was in
    memory has neither.
    """
    try:
        result = read_json(target / RESULT)
        other = all(result.get(key, record[key]) != record[key] for key in ("input_fingerprint", "input_path_sha256"))
    except (OSError, ValueError, AttributeError):
        other = False
    return target.with_name(f"{target.name}-{record['input_fingerprint'][:8]}") if other else target


def _walk(root: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """CT files and series folders below a folder, in no order."""

    def refused(error: OSError) -> None:
        report(f"{error.filename}: the folder cannot be read ({error.strerror}). Check its permissions.")

    for folder, folders, files in walk(root, refused):
        if set(ALWAYS) <= set(files):  # results of an earlier run, beside which other files may lie
            files = [name for name in files if name not in OUTPUTS]
        for name in [name for name in folders if name.startswith(".")]:
            folders.remove(name)
            if _holds_image(folder / name):
                report(f"{folder / name}: images in a folder hidden by the dot that its name begins with. Rename it.")
        yield from _studies_in(folder, files, report)


def _studies_in(folder: Path, names: Iterable[str], report: Callable[[str], None]) -> Iterator[Path]:
    """The CT files of one folder, and the folder itself if it holds a DICOM series."""
    others = []
    for name in names:
        if not name.startswith((".", LABEL_PREFIX)) and name.lower().endswith(SUFFIXES):
            yield folder / name
        elif not name.startswith(LABEL_PREFIX):
            others.append(folder / name)
    slices = [path for path in others if not path.name.startswith(".") and is_dicom(path)]
    if any(may_be_slice(path) for path in slices):
        yield folder
    for path in sorted({*others} - {*slices}):
        if _is_zipped_series(path, report):
            yield path
        elif why := _why_not_taken(path):
            report(f"{path}: {why}")


def _is_zipped_series(path: Path, report: Callable[[str], None]) -> bool:
    """Whether a file is a zip of a DICOM series; what may be one, or holds more than is read from it, is reported."""
    if path.name.startswith(".") or not is_zip(path):
        return False
    try:
        found = holds_series(path)
        if why := why_not_all(path) if found else why_no_series(path):
            report(f"{path}: {why}")
        return found
    except StudyError as e:
        report(str(e))
    except OSError as e:
        report(f"{path}: cannot be read ({e.strerror}), and may be an image. Check its permissions.")
    return False


def _holds_image(folder: Path) -> bool:
    """Whether an image lies in a folder itself; deeper, such as in .git, are none for people."""
    with suppress(OSError):
        return any(format_of(file) for file in folder.iterdir() if file.is_file())
    return False


def _why_not_taken(path: Path) -> str | None:
    """Cause and fix where a file that is neither CT nor slice may be an image; the first of a pair speaks for it."""
    if path.suffix.lower() == ".img" and beside(path, ".hdr"):
        return None
    try:
        return why_not_read(path) or why_not_opened(path)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ELOOP):  # a link that leads nowhere
            return None
        return f"cannot be read ({e.strerror}), and may be an image. Check its permissions."


def _spellings(path: Path, root: Path) -> tuple[str, str, str]:
    """Names for a CT from short to long: its own, its path, its path with the suffix."""
    parts = path.relative_to(root).parts or (path.name or "study",)
    stem = parts[-1]
    for suffix in (*SUFFIXES, ".zip"):
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) and stem != suffix else stem
    long, full = "-".join((*parts[:-1], stem)), "-".join(parts).replace(".", "_")
    return safe_name(stem), safe_name(long), safe_name(full)
