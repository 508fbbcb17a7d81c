"""Out-of-fold Prob-Masks: every case's mask comes from a stage 1 that has not seen that person."""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.files import read_json, replace_folder, write_json
from liver_ct.training.datalists import Entry, assign_folds, parts_to_do, read_lists, unseen_by
from liver_ct.training.intervals import patient_intervals
from liver_ct.training.running import inference_knobs, run_bundle, save_weights

METRICS = {
    "dice": "val_mean_dice",
    "slice_dice": "slice_dice",
    "surface_dice_2mm": "surface_dice_2mm",
    "hd95_mm": "hd95_mm",
}


def make(
    datalist: Path,
    output: Path,
    folds: int = 4,
    epochs: int = 16,
    only: Sequence[str] | str | None = None,
    *,
    bundle: Path,
    **overrides: Any,
) -> None:
    """Train stage 1 ``folds`` times by patient group, then once on everybody, and write all Prob-Masks.

    Under ``output``: ``folds.json`` (group to fold), ``fold-K/model.pt``, ``full/model.pt``,
    ``prob/<case>/<case>_prob.nii.gz`` and ``datalist_prob.json`` (the datalist with each case's ``prob``). A second
    call goes on where a killed one stopped: at the last epoch of a training, at the next case of an inference.

    Args:
        datalist: a datalist.json of ``scripts/lits.py``; validation cases take part as training cases.
        output: folder for all of the above.
        folds: number of folds; groups never straddle two.
        epochs: epochs of each training; the last weights are taken, so no held-out case chooses anything.
        only: parts to do now, of "0" .. "folds - 1" and "full"; default all. Parts may run side by side.
        bundle: a segmentation bundle with the ids of bundles/liver_seg.
        overrides: further knobs of its train.json, such as ``batch_size``.

    Raises:
        StudyError: Prob-Masks are missing in the end, or the folds there are of other data.
    """
    root, lists = output.resolve(), read_lists(datalist.resolve())
    assign_folds(lists, folds, root / "folds.json")
    failed = sum(
        make_part(lists, root, part, epochs, bundle, overrides) for part in parts_to_do(only, [*range(folds), "full"])
    )
    list_masks(lists, root)
    if failed:
        raise StudyError(f"{failed} Prob-Masks are missing, for the reasons above")


def make_part(
    lists: Mapping[str, list[Entry]], root: Path, part: str, epochs: int, bundle: Path, overrides: Mapping[str, Any]
) -> int:
    """Train one part of ``make`` and write its Prob-Masks; returns how many could not be made."""
    fold_of = read_json(root / "folds.json")
    work = root / ("full" if part == "full" else f"fold-{part}")
    train(bundle, work, {k: unseen_by(v, part, fold_of) for k, v in lists.items()}, epochs, overrides)
    held_out = [e for e in lists["training"] if str(fold_of[e["group"]]) == part]
    entries, knobs = lists["test"] if part == "full" else held_out, inference_knobs(bundle, overrides)
    return infer(bundle, work / "model.pt", entries, root / "prob", **knobs)


def evaluate(datalist: Path, output: Path, bundle: Path) -> dict[str, Any]:
    """Metrics of every fold's model on its held-out cases by evaluate.json, and all of them together.

    Under ``output``: ``fold-K/metrics/*.csv`` and ``results.json``, means over the cases with 95 % intervals from a
    bootstrap that draws patient groups. Folds that were evaluated before are not done again.
    Returns what ``results.json`` holds.
    """
    root = output.resolve()
    cases = read_lists(datalist.resolve())["training"]
    fold_of = read_json(root / "folds.json")
    for fold in sorted({fold_of[e["group"]] for e in cases}):
        work = root / f"fold-{fold}"
        own = [e for e in cases if fold_of[e["group"]] == fold]
        evaluate_fold(bundle, work / "model.pt", work / "metrics", own)
    return report(cases, root)


