"""Out-of-fold Prob-Masks: every case's mask comes from a stage 1 that has not seen that person."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from intervals import patient_intervals
from lits import write_json

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "liver_seg"
METRICS = {
    "dice": "val_mean_dice",
    "slice_dice": "slice_dice",
    "surface_dice_2mm": "surface_dice_2mm",
    "hd95_mm": "hd95_mm",
}
Entry = dict[str, Any]


def make(
    datalist: str,
    output: str,
    folds: int = 4,
    epochs: int = 16,
    only: Sequence[str] | str | None = None,
    bundle: str = str(BUNDLE),
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
        overrides: further knobs of its train.json, such as ``--batch_size 8``.
    """
    root, lists = Path(output).resolve(), read_lists(Path(datalist).resolve())
    assign_folds(lists, folds, root / "folds.json")
    failed = sum(
        make_part(lists, root, part, epochs, Path(bundle), overrides)
        for part in parts_to_do(only, [*range(folds), "full"])
    )
    list_masks(lists, root)
    if failed:
        raise SystemExit(f"{failed} Prob-Masks are missing, for the reasons above")


def make_part(
    lists: Mapping[str, list[Entry]], root: Path, part: str, epochs: int, bundle: Path, overrides: Mapping[str, Any]
) -> int:
    """Train one part of ``make`` and write its Prob-Masks; returns how many could not be made."""
    fold_of = json.loads((root / "folds.json").read_text())
    work = root / ("full" if part == "full" else f"fold-{part}")
    train(bundle, work, {k: unseen_by(v, part, fold_of) for k, v in lists.items()}, epochs, overrides)
    held_out = [e for e in lists["training"] if str(fold_of[e["group"]]) == part]
    entries, knobs = lists["test"] if part == "full" else held_out, inference_knobs(bundle, overrides)
    return infer(bundle, work / "model.pt", entries, root / "prob", **knobs)


