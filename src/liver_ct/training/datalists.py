"""Datalists: cases and isolated slices of people, and the folds that keep each person on one side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from liver_ct.errors import StudyError
from liver_ct.files import read_json, write_json

Entry = dict[str, Any]


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


def assign_folds(lists: Mapping[str, list[Entry]], folds: int, path: Path) -> dict[str, int]:
    """Group to fold, evened by the number of volumes, then of isolated slices; kept in ``path`` for later calls.

    Raises:
        StudyError: there are fewer groups than folds, or ``path`` was made with others.
    """
    groups = {e["group"] for section in ("training", "training_slices") for e in lists[section]}
    if len(groups) < folds:
        raise StudyError(f"the datalist holds {len(groups)} patient groups. Choose at most as many folds.")
    if path.exists():
        fold_of: dict[str, int] = read_json(path)
        if set(fold_of) != groups or max(fold_of.values()) + 1 != folds:
            raise StudyError(f"{path}: made for other data or folds. Choose another output.")
        return fold_of
    fold_of = even_folds(groups, lists, folds)
    write_json(path, fold_of)
    return fold_of


def even_folds(groups: set[str], lists: Mapping[str, list[Entry]], folds: int) -> dict[str, int]:
    """Group to fold: the largest group first, each to the fold with the fewest volumes, then isolated slices."""
    volumes = Counter(entry["group"] for entry in lists["training"])
    slices = Counter(entry["group"] for entry in lists["training_slices"])
    load, fold_of = [(0, 0)] * folds, {}
    for group in sorted(groups, key=lambda g: (volumes[g], slices[g], g), reverse=True):
        fold = load.index(min(load))
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
