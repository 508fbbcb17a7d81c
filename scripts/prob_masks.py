"""Out-of-fold Prob-Masks: every case's mask comes from a stage 1 that has not seen that person."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import torch

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "liver_seg"
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
    root, source = Path(output).resolve(), Path(datalist).resolve()
    root.mkdir(parents=True, exist_ok=True)
    lists = read_lists(source)
    fold_of = assign_folds(lists, folds, root / "folds.json")
    parts = [str(p) for p in ([only] if isinstance(only, (str, int)) else only or [*range(folds), "full"])]
    for part in parts:
        work = root / ("full" if part == "full" else f"fold-{part}")
        train(Path(bundle), work, {k: unseen_by(v, part, fold_of) for k, v in lists.items()}, epochs, overrides)
        held_out = [e for e in lists["training"] if str(fold_of[e["group"]]) == part]
        infer(Path(bundle), work / "model.pt", lists["test"] if part == "full" else held_out, root / "prob")
    write_json(root / "datalist_prob.json", with_prob(lists, root / "prob"))


def evaluate(datalist: str, output: str, bundle: str = str(BUNDLE)) -> None:
    """Metrics of every fold's model on its held-out cases, ``output/fold-K/metrics/*.csv``, by evaluate.json."""
    root = Path(output).resolve()
    lists = read_lists(Path(datalist).resolve())
    fold_of = json.loads((root / "folds.json").read_text())
    for fold in sorted(set(fold_of.values())):
        work = root / f"fold-{fold}"
        held_out = [e for e in lists["training"] if fold_of[e["group"]] == fold]
        write_json(work / "held_out.json", {"validation": held_out})
        configs = [str(Path(bundle) / "configs" / name) for name in ("train.json", "evaluate.json")]
        run_bundle(Path(bundle), config_file=configs, datalist_file=work / "held_out.json",
                   ckpt_path=work / "model.pt", output_dir=work / "metrics")


def read_lists(datalist: Path) -> dict[str, list[Entry]]:
    """The datalist with absolute paths; validation cases joined to the training ones."""
    content = json.loads(datalist.read_text())
    lists = {
        section: [{k: str(datalist.parent / v) if k in ("image", "label", "prob") else v for k, v in e.items()}
                  for e in content.get(section, [])]
        for section in ("training", "validation", "training_slices", "validation_slices", "test")
    }
    for section in ("training", "training_slices"):
        lists[section] += lists.pop(section.replace("training", "validation"))
    return lists


def assign_folds(lists: Mapping[str, list[Entry]], folds: int, path: Path) -> dict[str, int]:
    """Group to fold, evened by the number of volumes, then of isolated slices; kept in ``path`` for later calls.

    Raises:
        SystemExit: ``path`` was made with other groups or another number of folds.
    """
    groups = {e["group"] for section in ("training", "training_slices") for e in lists[section]}
    if path.exists():
        fold_of = json.loads(path.read_text())
        if set(fold_of) != groups or max(fold_of.values()) + 1 != folds:
            raise SystemExit(f"ERROR {path}: made for other data or folds. Choose another --output.")
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


def train(bundle: Path, work: Path, lists: Mapping[str, list[Entry]], epochs: int, overrides: Mapping[str, Any]) -> None:
    """Train to ``work/model.pt`` (a plain state dict), resuming at the last epoch; nothing to do when it is there."""
    if (work / "model.pt").exists():
        return
    write_json(work / "datalist.json", {k: lists[k] for k in ("training", "training_slices")})
    last = work / "runs" / f"last_checkpoint_epoch={epochs}.pt"
    if not last.exists():
        run_bundle(bundle, config_file=bundle / "configs" / "train.json", datalist_file=work / "datalist.json",
                   ckpt_dir=work / "runs", epochs=epochs, **overrides)
    weights = torch.load(last, map_location="cpu", weights_only=True)["model"]
    torch.save(weights, work / "model.part")
    os.replace(work / "model.part", work / "model.pt")


def infer(bundle: Path, weights: Path, entries: Sequence[Entry], output: Path) -> None:
    """Write the Prob-Masks that are still missing."""
    todo = [{"image": e["image"]} for e in entries if not prob_path(e, output).exists()]
    if todo:
        run_bundle(bundle, config_file=bundle / "configs" / "inference.json", datalist=todo, ckpt_path=weights,
                   output_dir=output)


def prob_path(entry: Entry, folder: Path) -> Path:
    """Where the segmentation bundle writes the Prob-Mask of a case."""
    name = Path(entry["image"]).name.removesuffix(".gz").removesuffix(".nii")
    return folder / name / f"{name}_prob.nii.gz"


def with_prob(lists: Mapping[str, list[Entry]], folder: Path) -> dict[str, list[Entry]]:
    """The datalist of those cases whose Prob-Mask exists, with ``prob`` added."""
    return {
        section: [{**e, "prob": str(prob_path(e, folder))} for e in lists[section] if prob_path(e, folder).exists()]
        for section in ("training", "test")
    }


def run_bundle(bundle: Path, **knobs: Any) -> None:
    """``python -m monai.bundle run`` in a process of its own, whose memory goes back when it ends.

    Raises:
        SystemExit: it failed; its own output says why.
    """
    knobs = {"bundle_root": bundle, "logging_file": bundle / "configs" / "logging.conf", **knobs}
    words = [w for k, v in knobs.items() for w in (f"--{k}", v if isinstance(v, str) else _literal(v))]
    done = subprocess.run([sys.executable, "-m", "monai.bundle", "run", *words])
    if done.returncode:
        raise SystemExit(done.returncode)


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, Path) else json.dumps(value)


def write_json(path: Path, content: Any) -> None:
    """Write through a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1))
    os.replace(part, path)


if __name__ == "__main__":
    fire.Fire({"make": make, "evaluate": evaluate})
