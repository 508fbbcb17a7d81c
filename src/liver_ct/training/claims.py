"""What a folder's trainings, masks and figures are made with, so that other settings never take them for their own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liver_ct.errors import StudyError
from liver_ct.files import Checksums, read_json, sha256_of_all, write_json
from liver_ct.training.datalists import FILES, Entry

MADE_WITH = "made_with.json"
CONFIGS = ("train.json", "evaluate.json", "inference.json")
NO_KNOBS = ("bundle", "cases", "epochs", "init_path", "device", "tracker")  # of a recipe, or of that run alone
OF_ONE_FOLD = ("cases", "init_path", "device", "tracker", "num_workers", "cache_rate", "show_masks")  # may differ
KNOWN = Checksums()  # each file is read once in a process
Recipe = dict[str, Any]


def recipe_of(bundle: Path, entries: Iterable[Entry] = (), **knobs: Any) -> Recipe:
    """What a result follows from, so that it can be told from another's.

    Args:
        bundle: whose configs count.
        entries: cases; of their files what is in them counts, and of CTs and labels the name, so that the data may be
            moved.
        knobs: as they are, but for weights, which count by what is in them: ``ckpt_path`` and ``init_path``.

    Raises:
        StudyError: there is no bundle, or no weights.
    """
    made_with: Recipe = {"bundle": sha256_of_all(configs_of(bundle))}
    for name, value in knobs.items():
        is_weights = name in ("ckpt_path", "init_path") and value
        if is_weights and not Path(value).is_file():
            raise StudyError(f"{value}: no such weights. Check the path, or do what makes them first.")
        made_with[name] = KNOWN(Path(value)) if is_weights else value
    cases = [{key: _told(key, value) for key, value in sorted(entry.items())} for entry in entries]
    if cases:
        made_with["cases"] = hashlib.sha256(json.dumps(cases, default=str).encode()).hexdigest()
    recipe: Recipe = json.loads(json.dumps(made_with, default=str))  # as it is read again
    return recipe


def configs_of(bundle: Path) -> list[Path]:
    """The configs that a result follows from; raises StudyError where there is no bundle."""
    files = [bundle / "configs" / name for name in CONFIGS]
    if lost := next((file for file in files if not file.is_file()), None):
        raise StudyError(f"{bundle}: no bundle here ({lost} is missing). Check its path.")
    return files


def _told(key: str, value: Any) -> Any:
    """What tells a value of a case from another's."""
    if key not in FILES or not Path(value).is_file():
        return value
    file = Path(value)
    content = KNOWN(file)
    return content if key == "prob" else [file.name, content]


def knobs_of(training: Path) -> dict[str, Any]:
    """The bundle's knobs that a training says it was given; none where it says nothing.

    Without those of that run alone: how long, from where and on what it ran, and who kept track.
    """
    file = training / MADE_WITH
    recipe = read_json(file) if file.is_file() else {}
    return {name: value for name, value in recipe.items() if name not in NO_KNOBS}


def is_made_with(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder says that it was made with just this."""
    file = folder / MADE_WITH
    return file.is_file() and read_json(file) == recipe


def claim(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Note in a folder what it is made with.

    Raises:
        StudyError: it was made with something else.
    """
    if not is_claimed(folder, recipe):
        mark(folder, recipe)


def mark(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Note in a folder what it is made with, whatever it was before."""
    write_json(folder / MADE_WITH, recipe)


def is_claimed(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether a folder says what it is made with; raises StudyError where that is something else."""
    file = folder / MADE_WITH
    if not file.exists():
        return False
    if other := _differences(read_json(file), recipe):
        raise StudyError(f"{file}: made with other settings: {other}. Choose another output, or delete {folder}.")
    return True


def claim_fold(folder: Path, recipe: Mapping[str, Any]) -> None:
    """``claim`` of one fold beside others, with which it is judged as one.

    Raises:
        StudyError: it, or one of the others, was made with something else.
    """
    is_claimed(folder, recipe)
    for file in sorted(folder.parent.glob(f"fold-*/{MADE_WITH}")) if folder.name.startswith("fold-") else []:
        if other := _differences(read_json(file), recipe, OF_ONE_FOLD):
            raise StudyError(f"{file}: made with other settings: {other}. Give all folds the same, or another output.")
    claim(folder, recipe)


def _differences(known: Mapping[str, Any], recipe: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """The settings in which two recipes differ, "" where they are alike."""
    other = [key for key in sorted({*known, *recipe} - {*ignored}) if known.get(key) != recipe.get(key)]
    return ", ".join(_compared(key, known.get(key), recipe.get(key)) for key in other)


def _compared(key: str, before: Any, now: Any) -> str:
    """A setting and both its values, where these are short."""
    values = f"{before} before, {now} now"
    return f"{key} ({values})" if len(values) < 60 else key


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder of trainings, so that no second run writes into it; trainings that a kill left behind hold it, too.

    Raises:
        StudyError: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(f"{folder}: another run is at work there. Wait for it, or end its trainings.") from None
        yield
