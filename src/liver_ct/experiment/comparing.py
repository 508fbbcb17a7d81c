"""How two arms differ, in numbers and on a picture sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liver_ct.errors import StudyError
from liver_ct.experiment.analysis import Analysis
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
        if name not in content["scores"]:
            raise StudyError(f"{name}: no such arm. Choose of {', '.join(content['scores'])}.")
    analysis = Analysis(content)
    return analysis, analysis.contrast(one, other)


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
