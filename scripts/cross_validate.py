"""Cross-validation of stage 2 by patient group, on out-of-fold Prob-Masks, and the training of its final weights."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from intervals import patient_intervals
from monai.metrics import compute_roc_auc
from prob_masks import Entry, parts_to_do, read_lists, run_bundle, unseen_by, write_json
from scipy.optimize import minimize
from scipy.special import expit, logit

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "liver_cls"


def run(
    masks: str,
    output: str,
    epochs: int = 40,
    only: Sequence[str] | str | None = None,
    bundle: str = str(BUNDLE),
    inner_groups: int = 0,
    **overrides: Any,
) -> None:
    """Train and evaluate stage 2 on the folds of the Prob-Masks, then train once on every case.

    Under ``output``: ``fold-K/model.pt`` and ``fold-K/metrics/slices.csv``, ``full/model.pt``, and ``results.json`` of
    ``report``. A second call goes on where a killed one stopped.

    Args:
        masks: output folder of ``scripts/prob_masks.py make``: its folds.json and datalist_prob.json are used.
        output: folder for all of the above.
        epochs: epochs of each training; the last weights are taken, so no held-out case chooses anything.
        only: parts to do now, of "0" .. and "full"; default all. Parts may run side by side.
        bundle: a classification bundle with the ids of bundles/liver_cls.
        inner_groups: patient groups set apart from each training's own for validation, whose AUC then chooses the epoch
            (and ends the training early with ``--patience``); the held-out fold still chooses nothing.
        overrides: further knobs of its train.json, such as ``--mask_source binary``.
    """
    all_parts = [*map(str, sorted(set(json.loads((Path(masks) / "folds.json").read_text()).values()))), "full"]
    for part in parts_to_do(only, all_parts):
        run_part(masks, output, part, epochs, bundle, inner_groups, overrides)
    if all((Path(output) / f"fold-{part}" / "metrics" / "slices.csv").exists() for part in all_parts[:-1]):
        report(masks, output)


def run_part(
    masks: str | Path,
    output: str | Path,
    part: str,
    epochs: int,
    bundle: str | Path,
    inner_groups: int,
    overrides: Mapping[str, Any],
) -> None:
    """Train one part of ``run``, and evaluate it where it is a fold; what is done is left."""
    source, work = Path(masks).resolve(), Path(output).resolve() / (part if part == "full" else f"fold-{part}")
    fold_of = json.loads((source / "folds.json").read_text())
    cases = read_lists(source / "datalist_prob.json")["training"]
    lists = set_apart(unseen_by(cases, part, fold_of), inner_groups, overrides.get("seed", 0))
    train(Path(bundle), work, lists, epochs, overrides)
    evaluate(Path(bundle), work, [e for e in cases if str(fold_of[e["group"]]) == part], overrides)


def evaluate(bundle: Path, work: Path, cases: Sequence[Entry], overrides: Mapping[str, Any]) -> None:
    """Write ``work/metrics/slices.csv`` of ``work/model.pt`` on ``cases``, uncalibrated; nothing to do without any."""
    if cases and not (work / "metrics" / "slices.csv").exists():
        configs = [str(bundle / "configs" / name) for name in ("train.json", "evaluate.json")]
        write_json(work / "held_out.json", {"validation": list(cases)})
        run_bundle(bundle, config_file=configs, datalist_file=work / "held_out.json", ckpt_path=work / "model.pt",
                   output_dir=work / "metrics", **{"calibration": [1.0, 0.0], **overrides})  # fmt: skip


def set_apart(cases: Sequence[Entry], groups: int, seed: int) -> dict[str, list[Entry]]:
    """The cases as ``training`` and ``validation``, the latter of ``groups`` patient groups drawn with ``seed``."""
    people = sorted({e["group"] for e in cases})
    if groups >= len(people):
        raise SystemExit(f"ERROR --inner_groups {groups}: a training has {len(people)} patient groups. Choose fewer.")
    drawn = set(np.random.default_rng(seed).choice(people, groups, replace=False))
    return {
        "training": [e for e in cases if e["group"] not in drawn],
        "validation": [e for e in cases if e["group"] in drawn],
    }


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


def report(masks: str, output: str) -> None:
    """Pool the held-out slices of all folds, and write and print ``output/results.json``.

    AUC of all slices, and accuracy, TPR and FPR at 0.5 once the logits are calibrated (for each fold on the others),
    with 95 % intervals from a bootstrap that draws patients, not slices; each fold's AUC, since probabilities of
    different networks share no scale; and ``calibration``, fitted on all folds, for the bundle's knob of that name.
    """
    fold_of = json.loads((Path(masks) / "folds.json").read_text())
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
    write_json(Path(output) / "results.json", result)
    print(json.dumps(result, indent=1))


def held_out(masks: str, output: str) -> dict[tuple[str, str], tuple[float, float, str, str]]:
    """The held-out slices of all folds: (case, slice) to label, logit, patient group and fold."""
    group = {e["case_id"]: e["group"] for e in read_lists(Path(masks) / "datalist_prob.json")["training"]}
    slices = {}
    for path in sorted(Path(output).glob("fold-*/metrics/slices.csv")):
        for row in csv.DictReader(path.open(newline="")):
            score = float(logit(np.clip(float(row["probability"]), 1e-6, 1 - 1e-6)))
            slices[row["case"], row["slice"]] = (float(row["label"]), score, group[row["case"]], path.parts[-3])
    return slices


def calibrate(label: np.ndarray, raw: np.ndarray) -> tuple[float, float]:
    """Scale and bias that make logits ``raw`` [N] fit labels best (logistic regression, Platt 1999).

    Groups are drawn evenly in training, so that the network's own probabilities are too high.
    """
    loss = lambda p: np.logaddexp(0, p[0] * raw + p[1]).mean() - (label * (p[0] * raw + p[1])).mean()  # noqa: E731
    return tuple(float(v) for v in minimize(loss, (1.0, 0.0)).x)


def cross_fitted(
    label: np.ndarray,
    raw: np.ndarray,
    fold: np.ndarray,
    fit: Callable[[np.ndarray, np.ndarray], tuple[float, float]] = calibrate,
) -> np.ndarray:
    """Probabilities ``[N]`` of logits, with scale and bias of each fold fitted on the other folds."""
    out = np.empty_like(raw)
    for f in np.unique(fold):
        scale, bias = fit(label[fold != f], raw[fold != f])
        out[fold == f] = expit(scale * raw[fold == f] + bias)
    return out


def metrics(label: np.ndarray, score: np.ndarray, probability: np.ndarray | None = None) -> dict[str, float]:
    """AUC of scores (nan for slices of one class), and accuracy, TPR and FPR at 0.5 of probabilities, all [N]."""
    both = 0 < label.sum() < len(label)
    auc = compute_roc_auc(torch.as_tensor(score)[:, None], torch.as_tensor(label)[:, None]) if both else np.nan
    found, tumour = (score if probability is None else probability) >= 0.5, label > 0
    return {
        "auc": float(auc),
        "accuracy": float((found == tumour).mean()),
        "tpr": float(found[tumour].mean()) if tumour.any() else float("nan"),
        "fpr": float(found[~tumour].mean()) if not tumour.all() else float("nan"),
    }


if __name__ == "__main__":
    fire.Fire({"run": run, "report": report})
