"""Everything that was measured, brought into one file of numbers."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.experiment.config import DEFAULT_GOP, Experiment
from liver_ct.experiment.mask_steps import histograms, temperatures
from liver_ct.experiment.masks import tumour_per_slice
from liver_ct.files import read_json, write_json
from liver_ct.training import cross_validation, prob_masks

Key = tuple[str, str]  # case and slice
Scores = dict[str, dict[str, dict[Key, tuple[float, float, str, str]]]]  # arm, seed: as cross_validation.held_out
SETS = ("volumes", "slices of people outside the volumes", "slices of people with volumes")
MASS = ("tumour", "prob", "binary")  # columns of tumour_per_slice


def collect(experiment: Experiment, target: Path) -> None:
    """Bring everything measured into one file of numbers: what the report is made from.

    ``slices`` (one row per considered slice: case, index, patient group, fold, source, set, tumour in mm3 and how much
    of it lies under prob and binary in its group), ``labels`` by gop, ``scores`` (raw logits by arm and seed),
    ``masks`` (histograms of stage 1's logits by name and case), ``mask_fold`` of each case, ``temperatures`` by fold,
    and ``liver`` (Dice by name and case). Considered are volumes whose tumours are outlined, and isolated slices.

    Raises:
        StudyError: an arm was judged on other slices than the others, or by other labels than the data's.
    """
    outlined, lone = experiment.outlined(), experiment.slices()
    scores = collect_scores(experiment, {e["case_id"] for e in outlined + lone})
    first_arm = next(iter(scores.values()))
    keys = list(next(iter(first_arm.values())))
    check_slices(experiment, scores, keys)
    tumour = {entry["case_id"]: tumour_per_slice(entry) for entry in outlined}
    tumour |= {entry["case_id"]: np.zeros((1, len(MASS))) for entry in lone}  # there or not, but not where
    known = {entry["case_id"] for entry in outlined}
    labels = collect_labels(experiment, tumour, keys)
    check_labels(experiment, scores, keys, labels, known)
    present = {entry["case_id"]: int(entry.get("tumour_present", 0)) for entry in lone}
    labels = {gop: [present.get(case, y) for (case, _), y in zip(keys, column)] for gop, column in labels.items()}
    content = {
        "config": {k: experiment.config[k] for k in ("folds", "stage1_epochs", "epochs", "reference", "contrasts")},
        "arms": {name: {k: v for k, v in arm.items() if k != "name"} for name, arm in experiment.arms.items()},
        "slices": collect_slices(experiment, tumour, keys),
        "labels": labels,
        "scores": round_scores(scores, keys),
        "masks": collect_histograms(experiment),
        "mask_fold": {case: fold for case, (fold, _) in histograms(experiment.masks()).items()},
        "temperatures": temperatures(experiment.masks()),
        "liver": collect_liver_dice(experiment),
    }
    write_json(target, content, indent=None)


def collect_scores(experiment: Experiment, kept: Container[str]) -> Scores:
    """The held-out slices of every arm and seed, of those cases."""
    masks = experiment.masks() / "datalist_prob.json"
    scores: Scores = {}
    for name, arm in experiment.arms.items():
        scores[name] = {}
        for seed in arm["seeds"]:
            table = cross_validation.held_out(masks, experiment.folder(name, seed))
            scores[name][str(seed)] = {key: row for key, row in table.items() if key[0] in kept}
    return scores


def check_slices(experiment: Experiment, scores: Scores, keys: Sequence[Key]) -> None:
    """All arms have to be judged on the same slices."""
    for name, seeds in scores.items():
        for seed, table in seeds.items():
            if table.keys() != set(keys):
                raise StudyError(f"{experiment.folder(name, seed)}: other slices than the first arm's. Delete it.")


def collect_labels(
    experiment: Experiment, tumour: Mapping[str, NDArray[Any]], keys: Sequence[Key]
) -> dict[str, list[int]]:
    """Label of each slice by gop: 1 if any slice of its group holds tumour."""
    labels = {}
    for gop in sorted({arm["gop"] for arm in experiment.arms.values()} | {1}):
        sums = {case: over_group(values, gop) for case, values in tumour.items()}
        labels[str(gop)] = [int(sums[case][int(z), 0] > 0) for case, z in keys]
    return labels


def collect_slices(
    experiment: Experiment, tumour: Mapping[str, NDArray[Any]], keys: Sequence[Key]
) -> dict[str, list[Any]]:
    """Columns of the considered slices: where each belongs, and how much tumour its group of the default gop holds."""
    entries, fold_of = {e["case_id"]: e for e in experiment.cases() + experiment.slices()}, experiment.fold_of()
    group_of = {case: e["group"] for case, e in entries.items()}
    whole = {e["group"] for e in experiment.cases()}
    lone = {e["case_id"] for e in experiment.slices()}
    sums = {case: over_group(values, DEFAULT_GOP) for case, values in tumour.items()}
    rows = [sums[case][int(z)] for case, z in keys]
    columns: dict[str, list[Any]] = {
        "case": [case for case, _ in keys],
        "slice": [int(z) for _, z in keys],
        "person": [group_of[case] for case, _ in keys],
        "fold": [fold_of[group_of[case]] for case, _ in keys],
        "source": [entries[case].get("source", "") for case, _ in keys],
        "set": [set_of(case in lone, group_of[case] in whole) for case, _ in keys],
    }
    for i, name in enumerate(MASS):
        columns[name] = [round(float(row[i]), 1) for row in rows]
    return columns


def set_of(isolated: bool, has_volume: bool) -> str:
    """Which of SETS a case belongs to: a whole volume, an isolated slice, and of the latter whether its person has a
    volume in the data, too."""
    if not isolated:
        return SETS[0]
    return SETS[2] if has_volume else SETS[1]


def round_scores(scores: Scores, keys: Sequence[Key]) -> dict[str, dict[str, list[float]]]:
    """Logits of each arm and seed in the order of ``keys``."""
    return {
        name: {seed: [round(table[key][1], 4) for key in keys] for seed, table in seeds.items()}
        for name, seeds in scores.items()
    }


def mask_names(experiment: Experiment) -> list[str]:
    """Names of the Prob-Masks that a stage 1 was trained for, each once."""
    return list(dict.fromkeys(name for name, _ in experiment.trainings()))


def collect_histograms(experiment: Experiment) -> dict[str, dict[str, list[list[int]]]]:
    """Counts [3, 128] of stage 1's logits by name of the masks and case."""
    found = {}
    for name in mask_names(experiment):
        counts = histograms(experiment.masks(name))
        found[name] = {case: histogram.tolist() for case, (_, histogram) in counts.items()}
    return found


def collect_liver_dice(experiment: Experiment) -> dict[str, dict[str, float]]:
    """Dice of the liver by case, of every kind of masks and of the arms that trained stage 1 on."""
    found = {name: dice(experiment.masks(name).glob("fold-*/metrics")) for name in mask_names(experiment)}
    for name, arm in experiment.arms.items():
        if "from" in arm:
            found[name] = dice(experiment.folder(name, arm["seeds"][0]).glob("fold-*/liver"))
    return found


def dice(folders: Iterable[Path]) -> dict[str, float]:
    """Case to Dice of the liver, from several evaluations."""
    values = prob_masks.read_metric(folders, "val_mean_dice")
    return {Path(image).name.removesuffix(".gz").removesuffix(".nii"): round(v, 4) for image, v in values.items()}


def over_group(tumour: NDArray[Any], gop: int) -> NDArray[Any]:
    """Sums of ``[slices, 3]`` over each slice's group, end slices repeated; the first above 0 is the group's label."""
    index = np.arange(len(tumour))[:, None] + np.arange(-(gop // 2), gop // 2 + 1)
    sums: NDArray[Any] = tumour[index.clip(0, len(tumour) - 1)].sum(1)
    return sums


def check_labels(
    experiment: Experiment,
    scores: Scores,
    keys: Sequence[Key],
    labels: Mapping[str, list[int]],
    outlined: Container[str],
) -> None:
    """The labels the arms were judged by have to be those of the outlines as they are now."""
    rows = [i for i, (case, _) in enumerate(keys) if case in outlined]
    for name, seeds in scores.items():
        own = labels[str(experiment.arms[name]["gop"])]
        for seed, table in seeds.items():
            if any(table[keys[i]][0] != own[i] for i in rows):
                raise StudyError(f"{experiment.folder(name, seed)}: other labels than the data's. Delete it.")


def read_results(folder: Path) -> dict[str, Any]:
    """Content of an experiment's results.json; raises StudyError where there is none."""
    file = folder / "results.json"
    try:
        results: dict[str, Any] = read_json(file)
        known = {"slices", "scores"} <= set(results)
    except (OSError, ValueError, TypeError) as e:
        raise StudyError(f"{file}: {e}. Give the folder of a finished experiment as --results.") from e
    if not known:
        raise StudyError(f"{file}: holds no scores. Give the folder of a finished experiment as --results.")
    return results