def inference_knobs(bundle: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the knobs of a training that inference.json has too, such as the window and the network."""
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    return {k: v for k, v in overrides.items() if k.split("#")[0] in config}


def evaluate(datalist: str, output: str, bundle: str = str(BUNDLE)) -> None:
    """Metrics of every fold's model on its held-out cases by evaluate.json, and all of them together.

    Under ``output``: ``fold-K/metrics/*.csv`` and ``results.json``, means over the cases with 95 % intervals from a
    bootstrap that draws patient groups. Folds that were evaluated before are not done again.
    """
    root = Path(output).resolve()
    cases = read_lists(Path(datalist).resolve())["training"]
    fold_of = json.loads((root / "folds.json").read_text())
    for fold in sorted({fold_of[e["group"]] for e in cases}):
        work = root / f"fold-{fold}"
        own = [e for e in cases if fold_of[e["group"]] == fold]
        evaluate_fold(Path(bundle), work / "model.pt", work / "metrics", own)
    report(cases, root)


def evaluate_fold(bundle: Path, weights: Path, output: Path, cases: Sequence[Entry], **knobs: Any) -> None:
    """Metrics of ``weights`` on ``cases``, ``output/*.csv``, all or none; nothing to do where they are."""
    if not (output / "metrics.csv").exists():
        part = output.with_name(f".part-{output.name}")
        shutil.rmtree(part, ignore_errors=True)
        configs = [str(bundle / "configs" / name) for name in ("train.json", "evaluate.json")]
        write_json(part / "held_out.json", {"validation": list(cases)})
        run_bundle(bundle, config_file=configs, datalist_file=part / "held_out.json", ckpt_path=weights,
                   output_dir=part, **knobs)  # fmt: skip
        shutil.rmtree(output, ignore_errors=True)
        part.replace(output)


def report(cases: Sequence[Entry], root: Path) -> None:
    """Pool the metrics of all folds, print them and write ``root/results.json``."""
    group = {str(Path(e["image"])): e["group"] for e in cases}
    tables = {name: read_metric(root.glob("fold-*/metrics"), metric) for name, metric in METRICS.items()}
    images = sorted(tables["dice"])
    values = {name: np.array([table[image] for image in images]) for name, table in tables.items()}
    person = [group[image] for image in images]
    mean = lambda rows: {name: float(value[rows].mean()) for name, value in values.items()}  # noqa: E731
    result = {
        "cases": len(images),
        "patient_groups": len(set(person)),
        **{name: round(value, 4) for name, value in mean(slice(None)).items()},
        "interval_95": patient_intervals(person, mean),
        "dice_per_case": {Path(i).name: round(float(d), 4) for i, d in zip(images, values["dice"])},
    }
    write_json(root / "results.json", result)
    print(json.dumps(result, indent=1))


def read_metric(folders: Iterable[Path], metric: str) -> dict[str, float]:
    """Image path to value, from the tables of several evaluations."""
    tables = sorted(folder / f"{metric}_raw.csv" for folder in folders)
    return {row["filename"]: float(row["mean"]) for path in tables for row in csv.DictReader(path.open(newline=""))}


def parts_to_do(only: Sequence[str | int] | str | int | None, everything: Sequence[str | int]) -> list[str]:
    """The parts named by ``only`` (one or several), or all of them."""
    return [str(part) for part in ([only] if isinstance(only, (str, int)) else only or everything)]


def read_lists(datalist: Path) -> dict[str, list[Entry]]:
    """The datalist with absolute paths; validation cases joined to the training ones."""
    content = json.loads(datalist.read_text())
    lists = {
        section: [
            {k: str(datalist.parent / v) if k in ("image", "label", "prob") else v for k, v in e.items()}
            for e in content.get(section, [])
        ]
        for section in ("training", "validation", "training_slices", "validation_slices", "test")
    }
    for section in ("training", "training_slices"):
        lists[section] += lists.pop(section.replace("training", "validation"))
    return lists


def assign_folds(lists: Mapping[str, list[Entry]], folds: int, path: Path) -> dict[str, int]:
    """Group to fold, evened by the number of volumes, then of isolated slices; kept in ``path`` for later calls.

    Raises:
        SystemExit: there are fewer groups than folds, or ``path`` was made with others.
    """
    groups = {e["group"] for section in ("training", "training_slices") for e in lists[section]}
    if len(groups) < folds:
        raise SystemExit(f"ERROR the datalist holds {len(groups)} patient groups. Choose at most as many folds.")
    if path.exists():
        fold_of = json.loads(path.read_text())
        if set(fold_of) != groups or max(fold_of.values()) + 1 != folds:
            raise SystemExit(f"ERROR {path}: made for other data or folds. Choose another output.")
        return fold_of
    weight = {g: [sum(e["group"] == g for e in lists[s]) for s in ("training", "training_slices")] for g in groups}
    load, fold_of = [[0, 0] for _ in range(folds)], {}
    for group in sorted(groups, key=lambda g: (weight[g], g), reverse=True):
        fold_of[group] = min(range(folds), key=lambda k: load[k])
        load[fold_of[group]] = [a + b for a, b in zip(load[fold_of[group]], weight[group])]
    write_json(path, fold_of)
    return fold_of


def unseen_by(entries: Sequence[Entry], part: str, fold_of: Mapping[str, int]) -> list[Entry]:
    """The entries outside fold ``part``."""
    return [e for e in entries if str(fold_of.get(e["group"])) != part]


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
    torch.save(weights, work / "model.part")
    os.replace(work / "model.part", work / "model.pt")


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
        with suppress(SystemExit):  # the bundle has named the studies that failed, and finished the others
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


def run_bundle(bundle: Path, **knobs: Any) -> None:
    """``python -m monai.bundle run`` in a process of its own, whose memory goes back when it ends.

    Raises:
        SystemExit: it failed; its own output says why.
    """
    knobs = {"bundle_root": bundle, "logging_file": bundle / "configs" / "logging.conf", **knobs}
    words = [w for k, v in knobs.items() for w in (f"--{k}", str(v) if isinstance(v, (str, Path)) else repr(v))]
    done = subprocess.run([sys.executable, "-m", "monai.bundle", "run", *words], close_fds=False)
    if done.returncode:
        place = knobs.get("ckpt_dir") or knobs.get("output_dir") or bundle
        raise SystemExit(f"ERROR {place}: monai.bundle run ended with {done.returncode}. Its output above says why.")


if __name__ == "__main__":
    fire.Fire({"make": make, "evaluate": evaluate})