def evaluate_fold(bundle: Path, weights: Path, output: Path, cases: Sequence[Entry], **knobs: Any) -> None:
    """Metrics of ``weights`` on ``cases``, ``output/*.csv``, all or none; nothing to do where they are."""
    if not (output / "metrics.csv").exists():
        part = output.with_name(f".part-{output.name}")
        shutil.rmtree(part, ignore_errors=True)
        configs = [str(bundle / "configs" / name) for name in ("train.json", "evaluate.json")]
        write_json(part / "held_out.json", {"validation": list(cases)})
        run_bundle(bundle, config_file=configs, datalist_file=part / "held_out.json", ckpt_path=weights,
                   output_dir=part, **knobs)  # fmt: skip
        replace_folder(part, output)


def report(cases: Sequence[Entry], root: Path) -> dict[str, Any]:
    """Pool the metrics of all folds, return them and write ``root/results.json``."""
    group = {str(Path(e["image"])): e["group"] for e in cases}
    tables = {name: read_metric(root.glob("fold-*/metrics"), metric) for name, metric in METRICS.items()}
    images = sorted(tables["dice"])
    values = {name: np.array([table[image] for image in images]) for name, table in tables.items()}
    person = [group[image] for image in images]

    def mean(rows: NDArray[Any] | slice) -> dict[str, float]:
        return {name: float(value[rows].mean()) for name, value in values.items()}

    result = {
        "cases": len(images),
        "patient_groups": len(set(person)),
        **{name: round(value, 4) for name, value in mean(slice(None)).items()},
        "interval_95": patient_intervals(person, mean),
        "dice_per_case": {Path(i).name: round(float(d), 4) for i, d in zip(images, values["dice"])},
    }
    write_json(root / "results.json", result)
    return result


def read_metric(folders: Iterable[Path], metric: str) -> dict[str, float]:
    """Image path to value, from the tables of several evaluations."""
    tables = sorted(folder / f"{metric}_raw.csv" for folder in folders)
    return {row["filename"]: float(row["mean"]) for path in tables for row in csv.DictReader(path.open(newline=""))}


def train(
    bundle: Path, work: Path, lists: Mapping[str, list[Entry]], epochs: int, overrides: Mapping[str, Any]
) -> None:
    """Train to ``work/model.pt`` (a plain state dict), resuming at the last epoch; nothing to do when it is there."""
    if (work / "model.pt").exists():
        return
    write_json(work / "datalist.json", {k: lists[k] for k in ("training", "training_slices")})
    last = work / "runs" / f"last_checkpoint_epoch={epochs}.pt"
    if not zipfile.is_zipfile(last):  # missing, or cut short by a kill
        run_bundle(
            bundle,
            config_file=bundle / "configs" / "train.json",
            datalist_file=work / "datalist.json",
            ckpt_dir=work / "runs",
            epochs=epochs,
            **overrides,
        )
    weights = torch.load(last, map_location="cpu", weights_only=True)["model"]
    save_weights(weights, work / "model.pt")


def infer(bundle: Path, weights: Path, entries: Sequence[Entry], output: Path, **knobs: Any) -> int:
    """Write the Prob-Masks that are still missing; returns how many could not be made.

    Args:
        bundle: a segmentation bundle.
        weights: a training of it.
        entries: cases with ``image``.
        output: gets ``<case>/<case>_prob.nii.gz``.
        knobs: of its inference.json, such as ``temperature``.
    """
    todo = [{"image": e["image"]} for e in entries if not prob_path(e, output).exists()]
    if todo:
        with suppress(StudyError):  # the bundle has named the studies that failed, and finished the others
            run_bundle(bundle, config_file=bundle / "configs" / "inference.json", datalist=todo, ckpt_path=weights,
                       output_dir=output, **knobs)  # fmt: skip
    return sum(not prob_path(e, output).exists() for e in entries)


def prob_path(entry: Entry, folder: Path) -> Path:
    """Where the segmentation bundle writes the Prob-Mask of a case."""
    name = Path(entry["image"]).name.removesuffix(".gz").removesuffix(".nii")
    return folder / name / f"{name}_prob.nii.gz"


def list_masks(lists: Mapping[str, list[Entry]], root: Path) -> None:
    """Write ``root/datalist_prob.json``: the cases whose Prob-Mask lies under ``root/prob``, with ``prob`` added."""
    folder = root / "prob"
    content = {
        section: [{**e, "prob": str(prob_path(e, folder))} for e in lists[section] if prob_path(e, folder).exists()]
        for section in ("training", "test")
    }
    write_json(root / "datalist_prob.json", content)
