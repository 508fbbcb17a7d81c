"""Datalists: cases and isolated slices of people, and the folds that keep each person on one side."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from liver_ct.errors import StudyError
from liver_ct.files import write_json
from liver_ct.lits.cases import Entry as Entry
from liver_ct.lits.cases import read_datalist, read_object
from liver_ct.lits.packing import unpack

FILES = ("image", "label", "prob")  # of an entry


def open_data(data: Path, folder: Path) -> dict[str, list[Entry]]:
    """The lists of a datalist.json, or of what ``lits pack`` made of one, which is unpacked to ``folder``.

    Raises:
        StudyError: as of `read_lists`; or two CTs have one file name, which is that of their Prob-Masks.
    """
    data = data.resolve()
    lists = read_lists(unpack(data, folder) if is_packed(data) else data)
    require_names(data, lists)
    return lists


def is_packed(data: Path) -> bool:
    """Whether data are what ``lits pack`` made, by their name."""
    return data.suffix.lower() == ".zip"


def read_lists(datalist: Path) -> dict[str, list[Entry]]:
    """The datalist with absolute paths; validation cases joined to the training ones.

    Raises:
        StudyError: no datalist, a case that stands twice, a CT of two people, or a person in ``test`` of whom there are
            other cases, too.
    """
    content = read_datalist(datalist)
    lists = {
        section: [
            {k: str(datalist.parent / v) if k in FILES else v for k, v in e.items()} for e in content.get(section, [])
        ]
        for section in ("training", "validation", "training_slices", "validation_slices", "test")
    }
    for section in ("training", "training_slices"):
        lists[section] += lists.pop(section.replace("training", "validation"))
    require_people(datalist, lists)
    return lists


def require_people(datalist: Path, lists: Mapping[str, list[Entry]]) -> None:
    """Raise StudyError for a case that stands twice or cannot name a file, for a CT of two people, however its path is
    written, and for people on both sides of a test."""
    ids = Counter(entry["case_id"] for entries in lists.values() for entry in entries)
    wrong = [case for case, count in ids.items() if count > 1 or Path(case).name != case]
    if wrong:
        raise StudyError(f"{datalist}: case_id {wrong[0]!r} stands twice, or cannot name a file. Give each its own.")
    whose: dict[str, str] = {}
    for entry in (entry for entries in lists.values() for entry in entries):
        if (other := whose.setdefault(os.path.realpath(entry["image"]), entry["group"])) != entry["group"]:
            cause = f"{entry['image']} is of two people (group), {other} and {entry['group']}"
            raise StudyError(f"{datalist}: {cause}. Name one, or leave one of its entries out.")
    learned = {entry["group"] for section in ("training", "training_slices") for entry in lists[section]}
    both = [entry["group"] for entry in lists["test"] if entry["group"] in learned]
    if both:
        raise StudyError(f"{datalist}: {both[0]} is both in test and in what is learned from. Leave them in one.")


def require_names(datalist: Path, lists: Mapping[str, list[Entry]]) -> None:
    """Raise StudyError where two CTs have one file name, since the segmentation bundle names Prob-Masks by it."""
    names = Counter(Path(entry["image"]).name for entries in lists.values() for entry in entries)
    name, count = names.most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise StudyError(
            f"{datalist}: {count} CTs are called {name}, as their Prob-Masks would be. Rename all but one."
        )


def assign_folds(lists: Mapping[str, list[Entry]], folds: int, path: Path, whole: Sequence[str] = ()) -> dict[str, int]:
    """Group to fold, evened by the number of volumes and of isolated slices; kept in ``path`` for later calls.

    People of a source that has neither a volume nor any word on tumours can be judged by nothing, and are in no fold:
    all parts learn from them.

    Args:
        lists: of the datalist.
        folds: number of folds among people.
        path: of folds.json.
        whole: sources that are held out as a whole; each makes a fold of its own after the others, of all people of
            whom it has anything.

    Raises:
        StudyError: fewer than two folds, fewer groups than folds, an unknown source, a person of two of ``whole``, or
            ``path`` was made with others.
    """
    if not isinstance(folds, int) or folds < 2:
        raise StudyError(f"folds {folds}: each is judged by the others. Choose a number from 2.")
    entries = [entry for section in ("training", "training_slices") for entry in lists[section]]
    sources_of: dict[str, set[Any]] = {}
    for entry in entries:
        sources_of.setdefault(entry["group"], set()).add(entry.get("source"))
    left = left_out(sources_of, whole)
    judged = {e.get("source") for e in lists["training"]} | {e.get("source") for e in entries if "tumour_present" in e}
    groups = {group for group, own in sources_of.items() if own & judged and group not in left}
    if len(groups) < folds:
        cause = f"the datalist holds {len(groups)} people who can be judged, too few for {folds} folds"
        raise StudyError(f"{cause}. List more people, or choose fewer folds (2 at least).")
    fold_of = even_folds(groups, lists, folds)
    for number, source in enumerate(whole, start=folds):
        fold_of |= {group: number for group, own in left.items() if own == source}
    if not path.exists():
        write_json(path, fold_of)
    elif read_object(path) != fold_of:
        raise StudyError(f"{path}: made for other data or folds. Choose another output.")
    return fold_of


def left_out(sources_of: Mapping[str, set[Any]], whole: Sequence[str]) -> dict[str, str]:
    """Group to its source, of those that are of one of ``whole``; raises StudyError for a source without anybody."""
    unknown = set(whole) - set().union(*sources_of.values())
    if unknown:
        raise StudyError(f"no case is of the source {', '.join(sorted(unknown))}. The datalist names them.")
    left = {}
    for group, own in sources_of.items():
        found = [source for source in whole if source in own]
        if len(found) > 1:
            raise StudyError(f"--held_out {','.join(found)}: somebody is of both. Leave out one of them.")
        if found:
            left[group] = found[0]
    return left


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


def learned_by(training: Path) -> list[Entry]:
    """The cases that a training's folder lists; none where it lists nothing."""
    file = training / "datalist.json"
    return [entry for entries in read_object(file).values() for entry in entries] if file.is_file() else []


