"""Where studies come from: finding CTs under a path, naming them, and telling which are finished."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from liver_ct.errors import StudyError
from liver_ct.files import read_json
from liver_ct.outputs.names import ALWAYS, DICOM_OUTPUTS, OUTPUTS, RESULT

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
LABEL_PREFIX = "segmentation-"  # LiTS keeps its labels beside the CTs


class Study(NamedTuple):
    """One CT: a file or a DICOM series folder, and the name of its results' folder."""

    case: str
    path: Path


def find_studies(path: Path) -> list[Study]:
    """The CTs under ``path`` (itself a file or a series folder, or a folder of such), sorted, with unique case names.

    Hidden entries, LiTS label files and results of earlier runs are passed over.

    Raises:
        StudyError: there is no such path, or no study under it.
    """
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder. Check --input.")
    root = Path(os.path.normpath(Path.cwd() / path))  # a link keeps its name
    found = sorted(_walk(root)) if path.is_dir() else [root]
    if not found:
        raise StudyError(f"{path}: holds no CT ({' '.join(SUFFIXES)} or a DICOM series). Check --input.")
    return name_cases(found, root if path.is_dir() else root.parent)


def name_cases(paths: Iterable[Path], root: Path) -> list[Study]:
    """Name each CT by its file or folder; by its path below ``root`` where two share a name (also but for case)."""
    spellings = {path: _spellings(path, root) for path in paths}
    uses = Counter(name.lower() for names in spellings.values() for name in set(names))
    named = []
    for number, (path, names) in enumerate(spellings.items()):
        unique = next((name for name in names if uses[name.lower()] == 1), f"{names[-1]}-{number}")
        named.append(Study(unique, path))
    return named


def fingerprint(path: Path) -> str:
    """Checksum of the names, sizes and modification times of a study's files: changes when the study does."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    entries = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def finished_outputs(target: Path, record: Mapping[str, Any]) -> set[str]:
    """The outputs in ``target``, if it is a whole result whose result.json says all that ``record`` does, else none."""
    try:
        result = read_json(target / RESULT)
    except (OSError, ValueError):
        return set()
    found = {name for name in OUTPUTS if (target / name).is_file()}
    if not {*DICOM_OUTPUTS} <= found:  # they refer to each other
        found -= {*DICOM_OUTPUTS}
    same = all(result.get(key) == value for key, value in record.items())
    return found if same and {*ALWAYS} <= found else set()


def _walk(root: Path) -> Iterator[Path]:
    """CT files and series folders below a folder, in no order."""
    visited = set()
    for name, folders, files in os.walk(root, followlinks=True):
        folder, real = Path(name), os.path.realpath(name)
        own_results = set(ALWAYS) <= set(files)
        if real in visited or own_results:  # visited before: a link's loop
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        yield from _studies_in(folder, sorted(files))


def _studies_in(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """The CT files of one folder, and the folder itself if it holds a DICOM series."""
    others = []
    for name in names:
        if name.startswith((".", LABEL_PREFIX)):
            continue
        if name.lower().endswith(SUFFIXES):
            yield folder / name
        else:
            others.append(folder / name)
    if any(_is_dicom(path) and _may_be_slice(path) for path in others):
        yield folder


def _is_dicom(path: Path) -> bool:
    """By the suffix or by the mark in the file: series often have no suffix, damaged slices no mark."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _may_be_slice(path: Path) -> bool:
    """Whether a DICOM file is a scanner's image or damaged; exports hold reports and scouts in folders of their own."""
    import pydicom  # slow to import, and NIfTI does without

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "ImageType"])
        kind = header.SOPClassUID.name
    except Exception:  # reading the study will say what is wrong with it
        return True
    other = kind.endswith("Storage") and not kind.endswith("Image Storage")
    other = other or "Secondary Capture" in kind
    return not other and "LOCALIZER" not in str(header.get("ImageType"))


def _spellings(path: Path, root: Path) -> tuple[str, str, str]:
    """Names for a CT from short to long: its own, its path, its path with the suffix."""
    parts = path.relative_to(root).parts or (path.name or "study",)
    stem = parts[-1]
    for suffix in SUFFIXES:
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) and stem != suffix else stem
    return stem, "-".join((*parts[:-1], stem)), "-".join(parts).replace(".", "_")
