"""Cross-validation of stage 2 by patient group, on out-of-fold Prob-Masks, and the training of its final weights."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from liver_ct.errors import StudyError
from liver_ct.files import read_json, write_json
from liver_ct.lits.cases import TUMOUR
from liver_ct.training import running
from liver_ct.training.calibration import calibrate, cross_fitted, metrics, told_apart
from liver_ct.training.claims import alone_in, claim_fold, recipe_of
from liver_ct.training.datalists import Entry, parts_to_do, read_lists, require_unseen, set_apart, unseen_by
from liver_ct.training.intervals import patient_intervals
from liver_ct.training.lesions import read_labels
from liver_ct.training.running import go_on, run_bundle

SECTIONS = ("training", "training_slices")
# (case, slice) to label, logit, patient group and fold
Slices = dict[tuple[str, str], tuple[float, float, str, str]]


def run(
    masks: Path,
    output: Path,
    epochs: int = 120,
    only: Sequence[str] | str | None = None,
    inner_groups: int = 0,
    *,
    bundle: Path,
    judged: Path | None = None,
    **overrides: Any,
) -> dict[str, Any] | None:
    """Train and evaluate stage 2 on the folds of the Prob-Masks, then go on from the last fold with every case.

    Under ``output``: ``fold-K/model.pt`` and ``fold-K/metrics/slices.csv``, ``full/model.pt``, and ``results.json`` of
    ``report``. A second call goes on where a killed one stopped.

    Args:
        masks: output folder of ``scripts/prob_masks.py make``: its folds.json and datalist_prob.json are used.
        output: folder for all of the above.
        epochs: epochs of each fold, a quarter of them for every case (``running.go_on``); the last weights are
            taken, so no held-out case chooses anything.
        only: parts to do now, of "0" .. and "full"; default all. Parts may run side by side.
        inner_groups: patient groups set apart from each training's own for validation, whose AUC then chooses the epoch
            (and ends the training early with ``--patience``); the held-out fold still chooses nothing.
        bundle: a classification bundle with the ids of bundles/liver_cls.
        judged: list of ``prob_masks unseen``, whose cases are judged in the place of those of the same people that are
            learned from; default the same.
        overrides: further knobs of its train.json, such as ``mask_source``.

    Returns:
        What results.json holds; None while folds are missing.

    Raises:
        StudyError: a training failed or was made with other settings, tumours are known in fewer than two folds, more
            ``inner_groups`` than a training has or none of them with tumour, or a list with other people.
    """
    judged = judged or masks / "datalist_prob.json"
    folds = folds_with_tumour(masks)
    require_judges(masks / "datalist_prob.json", folds)
    all_parts = [*folds, "full"]
    for part in parts_to_do(only, all_parts):
        length, knobs = epochs, overrides
        if part == "full":
            length, knobs = go_on(output / f"fold-{folds[-1]}" / "model.pt", epochs, bundle, overrides)
        run_part(masks, output, part, length, bundle, inner_groups, knobs, judged)
    if all(is_judged(output, fold) for fold in folds):
        return report(masks, output, judged)
    return None


def folds_with_tumour(masks: Path) -> list[str]:
    """The folds that hold a case whose tumours are known; a source without any has nothing to say here."""
    return tumour_folds(read_lists((masks / "datalist_prob.json").resolve()), read_json(masks / "folds.json"))


def tumour_folds(lists: Mapping[str, list[Entry]], fold_of: Mapping[str, Any]) -> list[str]:
    """``folds_with_tumour`` of lists and groups' folds."""
    told = [entry for section in SECTIONS for entry in lists[section] if tells_of_tumour(entry)]
    return sorted({str(fold_of[entry["group"]]) for entry in told if entry["group"] in fold_of})


def require_judges(datalist: Path, folds: Sequence[str]) -> None:
    """Raise StudyError unless tumours are known in two folds, each to be judged by what is learned on the other."""
    if len(folds) < 2:
        known = f"in fold {folds[0]} alone" if folds else "of nobody"
        cause = f"tumours are known {known}, so that stage 2 has nothing to learn from, or to be judged by"
        raise StudyError(f"{datalist}: {cause}. List more people whose tumours are known; stage 1 needs none.")


