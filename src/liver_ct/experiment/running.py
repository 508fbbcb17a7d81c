"""An experiment carried out: every stage 1, every Prob-Mask and every arm, by fold and seed."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.experiment.config import Experiment
from liver_ct.experiment.masks import fit_temperature, logit_histograms
from liver_ct.files import read_json, sha256_of_all, write_json, written_whole
from liver_ct.training import cross_validation, end_to_end, prob_masks
from liver_ct.training.datalists import Entry, assign_folds
from liver_ct.training.running import known_knobs

Step = Callable[..., None]
Call = tuple[Any, ...]  # its arguments, the experiment first


def run(experiment: Experiment, arms: Sequence[str], report: Callable[[str], None]) -> list[str]:
    """Make the Prob-Masks, and train and judge the arms on every fold and seed.

    What is done already is left; a killed run goes on at the last epoch of each training. An arm that fails stops no
    other.

    Args:
        experiment: to carry out.
        arms: names of the arms to do.
        report: is told of each failure in one line.

    Returns:
        The steps of which parts failed.

    Raises:
        StudyError: another run is at work, or masks there have other folds.
    """
    unknown = set(arms) - set(experiment.arms)
    if unknown:
        raise StudyError(
            f"--arms {', '.join(sorted(unknown))}: not in {experiment.file}: {', '.join(experiment.arms)}."
        )
    workers = share_cores(experiment.config.get("workers"))
    lock = hold(experiment.output / ".lock")
    same_folds(experiment)
    failed = []
    for step, calls in steps_of(experiment, arms):
        if not in_parallel(step, calls, workers, report):
            failed.append(step.__name__)
            if step in MASK_STEPS:  # nothing goes without
                break
    lock.close()
    return failed


def share_cores(workers: int | None) -> int:
    """How many trainings run at a time, ``workers`` or one per core; their threads share the cores."""
    cores = os.cpu_count() or 1
    workers = workers or cores
    threads = max(1, cores // workers)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    return workers


def steps_of(experiment: Experiment, arms: Sequence[str]) -> list[tuple[Step, list[Call]]]:
    """The steps in their order, each with the arguments of all its calls."""
    own, weights, tuned = [], [], []
    for name in arms:
        for seed, fold in itertools.product(experiment.arms[name]["seeds"], experiment.folds()):
            call = (experiment, name, seed, fold)
            if "from" in experiment.arms[name]:
                tuned.append(call)
            elif "weights" in experiment.arms[name]:
                weights.append(call)
            else:
                own.append(call)
    own.sort(key=lambda call: call[2])  # seed by seed
    trainings = [(experiment, *training) for training in experiment.trainings()]
    return [
        (make_masks, trainings),
        (list_masks, [(experiment,)]),
        (measure_masks, trainings),
        (make_temperature_masks, [(experiment,)]),
        (train_arm, own),
        (judge_arm, weights),
        (train_end_to_end, tuned),
    ]


def in_parallel(step: Callable[..., None], calls: Iterable[Call], workers: int, report: Callable[[str], None]) -> bool:
    """Make all calls, ``workers`` at a time; whether all went well. Trainings run in processes of their own."""

    def call(arguments: Call) -> bool:
        try:
            step(*arguments)
            return True
        except Exception as e:
            names = " ".join(str(a) for a in arguments[1:])
            report(f"{step.__name__} {names}: {e}")
            return False

    with ThreadPoolExecutor(workers) as pool:
        return all(list(pool.map(call, calls)))


def make_masks(experiment: Experiment, name: str, fold: str) -> None:
    """Train stage 1 for one fold and write its Prob-Masks."""
    knobs, epochs = experiment.stage1_knobs(name), experiment.stage1_epochs(name)
    claim(experiment.masks(name) / f"fold-{fold}", {"epochs": epochs, **knobs}, remove=experiment.masks(name))
    if prob_masks.make_part(experiment.lists, experiment.masks(name), fold, epochs, experiment.seg, knobs):
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
    work, cases, knobs = (
        experiment.masks(name) / f"fold-{fold}",
        experiment.held_out(fold),
        experiment.stage1_knobs(name),
    )
    prob_masks.evaluate_fold(experiment.seg, work / "model.pt", work / "metrics", cases, **knobs)
    if not (work / "histograms.json").exists():
        write_json(work / "histograms.json", logit_histograms(experiment.seg, work / "model.pt", cases, knobs))


def histograms(masks: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    """Case to its fold and counts [3, 128]."""
    return {
        case: (path.parent.name.removeprefix("fold-"), np.array(counts))
        for path in sorted(masks.glob("fold-*/histograms.json"))
        for case, counts in read_json(path).items()
    }


def temperatures(masks: Path) -> dict[str, float]:
    """Fold to the temperature fitted on the held-out cases of the other folds, so on none that it is judged by."""
    counts = histograms(masks)
    folds = sorted({fold for fold, _ in counts.values()})
    return {
        f: round(fit_temperature(np.sum([c for fold, c in counts.values() if fold != f], axis=0)), 3) for f in folds
    }


def make_temperature_masks(experiment: Experiment) -> None:
    """The shipped Prob-Masks once more, at the fitted temperatures: ``masks/temperature/``."""
    target, missing, fitted = experiment.masks("temperature"), 0, temperatures(experiment.masks())
    claim(target, {"temperatures": fitted, "stage1": sha256_of_all(experiment.masks().glob("fold-*/model.pt"))})
    for fold, temperature in fitted.items():
        weights = experiment.masks() / f"fold-{fold}" / "model.pt"
        missing += prob_masks.infer(
            experiment.seg, weights, experiment.held_out(fold), target / "prob", temperature=temperature
        )
    if missing:
        raise StudyError(f"{missing} Prob-Masks are missing, for the reasons above")
    shutil.copyfile(experiment.masks() / "folds.json", target / "folds.json")
    list_below(experiment, target)


MASK_STEPS = (make_masks, list_masks, measure_masks, make_temperature_masks)


def train_arm(experiment: Experiment, name: str, seed: int, fold: str) -> None:
    """Train one arm on one fold and judge it on the held-out cases."""
    arm, masks, work = experiment.arms[name], experiment.masks_of(experiment.arms[name]), experiment.folder(name, seed)
    epochs = arm.get("epochs", experiment.config["epochs"])
    knobs = {k: v for k, v in experiment.knobs(arm, seed).items() if k != "epochs"}
    masks_digest = sha256_of_all([*experiment.masks(arm["masks"]).glob("fold-*/model.pt"), *masks.glob("arm.json")])
    claim(work / f"fold-{fold}", {**arm, "epochs": epochs, "stage1": masks_digest})
    cross_validation.run_part(masks, work, fold, epochs, experiment.cls, arm.get("inner_groups", 0), knobs)


def judge_arm(experiment: Experiment, name: str, seed: int, fold: str) -> None:
    """Judge the weights of another arm through this arm's mask."""
    arm, work = experiment.arms[name], experiment.folder(name, seed) / f"fold-{fold}"
    source = experiment.folder(arm["weights"], seed) / f"fold-{fold}" / "model.pt"
    claim(work, {**arm, "source": sha256_of_all([source])})
    cases = experiment.held_out(fold, experiment.masks_of(arm))
    if arm.get("repair"):
        cases = [repaired(entry, arm["repair"], work / "prob") for entry in cases]
    shutil.copyfile(source, work / "model.pt")
    cross_validation.evaluate(experiment.cls, work, cases, experiment.knobs(arm, seed))