def require_unseen(learned: Iterable[Entry], cases: Iterable[Entry], source: Path) -> None:
    """Raise StudyError where a network has learned from a case of ``source`` that it is to judge.

    So it is where a list, such as that of the CTs behind a packed set, has other people than the one learned from.
    """
    seen = {entry["case_id"] for entry in learned}
    if both := next((entry["case_id"] for entry in cases if entry["case_id"] in seen), None):
        cause = f"{both} would be judged by a network that has learned from it, as its group was another one then"
        raise StudyError(f"{source}: {cause}. Give the list with the groups that were trained with.")


def parts_to_do(only: Sequence[str | int] | str | int | None, everything: Sequence[str | int]) -> list[str]:
    """The parts named by ``only`` (one or several), or all of them; raises StudyError for one that is none."""
    chosen = [str(part) for part in ([only] if isinstance(only, (str, int)) else only or everything)]
    known = [str(part) for part in everything]
    if not set(chosen) <= set(known):
        raise StudyError(f"--only {','.join(chosen)}: no such part. Choose of {', '.join(known)}.")
    return chosen


def set_apart(cases: Sequence[Entry], groups: int, seed: int) -> dict[str, list[Entry]]:
    """The cases as ``training`` and ``validation``, the latter of ``groups`` patient groups drawn with ``seed``."""
    people = sorted({e["group"] for e in cases})
    if not 0 <= groups < max(1, len(people)):
        raise StudyError(f"--inner_groups {groups}: a training has {len(people)} patient groups. Choose fewer.")
    if not isinstance(seed, int) or seed < 0:
        raise StudyError(f"--seed {seed}: makes no sense. Give a whole number from 0.")
    drawn = set(np.random.default_rng(seed).choice(people, groups, replace=False)) if groups else set()
    return {
        "training": [e for e in cases if e["group"] not in drawn],
        "validation": [e for e in cases if e["group"] in drawn],
    }
