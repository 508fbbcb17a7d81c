"""The experiment's Prob-Masks: out of fold, at the fitted temperature, and of people whom stage 1 has seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.experiment.config import SEEN, SHIPPED, Experiment
from liver_ct.experiment.masks import fit_temperature, kept_histograms
from liver_ct.files import read_json, sha256_of_all, write_json
from liver_ct.training import prob_masks
from liver_ct.training.claims import claim
from liver_ct.training.datalists import assign_folds, unseen_by
from liver_ct.training.running import evaluate, inference_knobs


def make_bundles(experiment: Experiment) -> None:
    """Write the bundles with an overlay that masks or arms ask for."""
    experiment.make_bundles()


def make_masks(experiment: Experiment, name: str, fold: str) -> None:
    """Train stage 1 for one fold and write its Prob-Masks."""
    knobs, epochs = experiment.stage1_knobs(name), experiment.stage1_epochs(name)
    if prob_masks.make_part(experiment.lists, experiment.masks(name), fold, epochs, experiment.stage1(name), knobs):
        raise StudyError("Prob-Masks are missing, for the reasons above")


def list_below(experiment: Experiment, masks: Path) -> None:
    """List the Prob-Masks of a folder of stage 1's."""
    prob_masks.list_masks(experiment.lists, masks / "prob", masks / "datalist_prob.json")


def list_masks(experiment: Experiment) -> None:
    """Name the Prob-Masks of every kind in a datalist."""
    for name, _ in experiment.trainings():
        list_below(experiment, experiment.masks(name))


def measure_masks(experiment: Experiment, name: str, fold: str) -> None:
    """Dice, and histograms of stage 1's logits, of the fold's held-out cases: ``fold-K/``."""
    work, cases = experiment.masks(name) / f"fold-{fold}", experiment.held_out(fold)
    bundle, knobs = experiment.stage1(name), experiment.stage1_knobs(name)
    if not cases:  # a source of isolated slices
        return
    evaluate(bundle, work / "model.pt", work / "metrics", cases, **knobs)
    kept_histograms(bundle, work, cases, knobs)


def histograms(masks: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    """Case to its fold and counts [3, 128]."""
    return {
        case: (path.parent.name.removeprefix("fold-"), np.array(counts))
        for path in sorted(masks.glob("fold-*/histograms.json"))
        for case, counts in read_json(path).items()
    }


def temperatures(masks: Path, folds: Iterable[str] = ()) -> dict[str, float]:
    """Fold to the temperature fitted on the held-out cases of the other folds, so on none that it is judged by.

    Args:
        masks: folder of stage 1's, with histograms of at least two folds.
        folds: those that are asked for; default those that have histograms.
    """
    counts = histograms(masks)
    asked = folds or sorted({fold for fold, _ in counts.values()})
    return {
        f: round(fit_temperature(np.sum([c for fold, c in counts.values() if fold != f], axis=0)), 3) for f in asked
    }


def make_temperature_masks(experiment: Experiment) -> None:
    """The shipped Prob-Masks once more, at the fitted temperatures: ``masks/temperature/``."""
    target, missing = experiment.masks("temperature"), 0
    fitted = temperatures(experiment.masks(), experiment.folds())
    claim(target, {"temperatures": fitted, "stage1": sha256_of_all(experiment.masks().glob("fold-*/model.pt"))})
    bundle, fold_of = experiment.stage1(SHIPPED), experiment.fold_of()
    knobs = inference_knobs(bundle, experiment.stage1_knobs(SHIPPED))
    for fold, temperature in fitted.items():
        weights = experiment.masks() / f"fold-{fold}" / "model.pt"
        own = [e for e in experiment.cases() + experiment.slices() if fold_of.get(e["group"]) == fold]
        missing += prob_masks.infer(bundle, weights, own, target / "prob", **{**knobs, "temperature": temperature})
    if missing:
        raise StudyError(f"{missing} Prob-Masks are missing, for the reasons above")
    shutil.copyfile(experiment.masks() / "folds.json", target / "folds.json")
    list_below(experiment, target)


def make_seen_masks(experiment: Experiment, name: str, fold: str) -> None:
    """What the original did: Prob-Masks for a fold's stage 2 to learn from, of a stage 1 that has seen the same people.

    ``masks/<name>/seen/fold-K``. The Prob-Masks it is judged by are of people whom neither has seen.
    """
    source = experiment.masks(name)
    target, weights, lists = source / SEEN / f"fold-{fold}", source / f"fold-{fold}" / "model.pt", experiment.lists
    claim(target, {"stage1": sha256_of_all([weights])})
    bundle, knobs, fold_of = experiment.stage1(name), experiment.stage1_knobs(name), read_json(source / "folds.json")
    learned = {key: unseen_by(lists[key], fold, fold_of) for key in ("training", "training_slices")}
    told = [e for e in learned["training_slices"] if "tumour_present" in e]
    if prob_masks.infer(
        bundle, weights, [*learned["training"], *told], target / "prob", **inference_knobs(bundle, knobs)
    ):
        raise StudyError("Prob-Masks are missing, for the reasons above")
    own = prob_masks.masked(learned, target / "prob")
    held = {key: [e for e in lists[key] if str(fold_of.get(e["group"])) == fold] for key in learned}
    other = prob_masks.masked(held, source / "prob")
    shutil.copyfile(source / "folds.json", target / "folds.json")
    write_json(target / "datalist_prob.json", {key: own[key] + other[key] for key in own})


def same_folds(experiment: Experiment) -> None:
    """One division into folds for masks of every name.

    Raises:
        StudyError: one was made with another.
    """
    people, whole = experiment.config["folds"], experiment.sources_held_out()
    shipped = assign_folds(experiment.lists, people, experiment.masks() / "folds.json", whole)
    for name, _ in experiment.trainings():
        file = experiment.masks(name) / "folds.json"
        if not file.exists():
            write_json(file, shipped)
        elif read_json(file) != shipped:
            raise StudyError(f"{file}: other folds than the shipped masks'. Delete {experiment.masks(name)}.")