def repaired(entry: Entry, where: str, folder: Path) -> Entry:
    """The case with a Prob-Mask in ``folder`` that the true liver has repaired: its leaks are 0, or its gaps 1."""
    prob, label = (nib.load(entry[key]) for key in ("prob", "label"))
    liver, values = np.asanyarray(label.dataobj) > 0, prob.get_fdata(dtype=np.float32)
    values = values * liver if where == "leaks" else np.maximum(values, liver)
    image = nib.Nifti1Image((values * 255).round().astype(np.uint8), prob.affine)
    image.header.set_slope_inter(1 / 255, 0)
    path = folder / Path(entry["prob"]).name
    with written_whole(path) as part:
        nib.save(image, part)
    return {**entry, "prob": str(path)}


def train_end_to_end(experiment: Experiment, name: str, seed: int, fold: str) -> None:
    """Train both stages as one from where another arm and its Prob-Masks stand, and judge the pair."""
    arm, work = experiment.arms[name], experiment.folder(name, seed) / f"fold-{fold}"
    start, masks = (
        experiment.folder(arm["from"], seed) / f"fold-{fold}",
        experiment.masks(experiment.arms[arm["from"]]["masks"]),
    )
    weights = (masks / f"fold-{fold}" / "model.pt", start / "model.pt")
    claim(work, {**arm, "source": sha256_of_all(weights)})
    cases, fold_of = experiment.held_out(fold, masks), experiment.fold_of()
    others = [e for e in experiment.cases() if fold_of[e["group"]] != fold]
    end_to_end.train((experiment.seg, experiment.cls), weights, work, others, experiment.knobs(arm, seed))
    if prob_masks.infer(experiment.seg, work / "seg.pt", cases, work / "prob"):
        raise StudyError("Prob-Masks are missing, for the reasons above")
    own = [{**e, "prob": str(prob_masks.prob_path(e, work / "prob"))} for e in cases]
    knobs = known_knobs(experiment.cls, "train.json", experiment.knobs(arm, seed))  # not those of end_to_end.json
    cross_validation.evaluate(experiment.cls, work, own, knobs)
    prob_masks.evaluate_fold(experiment.seg, work / "seg.pt", work / "liver", cases)


def claim(work: Path, content: Mapping[str, Any], remove: Path | None = None) -> None:
    """Note in ``work/arm.json`` what a folder is made with, so that other settings never take it for their own.

    Raises:
        StudyError: it was made with something else; ``remove`` (default: the folder) has to go.
    """
    file, own = work / "arm.json", {k: v for k, v in content.items() if k not in ("name", "seeds")}
    if not file.exists():
        write_json(file, own)
    elif read_json(file) != own:
        raise StudyError(f"{file}: made with other settings or weights. Delete {remove or work}, or name it otherwise.")


def hold(file: Path) -> IO[str]:
    """Lock the experiment, so that no second run writes into its folders; trainings a kill left behind hold it too.

    Raises:
        StudyError: another run holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.open("w")
    os.set_inheritable(lock.fileno(), True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StudyError(
            f"{file}: another run of this experiment is at work. Wait for it, or end its trainings."
        ) from None
    return lock


def same_folds(experiment: Experiment) -> None:
    """One division into folds for masks of every name.

    Raises:
        StudyError: one was made with another.
    """
    shipped = assign_folds(experiment.lists, experiment.config["folds"], experiment.masks() / "folds.json")
    for name, _ in experiment.trainings():
        file = experiment.masks(name) / "folds.json"
        if not file.exists():
            write_json(file, shipped)
        elif read_json(file) != shipped:
            raise StudyError(f"{file}: other folds than the shipped masks'. Delete {experiment.masks(name)}.")
