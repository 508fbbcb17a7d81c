# A copy of datalist.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Datalists: their entries, and whether the files they name go together, before any work is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import DataLoader
from scripts.seg_checks import CHECKS
from scripts.seg_errors import StudyError, printable
from scripts.seg_files import is_special
from scripts.seg_headers import Header
from scripts.seg_reading import read_header, unreadable


def resolve_datalist(datalist_file: str, section: str) -> list[dict[str, Any]]:
    """The entries of one section of a datalist file, their relative paths taken from the file's folder.

    MONAI's load_decathlon_datalist resolves image and label only, and refuses a section that is not there.

    Args:
        datalist_file: JSON with a list of entries per section.
        section: ``training``, ``validation`` ...

    Returns:
        The entries; none when the file or the section is not there.
    """
    path = Path(datalist_file).resolve()
    if not path.is_file():
        return []
    entries = json.loads(path.read_text(encoding="utf-8")).get(section, [])
    return [{k: str(path.parent / v) if k in CHECKS else v for k, v in e.items()} for e in entries]


def find_cts(dataset_dir: str, pattern: str) -> list[dict[str, str]]:
    """An entry ``{"image": path}`` for each CT in a folder, sorted.

    Hidden files, pipes, sockets and devices are passed over.

    Args:
        dataset_dir: the CTs' folder.
        pattern: which files (or DICOM folders) in it are CTs, as for glob.
    """
    paths = [path for path in Path(dataset_dir).glob(pattern) if not path.name.startswith(".") and not is_special(path)]
    return [{"image": path} for path in sorted(map(str, paths))]


def require_studies(studies: Sequence[Mapping[str, Any]], source: str, keys: Sequence[str] = ()) -> None:
    """Stop before any work when there is none, or when files cannot go together; MONAI would fail late or silently.

    Args:
        studies: entries of a datalist.
        source: where they were looked for, for the message.
        keys: the entries' files, ``image`` first, whose headers are read and must tell of one grid.

    Raises:
        SystemExit: no study, or a file that is missing, unreadable or on another grid; a line each.
    """
    problems = []
    if keys:
        once = {str(study): study for study in studies}.values()  # a list may hold a volume once per patch drawn
        problems = [problem for study in once if (problem := header_problem(study, keys))]
    if not studies:
        problems = [f"{source}: no study found. Check the path (--dataset_dir, --datalist_file)."]
    if problems:
        raise SystemExit("\n".join(f"ERROR {printable(problem)}" for problem in problems))


def require_batches(loader: DataLoader, source: str, epochs: int, knob: str = "batch_size") -> None:
    """Stop a training that has nothing to learn from; MONAI would end it at once, as if all were well.

    Args:
        loader: of the training.
        source: where its studies were looked for, for the message.
        epochs: of the training.
        knob: what sets the size of a batch.

    Raises:
        SystemExit: not one batch, or no epoch.
    """
    count = len(loader.dataset)
    if epochs < 1:
        raise SystemExit(f"ERROR --epochs {epochs}: nothing would be learned. Use 1 or more.")
    if count == 0:
        raise SystemExit(printable(f"ERROR {source}: no study to train on. List some under 'training'."))
    if len(loader) == 0:
        cause = f"{count} to train on make no batch of {loader.batch_size}"
        raise SystemExit(printable(f"ERROR {source}: {cause}. List more under 'training', or lower --{knob}."))


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
