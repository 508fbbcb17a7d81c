"""How two arms differ, in numbers and on a picture sheet."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from liver_ct.errors import StudyError
from liver_ct.experiment.analysis import Analysis, Results, parts, restricted
from liver_ct.experiment.collecting import read_results
from liver_ct.experiment.config import Experiment
from liver_ct.experiment.evaluations import only_one_right
from liver_ct.experiment.sheet import picture_sheet


def compare(results: Path, one: str, other: str) -> tuple[Analysis, dict[str, Any]]:
    """All figures of an experiment, and the difference of two of its arms as ``Analysis.contrast`` gives it.

    Args:
        results: folder of results.json.
        one: name of an arm.
        other: name of another.

    Raises:
        StudyError: no results there, or no arm of that name.
    """
    content = read_results(results)
    for name in (one, other):
        require_arm(content, name)
    analysis = Analysis(content)
    return analysis, analysis.contrast(one, other)


def require_arm(content: Results, name: str) -> None:
    """Raise StudyError where results have no arm of that name."""
    if name not in content["scores"]:
        raise StudyError(f"{name}: no such arm. Choose of {', '.join(content['scores'])}.")


def compare_results(results: Path, against: Path, one: str, other: str) -> dict[str, dict[str, Any]]:
    """The difference of an arm of one results.json and one of another, of each part of the data that both judged.

    Cases that only one of them judged are left out. Figures are means over each arm's own seeds.

    Args:
        results: folder of the first.
        against: folder of the second.
        one: arm of the first.
        other: arm of the second.

    Returns:
        By part (``analysis.parts``), number of people and cases, AUC of both, and ``Analysis.contrast``.

    Raises:
        StudyError: no such results or arm, no case that both judged, a case of which they judged other slices or had
            other labels, or several seeds of both, but not as many.
    """
    first: Results = read_results(results)
    second: Results = read_results(against)
    require_arm(first, one)
    require_arm(second, other)
    shared = set(first["slices"]["case"]) & set(second["slices"]["case"])
    if not shared:
        raise StudyError(f"{against}: no case that {results} judged, too. Give results of the same people.")
    first, second = (of_cases(content, shared) for content in (first, second))
    columns = ("case", "slice", "person")
    alike = all(first["slices"][name] == second["slices"][name] for name in columns)
    if not alike or first["labels"] != second["labels"]:
        cause = f"other slices, people or labels of the same cases than {results}"
        raise StudyError(f"{against}: {cause}. Give two that were judged on the same files.")
    seeds, others = (list(scores.values()) for scores in (first["scores"][one], second["scores"][other]))
    count = max(len(seeds), len(others))
    if not {len(seeds), len(others)} <= {1, count}:
        raise StudyError(f"{against}: {len(others)} seeds of {other}, {len(seeds)} of {one}. Give as many, or one.")
    names = [str(number) for number in range(count)]
    scores = {name: dict(zip(names, itertools.cycle(each))) for name, each in (("one", seeds), ("other", others))}
    both = {**first, "scores": scores, "arms": {"one": first["arms"][one], "other": second["arms"][other]}}
    found = {}
    for part in parts(both):
        analysis = Analysis(both, part=part)
        label = analysis.labels[analysis.gop("one")]
        if label.all() or not label.any():
            continue  # slices of one kind have no AUC
        auc = {name: analysis.figures(name, analysis.gop(name), analysis.seeds(name))[0]["auc"] for name in scores}
        cases = len(set(analysis.results["slices"]["case"]))
        found[part] = {"people": analysis.patients, "cases": cases, "auc": auc, **analysis.contrast("one", "other")}
    return found


def of_cases(content: Results, cases: set[str]) -> Results:
    """Results of some cases alone, in the order of case and slice, so that two of them compare row by row."""
    keys = list(zip(content["slices"]["case"], content["slices"]["slice"]))
    kept = [row for row, (case, _) in enumerate(keys) if case in cases]
    return restricted(content, np.array(sorted(kept, key=keys.__getitem__)))


def list_slices(analysis: Analysis, one: str, other: str) -> list[Sequence[Any]]:
    """The slices on which one of two arms alone is right, first seed, as ``evaluations.only_one_right`` gives them.

    Args:
        analysis: the experiment's figures.
        one: name of an arm.
        other: name of another.

    Raises:
        StudyError: the arms differ in gop, and so in their labels.
    """
    if analysis.gop(one) != analysis.gop(other):
        raise StudyError(f"{other}: another gop than {one}, and so other labels. Choose two arms of one gop.")
    slices = analysis.results["slices"]
    keys = [(str(case), int(z)) for case, z in zip(slices["case"], slices["slice"])]
    seeds = analysis.seeds(one, other)[:1]
    first, second = (analysis.probabilities(arm, seeds)[0] for arm in (one, other))
    return only_one_right(keys, analysis.labels[analysis.gop(one)], first, second, threshold=0.5)


def draw_sheet(analysis: Analysis, experiment: Experiment, one: str, other: str, sheet: Path, count: int) -> None:
    """Draw the slices on which two arms disagree most, with tumour and Prob-Mask. It shows patients.

    Args:
        analysis: the experiment's figures.
        experiment: whose data are drawn.
        one: name of an arm.
        other: name of another.
        sheet: PNG to write.
        count: how many slices to draw.
    """
    picture_sheet(analysis, {e["case_id"]: e for e in experiment.cases()}, one, other, sheet, count)