def known_tumour(datalist: Path, *sections: str) -> list[Entry]:
    """The entries of which it is known where, or in which slices, tumour is."""
    lists = read_lists(datalist.resolve())
    return [e for section in sections for e in lists[section] if tells_of_tumour(e)]


def tells_of_tumour(entry: Entry) -> bool:
    """Whether outlines, slices or presence are known."""
    listed = entry.get("tumour_in") or entry.get("tumour_free")
    return bool(entry.get("tumour_label", True) or "tumour_present" in entry or listed)


def run_part(
    masks: Path,
    output: Path,
    part: str,
    epochs: int,
    bundle: Path,
    inner_groups: int,
    overrides: Mapping[str, Any],
    judged: Path | None = None,
) -> None:
    """Train one part of ``run``, and evaluate it where it is a fold; what is done is left."""
    source, work = masks.resolve(), output.resolve() / (part if part == "full" else f"fold-{part}")
    fold_of = read_json(source / "folds.json")
    volumes, slices = (known_tumour(source / "datalist_prob.json", section) for section in SECTIONS)
    if overrides.get("patience") and not inner_groups:
        raise StudyError("--patience: ends a training by people who are set apart, and nobody is. Give --inner_groups.")
    lists = set_apart(unseen_by(volumes, part, fold_of), inner_groups, overrides.get("seed", 0))
    own = {entry["group"] for entry in lists["validation"]}
    lists["training_slices"] = [e for e in unseen_by(slices, part, fold_of) if e["group"] not in own]
    if inner_groups and not any(map(shows_both, lists["validation"])):
        cause = f"of the people set apart from part {part} nobody shows slices with tumour and without, so that no AUC"
        raise StudyError(f"--inner_groups {inner_groups}: {cause} can choose an epoch. Set more apart.")
    listed = judged or source / "datalist_prob.json"
    cases = [e for e in known_tumour(listed, *SECTIONS) if str(fold_of.get(e["group"])) == part]
    require_unseen(itertools.chain(*lists.values()), cases, listed)
    with alone_in(work):
        train(bundle, work, lists, epochs, overrides)
        evaluate(bundle, work, cases, overrides)


def shows_both(entry: Entry) -> bool:
    """Whether a volume shows slices with tumour and, as any volume with outlines does, slices without."""
    if entry.get("tumour_label", True):
        return bool((read_labels(Path(entry["label"])) == TUMOUR).any())
    return bool(entry.get("tumour_in") and entry.get("tumour_free"))


def evaluate(bundle: Path, work: Path, cases: Sequence[Entry], overrides: Mapping[str, Any]) -> None:
    """Write ``work/metrics/slices.csv`` of ``work/model.pt`` on ``cases``, uncalibrated; nothing to do without any."""
    if cases:
        knobs = {"calibration": [1.0, 0.0], **overrides}
        running.evaluate(bundle, work / "model.pt", work / "metrics", cases, **knobs)


def train(
    bundle: Path, work: Path, lists: Mapping[str, list[Entry]], epochs: int, overrides: Mapping[str, Any]
) -> None:
    """Train to ``work/model.pt``, resuming at the last epoch; nothing to do when it is there.

    Raises:
        StudyError: the training failed, or there is one with other settings, cases or Prob-Masks.
    """
    learned = [*lists["training"], *lists["training_slices"], *lists["validation"]]
    apart = {"inner_groups": len({e["group"] for e in lists["validation"]})} if lists["validation"] else {}
    claim_fold(work, recipe_of(bundle, learned, epochs=epochs, **apart, **overrides))
    if (work / "model.pt").exists():
        return
    write_json(work / "datalist.json", lists)
    run_bundle(bundle, config_file=bundle / "configs" / "train.json", datalist_file=work / "datalist.json",
               ckpt_dir=work / "runs", epochs=epochs, **overrides)  # fmt: skip
    best = "model.pt" if lists["validation"] else "model_final.pt"  # both averaged
    os.replace(work / "runs" / best, work / "model.pt")


