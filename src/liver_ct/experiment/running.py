"""An experiment carried out: every stage 1, every Prob-Mask and every arm, by fold and seed."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from liver_ct.errors import StudyError
from liver_ct.experiment.config import SEEN, Experiment
from liver_ct.experiment.mask_steps import (
    list_masks,
    make_bundles,
    make_masks,
    make_seen_masks,
    make_temperature_masks,
    measure_masks,
    same_folds,
)
from liver_ct.files import sha256, written_whole
from liver_ct.training import cross_validation, end_to_end, prob_masks
from liver_ct.training.claims import alone_in, claim, recipe_of
from liver_ct.training.datalists import Entry
from liver_ct.training.running import evaluate, inference_knobs, known_knobs

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
    failed = []
    with alone_in(experiment.output):
        same_folds(experiment)
        for step, calls in steps_of(experiment, arms):
            if not in_parallel(step, calls, workers, report):
                failed.append(step.__name__)
                if step in MASK_STEPS:  # nothing goes without
                    break
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
    of_arms: dict[Step, list[Call]] = {train_arm: [], judge_arm: [], train_end_to_end: []}
    for name in arms:
        arm = experiment.arms[name]
        step = train_end_to_end if "from" in arm else judge_arm if "weights" in arm else train_arm
        runs = itertools.product(arm["seeds"], experiment.tumour_folds())
        of_arms[step] += [(experiment, name, seed, fold) for seed, fold in runs]
    of_arms[train_arm].sort(key=lambda call: call[2])  # seed by seed
    trainings = [(experiment, *training) for training in experiment.trainings()]
    chosen = [experiment.arms[name] for name in arms]
    seen = sorted({arm["masks"] for arm in chosen if arm.get(SEEN)})
    tempered = any(arm["mask_source"] == "temperature" for arm in chosen)
    return [
        (make_bundles, [(experiment,)]),
        (make_masks, trainings),
        (list_masks, [(experiment,)]),
        (measure_masks, trainings),
        (make_temperature_masks, [(experiment,)] if tempered else []),
        (make_seen_masks, [(experiment, *call) for call in itertools.product(seen, experiment.tumour_folds())]),
        *of_arms.items(),
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


MASK_STEPS = (make_bundles, make_masks, list_masks, measure_masks, make_temperature_masks, make_seen_masks)


def train_arm(experiment: Experiment, name: str, seed: int, fold: str) -> None:
    """Train one arm on one fold and judge it on the held-out cases."""
    arm = experiment.arms[name]
    masks, work = experiment.masks_of(arm, fold), experiment.folder(name, seed)
    epochs = arm.get("epochs", experiment.config["epochs"])
    knobs = {k: v for k, v in experiment.knobs(arm, seed).items() if k != "epochs"}
    cross_validation.run_part(masks, work, fold, epochs, experiment.stage2(arm), arm.get("inner_groups", 0), knobs)


def judge_arm(experiment: Experiment, name: str, seed: int, fold: str) -> None:
    """Judge the weights of another arm through this arm's mask."""
    arm, work = experiment.arms[name], experiment.folder(name, seed) / f"fold-{fold}"
    source = experiment.folder(arm["weights"], seed) / f"fold-{fold}" / "model.pt"
    cases = experiment.judged(fold, experiment.masks_of(arm, fold))
    knobs, repair = experiment.knobs(arm, seed), arm.get("repair")
    claim(work, recipe_of(experiment.stage2(arm), cases, ckpt_path=source, repair=repair, **knobs))
    if repair:
        cases = [repaired(entry, repair, work / "prob") for entry in cases]
    shutil.copyfile(source, work / "model.pt")
    cross_validation.evaluate(experiment.stage2(arm), work, cases, knobs)


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
    start = experiment.folder(arm["from"], seed) / f"fold-{fold}"
    made = experiment.arms[arm["from"]]["masks"]
    masks, seg, cls = experiment.masks(made), experiment.stage1(made), experiment.stage2(arm)
    weights = (masks / f"fold-{fold}" / "model.pt", start / "model.pt")
    cases, fold_of = experiment.judged(fold, masks), experiment.fold_of()
    others = [e for e in experiment.outlined() if fold_of[e["group"]] != fold]
    knobs, seg_knobs = experiment.knobs(arm, seed), experiment.stage1_knobs(made)
    inferred = inference_knobs(seg, seg_knobs)
    recipe = recipe_of(cls, others, init_path=weights[1], stage1=sha256(weights[0]), **knobs)
    if inferred or seg != experiment.seg:
        recipe |= {"stage1_with": recipe_of(seg, **inferred)}
    claim(work, recipe)
    end_to_end.train((seg, cls), weights, work, others, knobs, inferred)
    if prob_masks.infer(seg, work / "seg.pt", cases, work / "prob", **inferred):
        raise StudyError("Prob-Masks are missing, for the reasons above")
    own = [{**e, "prob": str(prob_masks.prob_path(e, work / "prob"))} for e in cases]
    known = known_knobs(cls, "train.json", knobs)  # not those of end_to_end.json
    cross_validation.evaluate(cls, work, own, known)
    volumes = [e for e in experiment.held_out(fold) if e.get("tumour_label", True)]
    if volumes:
        evaluate(seg, work / "seg.pt", work / "liver", volumes, **seg_knobs)
