"""Everything that was measured, brought into one file of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from liver_ct.errors import StudyError
from liver_ct.experiment.config import DEFAULTS, Experiment
from liver_ct.experiment.masks import tumour_per_slice
from liver_ct.experiment.running import histograms, temperatures
from liver_ct.files import read_json, write_json
from liver_ct.training import cross_validation, prob_masks


def collect(experiment: Experiment, target: Path) -> None:
    """Bring everything measured into one file of numbers: what the report is made from.

    ``slices`` (one row per considered slice: case, index, patient group, fold, tumour in mm3 and how much of it lies
    under prob and binary in its group), ``labels`` by gop, ``scores`` (raw logits by arm and seed), ``masks``
    (histograms of stage 1's logits by name and case), ``temperatures`` by fold, and ``liver`` (Dice by name and case).
    """
    cases, fold_of = {e["case_id"]: e for e in experiment.cases()}, experiment.fold_of()
    tumour = {case: tumour_per_slice(entry) for case, entry in cases.items()}
    gops = sorted({arm["gop"] for arm in experiment.arms.values()} | {1})
    scores = {
        name: {
            str(seed): cross_validation.held_out(experiment.masks(), experiment.folder(name, seed))
            for seed in arm["seeds"]
        }
        for name, arm in experiment.arms.items()
    }
    keys = list(next(iter(next(iter(scores.values())).values())))
    for name, seeds in scores.items():
        for seed, table in seeds.items():
            if table.keys() != set(keys):
                raise StudyError(f"{experiment.folder(name, seed)}: other slices than the first arm's. Delete it.")
    volume = {gop: {case: over_group(v, gop) for case, v in tumour.items()} for gop in {*gops, DEFAULTS["gop"]}}
    rows = [volume[DEFAULTS["gop"]][case][int(z)] for case, z in keys]
    labels = {str(gop): [int(volume[gop][case][int(z), 0] > 0) for case, z in keys] for gop in gops}
    check_labels(experiment, scores, keys, labels)
    masks = list(dict.fromkeys(name for name, _ in experiment.trainings()))
    content = {
        "config": {k: experiment.config[k] for k in ("folds", "stage1_epochs", "epochs", "reference", "contrasts")},
        "arms": {name: {k: v for k, v in arm.items() if k != "name"} for name, arm in experiment.arms.items()},
        "slices": {
            "case": [case for case, _ in keys],
            "slice": [int(z) for _, z in keys],
            "person": [cases[case]["group"] for case, _ in keys],
            "fold": [fold_of[cases[case]["group"]] for case, _ in keys],
            **{name: [round(float(r[i]), 1) for r in rows] for i, name in enumerate(("tumour", "prob", "binary"))},
        },
        "labels": labels,
        "scores": {n: {s: [round(t[k][1], 4) for k in keys] for s, t in seeds.items()} for n, seeds in scores.items()},
        "masks": {name: {c: h.tolist() for c, (_, h) in histograms(experiment.masks(name)).items()} for name in masks},
        "temperatures": temperatures(experiment.masks()),
        "liver": {
            **{name: dice(experiment.masks(name).glob("fold-*/metrics")) for name in masks},
            **{
                name: dice(experiment.folder(name, arm["seeds"][0]).glob("fold-*/liver"))
                for name, arm in experiment.arms.items() if "from" in arm
            },
        },
    }  # fmt: skip
    write_json(target, content, indent=None)


def dice(folders: Iterable[Path]) -> dict[str, float]:
    """Case to Dice of the liver, from several evaluations."""
    values = prob_masks.read_metric(folders, "val_mean_dice")
    return {Path(image).name.removesuffix(".gz").removesuffix(".nii"): round(v, 4) for image, v in values.items()}


def over_group(tumour: np.ndarray, gop: int) -> np.ndarray:
    """Sums of ``[slices, 3]`` over each slice's group, end slices repeated; the first above 0 is the group's label."""
    index = np.arange(len(tumour))[:, None] + np.arange(-(gop // 2), gop // 2 + 1)
    return tumour[index.clip(0, len(tumour) - 1)].sum(1)


def check_labels(experiment: Experiment, scores: Mapping, keys: Sequence, labels: Mapping[str, list[int]]) -> None:
    """The labels the arms were judged by have to be those of the files as they are now."""
    for name, seeds in scores.items():
        for seed, table in seeds.items():
            if [table[key][0] for key in keys] != labels[str(experiment.arms[name]["gop"])]:
                raise StudyError(f"{experiment.folder(name, seed)}: other labels than the data's. Delete it.")


def read_results(folder: Path) -> dict[str, Any]:
    """Content of an experiment's results.json; raises StudyError where there is none."""
    file = folder / "results.json"
    try:
        return read_json(file)
    except (OSError, ValueError) as e:
        raise StudyError(f"{file}: {e}. Give the folder of a finished study as --results.") from e
