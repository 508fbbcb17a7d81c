# A copy of datalist.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Datalists: their entries, and whether the files they name go together, before any work is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import CacheDataset, DataLoader
from scripts.seg_checks import CHECKS
from scripts.seg_errors import StudyError, printable
from scripts.seg_files import is_special
from scripts.seg_headers import Header
from scripts.seg_reading import read_header, unreadable

LIST_FORM = 'Give {"training": [{"image": path, "label": path}, ...], "validation": [...]}.'


def resolve_datalist(datalist_file: str, section: str, required: bool = False) -> list[dict[str, Any]]:
    """The entries of one section of a datalist file, their relative paths taken from the file's folder.

    MONAI's load_decathlon_datalist resolves image and label only, and refuses a section that is not there.

    Args:
        datalist_file: JSON with a list of entries per section.
        section: ``training``, ``validation`` ...
        required: whether a file must have the section.

    Returns:
        The entries; none when the file or the section is not there.

    Raises:
        StudyError: the file is no datalist, or lacks a section that is required.
    """
    path = Path(datalist_file).resolve()
    if not path.is_file():
        return []
    content = read_lists(path)
    if required and section not in content:
        raise StudyError(f"{path}: has no section '{section}'. Give one of {', '.join(content) or 'its own'}.")
    entries = content.get(section, [])
    if not isinstance(entries, list):
        raise StudyError(f"{path}: '{section}' is no list. {LIST_FORM}")
    for number, entry in enumerate(entries, 1):
        if lost := lost_file(entry):
            raise StudyError(f"{path}: entry {number} of '{section}' has no {lost}. {LIST_FORM}")
    return [{k: str(path.parent / v) if k in CHECKS else v for k, v in e.items()} for e in entries]


def lost_file(entry: Any) -> str | None:
    """The key of a file that an entry of a datalist does not name by a text, or None."""
    files = {"image": None, **entry} if isinstance(entry, Mapping) else {"image": None}
    return next((key for key in CHECKS if not isinstance(files.get(key, ""), str)), None)


def read_lists(path: Path) -> dict[str, Any]:
    """What a datalist file holds, by section; raises StudyError where it is no JSON, or of another form."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark first
    except ValueError as e:  # of JSON, or of characters
        raise StudyError(f"{path}: empty, cut short or no JSON. {LIST_FORM}") from e
    if not isinstance(content, dict):
        raise StudyError(f"{path}: holds no lists by section. {LIST_FORM}")
    return content


def find_cts(dataset_dir: str, pattern: str) -> list[dict[str, str]]:
    """An entry ``{"image": path}`` for each CT in a folder, sorted.

    Hidden files, pipes, sockets and devices are passed over.

    Args:
        dataset_dir: the CTs' folder.
        pattern: which files (or DICOM folders) in it are CTs, as for glob.
    """
    paths = [path for path in Path(dataset_dir).glob(pattern) if not path.name.startswith(".") and not is_special(path)]
    return [{"image": path} for path in sorted(map(str, paths))]


def require_entries(studies: Any) -> None:
    """Raise SystemExit with one line where what ``--datalist`` gives is no list of entries that name their files."""
    form = "Give '[{\"image\": path}, ...]', with the other files of each."
    if not isinstance(studies, Sequence) or isinstance(studies, str):
        raise SystemExit(printable(f"ERROR --datalist {studies}: is no list. {form}"))
    for number, entry in enumerate(studies, 1):
        if lost := lost_file(entry):
            raise SystemExit(f"ERROR --datalist: its entry {number} names no {lost}. {form}")


def require_studies(
    studies: Sequence[Mapping[str, Any]],
    source: str,
    keys: Sequence[str] = (),
    validation: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Stop before any work when there is none, or when files cannot go together; MONAI would fail late or silently.

    Args:
        studies: entries of a datalist.
        source: where they were looked for, for the message.
        keys: the entries' files, ``image`` first, whose headers are read and must tell of one grid.
        validation: entries to validate a training on ``studies`` with; none may be of these, nor of their ``group``,
            which says whose a case is.

    Raises:
        SystemExit: no study, one to learn from and to validate with, or a file that is missing, unreadable or on
            another grid; a line each.
    """
    problems = []
    listed = [*studies, *validation]
    if keys:
        once = {str(study): study for study in listed}.values()  # a list may hold a volume once per patch drawn
        problems = [problem for study in once if (problem := header_problem(study, keys))]
    if not listed:
        names = "names of its lists and, for stage 2, that their cases tell of tumour"
        fix = names if Path(source).is_file() else "path (--dataset_dir, --datalist_file)"
        problems = [f"{source}: no study found. Check the {fix}."]
    learned = {os.path.realpath(study["image"]) for study in studies}  # one file may have several paths
    both = {str(study["image"]) for study in validation if os.path.realpath(study["image"]) in learned}
    for image in sorted(both):
        problems.append(f"{image}: is in the training and in the validation of {source}. Leave it in one of them.")
    people = {study["group"] for study in studies if "group" in study}
    for image in sorted({str(study["image"]) for study in validation if study.get("group") in people} - both):
        cause = f"is of a person (group) who is in the training of {source}, too"
        problems.append(f"{image}: {cause}. Leave each person in one of them.")
    if problems:
        raise SystemExit("\n".join(f"ERROR {printable(problem)}" for problem in problems))


def require_batches(loader: DataLoader, source: str, knob: str = "batch_size") -> None:
    """Stop a training that has nothing to learn from; MONAI would end it at once, as if all were well.

    Args:
        loader: of the training.
        source: where its studies were looked for, for the message.
        knob: what sets the size of a batch.

    Raises:
        SystemExit: not one batch.
    """
    count = len(loader.dataset)
    if count == 0:
        raise SystemExit(printable(f"ERROR {source}: no study to train on. List some under 'training'."))
    if len(loader) == 0:
        cause = f"{count} to train on make no batch of {loader.batch_size}"
        raise SystemExit(printable(f"ERROR {source}: {cause}. List more under 'training', or lower --{knob}."))


def require_target(dataset: CacheDataset, shows: Callable[[Any], bool], source: str, target: str) -> None:
    """Stop a training whose labels show nothing of what is to be learned.

    Args:
        dataset: of the training, whole in its cache.
        shows: whether an item of the cache does.
        source: where its studies were listed, for the message.
        target: what is to be learned, for the message.

    Raises:
        SystemExit: no item does.
    """
    if not any(shows(item) for item in dataset._cache):
        cause = f"no label to train on shows any {target}"
        raise SystemExit(printable(f"ERROR {source}: {cause}. Labels are 0 background, 1 liver, 2 tumour."))


def header_problem(study: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """What the headers of a study's files say against it, in one line, or None. Those of DICOM are not compared.

    Args:
        study: an entry of a datalist.
        keys: its files, ``image`` first.
    """
    first = None
    for key in keys:
        path = study.get(key)
        if not path or not Path(path).exists() or is_special(Path(path)):
            return f"{path or study.get('image')}: no such {key}. Check the datalist."
        if Path(path).is_dir():
            continue
        try:
            image = read_header(Path(path))
        except StudyError as e:
            return str(e)
        except Exception:
            return unreadable(path)
        first = image if first is None else first
        if not same_grid(first, image):
            return f"{path}: lies on another grid than its CT. Make it from {Path(study['image']).name}."
    return None


def same_grid(one: Header, other: Header) -> bool:
    """Whether two images share shape and affine (to 0.01 mm)."""
    return one.shape[:3] == other.shape[:3] and np.allclose(one.affine, other.affine, atol=0.01)
