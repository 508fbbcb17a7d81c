"""Cross-validation of stage 2 by patient group, on out-of-fold Prob-Masks, and the training of its final weights."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit

from liver_ct.files import read_json, write_json
from liver_ct.training.calibration import calibrate, cross_fitted, metrics
from liver_ct.training.datalists import Entry, parts_to_do, read_lists, set_apart, unseen_by
from liver_ct.training.intervals import patient_intervals
from liver_ct.training.running import run_bundle


def run(
    masks: Path,
    output: Path,
    epochs: int = 40,
    only: Sequence[str] | str | None = None,
    inner_groups: int = 0,
    *,
    bundle: Path,
    **overrides: Any,
) -> dict[str, Any] | None:
    """Train and evaluate stage 2 on the folds of the Prob-Masks, then train once on every case.

    Under ``output``: ``fold-K/model.pt`` and ``fold-K/metrics/slices.csv``, ``full/model.pt``, and ``results.json`` of
    ``report``. A second call goes on where a killed one stopped.

    Args:
        masks: output folder of ``scripts/prob_masks.py make``: its folds.json and datalist_prob.json are used.
        output: folder for all of the above.
        epochs: epochs of each training; the last weights are taken, so no held-out case chooses anything.
        only: parts to do now, of "0" .. and "full"; default all. Parts may run side by side.
        inner_groups: patient groups set apart from each training's own for validation, whose AUC then chooses the epoch
            (and ends the training early with ``--patience``); the held-out fold still chooses nothing.
        bundle: a classification bundle with the ids of bundles/liver_cls.
        overrides: further knobs of its train.json, such as ``mask_source``.

    Returns:
        What results.json holds; None while folds are missing.

    Raises:
        StudyError: a training failed, or more ``inner_groups`` than a training has.
    """
    all_parts = [*map(str, sorted(set(read_json(masks / "folds.json").values()))), "full"]
    for part in parts_to_do(only, all_parts):
        run_part(masks, output, part, epochs, bundle, inner_groups, overrides)
    if all((output / f"fold-{part}" / "metrics" / "slices.csv").exists() for part in all_parts[:-1]):
        return report(masks, output)
    return None


def run_part(
    masks: Path, output: Path, part: str, epochs: int, bundle: Path, inner_groups: int, overrides: Mapping[str, Any]
) -> None:
    """Train one part of ``run``, and evaluate it where it is a fold; what is done is left."""
    source, work = masks.resolve(), output.resolve() / (part if part == "full" else f"fold-{part}")
    fold_of = read_json(source / "folds.json")
    cases = read_lists(source / "datalist_prob.json")["training"]
    lists = set_apart(unseen_by(cases, part, fold_of), inner_groups, overrides.get("seed", 0))
    train(bundle, work, lists, epochs, overrides)
    evaluate(bundle, work, [e for e in cases if str(fold_of[e["group"]]) == part], overrides)


def evaluate(bundle: Path, work: Path, cases: Sequence[Entry], overrides: Mapping[str, Any]) -> None:
    """Write ``work/metrics/slices.csv`` of ``work/model.pt`` on ``cases``, uncalibrated; nothing to do without any."""
    if cases and not (work / "metrics" / "slices.csv").exists():
        configs = [str(bundle / "configs" / name) for name in ("train.json", "evaluate.json")]
        write_json(work / "held_out.json", {"validation": list(cases)})
        run_bundle(bundle, config_file=configs, datalist_file=work / "held_out.json", ckpt_path=work / "model.pt",
                   output_dir=work / "metrics", **{"calibration": [1.0, 0.0], **overrides})  # fmt: skip


def train(
    bundle: Path, work: Path, lists: Mapping[str, list[Entry]], epochs: int, overrides: Mapping[str, Any]
) -> None:
    """Train to ``work/model.pt``, resuming at the last epoch; nothing to do when it is there."""
    if (work / "model.pt").exists():
        return
    write_json(work / "datalist.json", lists)
    run_bundle(bundle, config_file=bundle / "configs" / "train.json", datalist_file=work / "datalist.json",
               ckpt_dir=work / "runs", epochs=epochs, **overrides)  # fmt: skip
    best = "model.pt" if lists["validation"] else "model_final.pt"
    os.replace(work / "runs" / best, work / "model.pt")


def report(masks: Path, output: Path) -> dict[str, Any]:
    """Pool the held-out slices of all folds, write ``output/results.json`` and return what it holds.

    AUC of all slices, and accuracy, TPR and FPR at 0.5 once the logits are calibrated (for each fold on the others),
    with 95 % intervals from a bootstrap that draws patients, not slices; each fold's AUC, since probabilities of
    different networks share no scale; and ``calibration``, fitted on all folds, for the bundle's knob of that name.
    """
    fold_of = read_json(masks / "folds.json")
    slices = held_out(masks, output)
    label, raw, person, fold = (np.array([row[i] for row in slices.values()]) for i in range(4))
    score = cross_fitted(label, raw, fold)
    result = {
        "slices": len(slices),
        "tumour_slices": int(label.sum()),
        "cases": len({case for case, _ in slices}),
        "patient_groups": len(np.unique(person)),
        "folds": len(set(fold_of.values())),
        **{name: round(value, 4) for name, value in metrics(label, raw, score).items()},
        "interval_95": patient_intervals(person, lambda rows: metrics(label[rows], raw[rows], score[rows])),
        "auc_per_fold": {f: round(metrics(label[fold == f], raw[fold == f])["auc"], 4) for f in np.unique(fold)},
        "calibration": [round(value, 3) for value in calibrate(label, raw)],
    }
    write_json(output / "results.json", result)
    return result


def held_out(masks: Path, output: Path) -> dict[tuple[str, str], tuple[float, float, str, str]]:
    """The held-out slices of all folds: (case, slice) to label, logit, patient group and fold."""
    group = {e["case_id"]: e["group"] for e in read_lists(masks / "datalist_prob.json")["training"]}
    slices = {}
    for path in sorted(output.glob("fold-*/metrics/slices.csv")):
        for row in csv.DictReader(path.open(newline="")):
            score = float(logit(np.clip(float(row["probability"]), 1e-6, 1 - 1e-6)))
            slices[row["case"], row["slice"]] = (float(row["label"]), score, group[row["case"]], path.parts[-3])
    return slices