def report(masks: Path, output: Path, judged: Path | None = None) -> dict[str, Any]:
    """Pool the held-out slices of all folds, write ``output/results.json`` and return what it holds.

    Once for the slices of volumes, and once for isolated slices, those that there are. AUC of all slices, and accuracy,
    TPR and FPR at 0.5 once the logits are calibrated (for each fold on the others), with 95 % intervals from a
    bootstrap that draws patients, not slices; each fold's AUC, since probabilities of different networks share no
    scale; operating points by the share of tumour-free slices that are flagged; and ``calibration``, fitted on all
    folds, for the bundle's knob of that name.
    """
    missing = [output / f"fold-{fold}" for fold in folds_with_tumour(masks) if not is_judged(output, fold)]
    if missing:
        raise StudyError(f"{missing[0]}: is not judged yet. Do `cross_validate.py run` for all folds first.")
    slices = held_out(judged or masks / "datalist_prob.json", output)
    if not slices:
        raise StudyError(f"{output}: its folds judged no slice of which tumour is known. List more people.")
    volumes, lone = ({k: row for k, row in slices.items() if isolated(k[0]) == kind} for kind in (False, True))
    label, raw, _, _ = columns(volumes or lone)
    result: dict[str, Any] = figures(volumes) if volumes else {}
    result["calibration"] = [round(value, 3) for value in calibrate(label, raw)]
    if lone:
        result["isolated_slices"] = figures(lone)
    write_json(output / "results.json", result)
    return result


def is_judged(output: Path, fold: str) -> bool:
    """Whether the slices of a fold are judged."""
    return (output / f"fold-{fold}" / "metrics" / "slices.csv").exists()


def isolated(case: str) -> bool:
    """Whether a case is an isolated slice, by the name that ``lits slices`` gave it."""
    return case.startswith("slice-")


def columns(slices: Slices) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Label, logit, patient group and fold of every slice, each [N]."""
    label, raw, person, fold = (np.array(column) for column in zip(*slices.values()))
    return label, raw, person, fold


def figures(slices: Slices) -> dict[str, Any]:
    """The figures of ``report`` for some held-out slices."""
    label, raw, person, fold = columns(slices)
    score = cross_fitted(label, raw, told_apart(fold, person))
    return {
        "slices": len(slices),
        "tumour_slices": int(label.sum()),
        "cases": len({case for case, _ in slices}),
        "patient_groups": len(np.unique(person)),
        "folds": len(np.unique(fold)),
        **{name: round(value, 4) for name, value in metrics(label, raw, score).items()},
        "interval_95": patient_intervals(person, lambda rows: metrics(label[rows], raw[rows], score[rows])),
        "auc_per_fold": {f: round(metrics(label[fold == f], raw[fold == f])["auc"], 4) for f in np.unique(fold)},
        "operating_points": operating_points(label, score, person),
    }


def operating_points(label: NDArray[Any], score: NDArray[Any], person: NDArray[Any]) -> list[dict[str, Any]]:
    """Threshold, and share of tumour slices flagged with its interval, where 5, 10 and 20 % of the others are; none for
    slices of one class.

    Args:
        label: 1 where there is tumour, [N].
        score: calibrated probabilities, [N].
        person: whose each slice is, [N].
    """
    points: list[dict[str, Any]] = []
    if label.all() or not label.any():
        return points
    for wanted in (0.05, 0.1, 0.2):
        threshold = float(np.quantile(score[label == 0], 1 - wanted))

        def found(rows: NDArray[Any], threshold: float = threshold) -> dict[str, float]:
            flagged, tumour = score[rows] > threshold, label[rows] > 0
            return {"sensitivity": flagged[tumour].mean(), "false_alarms": flagged[~tumour].mean()}

        spread = patient_intervals(person, found)
        figures = {name: round(float(value), 4) for name, value in found(np.arange(len(label))).items()}
        points.append({"threshold": round(threshold, 4), **figures, "interval_95": spread})
    return points


def held_out(judged: Path, output: Path) -> Slices:
    """The held-out slices of all folds; raises StudyError for one whose case the list does not have."""
    group = {e["case_id"]: e["group"] for e in known_tumour(judged, *SECTIONS)}
    slices = {}
    for path in sorted(output.glob("fold-*/metrics/slices.csv")):
        for row in csv.DictReader(path.open(newline="", encoding="utf-8")):
            score = float(logit(np.clip(float(row["probability"]), 1e-6, 1 - 1e-6)))
            if float(row["label"]) < 0:  # unknown
                continue
            if row["case"] not in group:
                raise StudyError(
                    f"{path}: {row['case']} is not in {judged}. Give the list that the folds were judged on."
                )
            slices[row["case"], row["slice"]] = (float(row["label"]), score, group[row["case"]], path.parts[-3])
    return slices
