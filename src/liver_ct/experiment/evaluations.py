"""Two evaluations of stage 2, slice by slice: where one network is right and the other is wrong."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.experiment.stats import disagreement, figures
from liver_ct.files import written_whole

TABLE = "slices.csv"  # as evaluate.json of the bundle writes it
COLUMNS = ("case", "slice", "label", "one", "other", "right")
Key = tuple[str, int]  # case and slice
Scores = dict[Key, tuple[int, float]]  # label and probability


def is_evaluation(name: str) -> bool:
    """Whether a name is that of an evaluation's folder or table rather than of an arm."""
    return Path(name).is_file() or Path(name, TABLE).is_file()


def read_scores(place: Path) -> Scores:
    """Label and probability of each slice of an evaluation.

    Args:
        place: the evaluation's ``output_dir``, or its slices.csv.

    Raises:
        StudyError: there is no such table, or it holds no slice.
    """
    file = place / TABLE if place.is_dir() else place
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        scores = {(r["case"], int(r["slice"])): (int(float(r["label"])), float(r["probability"])) for r in rows}
    except (OSError, KeyError, TypeError, ValueError) as e:
        raise StudyError(f"{file}: no table of an evaluation ({e}). Give the output_dir of evaluate.json.") from e
    if not scores:
        raise StudyError(f"{file}: holds no slice. Evaluate studies whose tumours are known.")
    return scores


def compare_evaluations(one: Path, other: Path, threshold: float = 0.5) -> tuple[dict[str, Any], list[Sequence[Any]]]:
    """How two networks' answers differ on the same slices.

    Args:
        one: an evaluation, as for ``read_scores``.
        other: another.
        threshold: from this probability on a slice counts as one with tumour.

    Returns:
        AUC, accuracy, TPR and FPR of both (AUC None where all slices are of one class) with the counts of
        ``stats.disagreement``, of cases in the place of patients, and the slices on which one alone is right as rows of
        COLUMNS.

    Raises:
        StudyError: a table that is missing, or other slices or labels in one than in the other.
    """
    first, second = read_scores(one), read_scores(other)
    if {key: label for key, (label, _) in first.items()} != {key: label for key, (label, _) in second.items()}:
        raise StudyError(f"{other}: other slices or labels than in {one}. Evaluate both on one datalist, with one gop.")
    keys = sorted(first)
    label = np.array([first[key][0] for key in keys])
    a, b = (np.array([scores[key][1] for key in keys]) for scores in (first, second))
    case = np.array([case for case, _ in keys])
    decided_a, decided_b = ((p >= threshold).astype(np.float64) for p in (a, b))
    counts = disagreement(label, decided_a, decided_b, case)
    difference = {
        "one": _figures(label, a, decided_a),
        "other": _figures(label, b, decided_b),
        # a table does not say whose a case is
        **{name.replace("patients_", "cases_"): count for name, count in counts.items()},
    }
    return difference, only_one_right(keys, label, a, b, threshold)


def _figures(label: NDArray[Any], probability: NDArray[Any], decided: NDArray[Any]) -> dict[str, float | None]:
    """AUC, accuracy, TPR and FPR, those that there are."""
    names = ("auc", "accuracy", "tpr", "fpr")
    if label.all() or not label.any():
        return {**dict.fromkeys(names), "accuracy": round(float((decided == label).mean()), 4)}
    found = figures(label, probability, decided)
    return {name: round(found[name], 4) for name in names}


def only_one_right(
    keys: Sequence[Key], label: NDArray[Any], one: NDArray[Any], other: NDArray[Any], threshold: float
) -> list[Sequence[Any]]:
    """The slices on which one of two networks alone is right, as rows of COLUMNS; those of ``one`` first.

    Args:
        keys: case and slice, N of them.
        label: 0 or 1, ``[N]``.
        one: probabilities of one network, ``[N]``.
        other: of the other, ``[N]``.
        threshold: from this probability on a slice counts as one with tumour.
    """
    tumour = label > 0
    first, second = (one >= threshold) == tumour, (other >= threshold) == tumour
    rows: list[Sequence[Any]] = []
    for name, chosen in (("one", first & ~second), ("other", second & ~first)):
        found = np.flatnonzero(chosen)
        rows += [(*keys[i], int(label[i]), f"{one[i]:.6f}", f"{other[i]:.6f}", name) for i in found]
    return rows


def write_lists(rows: Sequence[Sequence[Any]], target: Path) -> None:
    """Write rows of COLUMNS as CSV, whole or not at all; raises StudyError."""
    try:
        with written_whole(target) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    except OSError as e:
        raise StudyError(f"{target}: cannot be written ({e.strerror or e}). Choose another --lists.") from e
