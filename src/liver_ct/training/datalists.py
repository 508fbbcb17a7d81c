"""Datalists: cases and isolated slices of people, and the folds that keep each person on one side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from liver_ct.errors import StudyError
from liver_ct.files import read_json, write_json
from liver_ct.lits.packing import unpack

Entry = dict[str, Any]


def open_data(data: Path, folder: Path) -> dict[str, list[Entry]]:
    """The lists of a datalist.json, or of what ``lits pack`` made of one, which is unpacked to ``folder``."""
    data = data.resolve()
    return read_lists(unpack(data, folder) if data.suffix == ".zip" else data)


def read_lists(datalist: Path) -> dict[str, list[Entry]]:
    """The datalist with absolute paths; validation cases joined to the training ones."""
    content = read_json(datalist)
    lists = {
        section: [
            {k: str(datalist.parent / v) if k in ("image", "label", "prob") else v for k, v in e.items()}
            for e in content.get(section, [])
        ]
        for section in ("training", "validation", "training_slices", "validation_slices", "test")
    }
    for section in ("training", "training_slices"):
        lists[section] += lists.pop(section.replace("training", "validation"))
    return lists


def assign_folds(lists: Mapping[str, list[Entry]], folds: int, path: Path, whole: Sequence[str] = ()) -> dict[str, int]:
    """Group to fold, evened by the number of volumes and of isolated slices; kept in ``path`` for later calls.

    People of a source that has neither a volume nor any word on tumours can be judged by nothing, and are in no fold:
    all parts learn from them.

    Args:
        lists: of the datalist.
        folds: number of folds among people.
        path: of folds.json.
        whole: sources that are held out as a whole; each makes a fold of its own after the others.

    Raises:
        StudyError: there are fewer groups than folds, an unknown source, or ``path`` was made with others.
    """
    entries = [entry for section in ("training", "training_slices") for entry in lists[section]]
    source_of = {entry["group"]: entry.get("source") for entry in reversed(entries)}
    unknown = set(whole) - set(source_of.values())
    if unknown:
        raise StudyError(f"no case is of the source {', '.join(sorted(unknown))}. The datalist names them.")
    judged = {e.get("source") for e in lists["training"]} | {e.get("source") for e in entries if "tumour_present" in e}
    groups = {group for group, source in source_of.items() if source in judged and source not in whole}
    if len(groups) < folds:
        raise StudyError(f"the datalist holds {len(groups)} patient groups. Choose at most as many folds.")
    fold_of = even_folds(groups, lists, folds)
    for number, source in enumerate(whole, start=folds):
        fold_of |= {group: number for group, own in source_of.items() if own == source}
    if not path.exists():
        write_json(path, fold_of)
    elif read_json(path) != fold_of:
        raise StudyError(f"{path}: made for other data or folds. Choose another output.")
    return fold_of


def even_folds(groups: set[str], lists: Mapping[str, list[Entry]], folds: int) -> dict[str, int]:
    """Group to fold: the largest first, each to the fold with the fewest volumes, those without any to the one with the
    fewest isolated slices."""
    volumes = Counter(entry["group"] for entry in lists["training"])
    slices = Counter(entry["group"] for entry in lists["training_slices"])
    load, fold_of = [(0, 0)] * folds, {}
    for group in sorted(groups, key=lambda g: (volumes[g], slices[g], g), reverse=True):
        first = 0 if volumes[group] else 1
        fold = min(range(folds), key=lambda k: (load[k][first], load[k]))
        fold_of[group] = fold
        load[fold] = (load[fold][0] + volumes[group], load[fold][1] + slices[group])
    return fold_of


def unseen_by(entries: Sequence[Entry], part: str, fold_of: Mapping[str, int]) -> list[Entry]:
    """The entries outside fold ``part``."""
    return [e for e in entries if str(fold_of.get(e["group"])) != part]


def parts_to_do(only: Sequence[str | int] | str | int | None, everything: Sequence[str | int]) -> list[str]:
    """The parts named by ``only`` (one or several), or all of them."""
    return [str(part) for part in ([only] if isinstance(only, (str, int)) else only or everything)]


def set_apart(cases: Sequence[Entry], groups: int, seed: int) -> dict[str, list[Entry]]:
    """The cases as ``training`` and ``validation``, the latter of ``groups`` patient groups drawn with ``seed``."""
    people = sorted({e["group"] for e in cases})
    if groups >= len(people):
        raise StudyError(f"--inner_groups {groups}: a training has {len(people)} patient groups. Choose fewer.")
    drawn = set(np.random.default_rng(seed).choice(people, groups, replace=False))
    return {
        "training": [e for e in cases if e["group"] not in drawn],
        "validation": [e for e in cases if e["group"] in drawn],
    }
