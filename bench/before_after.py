"""No loss for speed: Dice, AUC and the largest change of any probability between two versions of the chain.

python bench/before_after.py run --before CHECKOUT --datalist DATA/datalist.json --masks MASKS --cls CLS --work WORK

CHECKOUT is an earlier version of this repository (git worktree add CHECKOUT COMMIT), MASKS and CLS the outputs of
scripts/prob_masks.py and scripts/cross_validate.py: every case goes through the networks that have not seen the person.
Writes docs/before_after.json and the table of docs/performance.md.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
from chain import machine, put, table
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
START, END = "<!-- before and after -->", "<!-- end of before and after -->"
EXACT = {"liver_seg": {"bf16": False, "coarse_step": 1}, "liver_cls": {"bf16": False}}
TUMOUR, GOP = 2, 3


def run(before: str, datalist: str, masks: str, cls: str, work: str, docs: str = str(DOCS)) -> None:
    """Run the held-out cases through the earlier version, this one, and this one in float32 with every slice looked at;
    compare what they wrote."""
    cases = json.loads(Path(datalist).read_text())["training"]
    fold_of = json.loads((Path(masks) / "folds.json").read_text())
    versions = {"before": (Path(before), {}), "after": (ROOT, {}), "after, float32, every slice": (ROOT, EXACT)}
    outputs = {name: Path(work).resolve() / name.replace(", ", "-").replace(" ", "-") for name in versions}
    for fold in sorted(set(fold_of.values())):
        held_out = [Path(datalist).parent / case["image"] for case in cases if fold_of[case["group"]] == fold]
        source = Path(work).resolve() / f"cts-{fold}"
        source.mkdir(parents=True, exist_ok=True)
        for path in held_out:
            if not (source / path.name).is_symlink():
                (source / path.name).symlink_to(path)
        weights = {"liver_seg": Path(masks) / f"fold-{fold}", "liver_cls": Path(cls) / f"fold-{fold}"}
        for name, (checkout, knobs) in versions.items():
            bundles = Path(work).resolve() / f"bundles-{outputs[name].name}-{fold}"
            run_chain(checkout, source, outputs[name], make_bundles(checkout, bundles, weights, knobs))
    found = {name: judge(output, cases, Path(datalist).parent) for name, output in outputs.items()}
    figures: dict[str, Any] = {"machine": machine(), "cases": len(cases), "versions": found, "changes": {}}
    for one, other in (("before", "after"), ("after, float32, every slice", "after")):
        figures["changes"][f"{one} / {other}"] = changes(outputs[one], outputs[other])
    (Path(docs) / "before_after.json").write_text(json.dumps(figures, indent=1) + "\n")
    report(docs)


def make_bundles(checkout: Path, folder: Path, weights: Mapping[str, Path], knobs: Mapping[str, Any]) -> dict[str, str]:
    """The version's own bundles with the weights of a fold; as arguments of its chain."""
    for name, place in weights.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(
            checkout / "bundles" / name, folder / name, ignore=shutil.ignore_patterns("models", "eval", "runs")
        )
        (folder / name / "models").mkdir()
        shutil.copy(place / "model.pt", folder / name / "models")
        file = folder / name / "configs" / "inference.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **knobs.get(name, {})}))
    return {"--seg_bundle": str(folder / "liver_seg"), "--cls_bundle": str(folder / "liver_cls")}


def run_chain(checkout: Path, source: Path, output: Path, bundles: Mapping[str, str]) -> None:
    """Run a checkout's chain with these bundles, by option, on a study or a folder."""
    words = [sys.executable, str(checkout / "scripts" / "cascade.py"), "--input", str(source), "--output", str(output)]
    if any((checkout / place).exists() for place in ("scripts/report.py", "src")):  # versions that write a report
        words += ["--report", "false"]
    words += ["--picture", "false", "--overwrite", "true", *(word for pair in bundles.items() for word in pair)]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, dict[int, float]]:
    """A study's Prob-Mask, liver mask, and tumour probability by slice."""
    prob, liver = (np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for name in ("prob_mask", "liver_mask"))
    with (folder / "slices.csv").open() as stream:
        rows = {
            int(r["slice"]): float(r["tumour_probability"]) for r in csv.DictReader(stream) if r["tumour_probability"]
        }
    return prob, liver, rows


def judge(output: Path, cases: Sequence[Mapping[str, str]], root: Path) -> dict[str, float]:
    """Mean case Dice, and the AUC of all considered slices by whether their group holds tumour."""
    dice, truth, score = [], [], []
    for case in cases:
        label = np.asarray(nib.load(root / case["label"]).dataobj)
        _, liver, rows = read(output / Path(case["image"]).name.removesuffix(".nii.gz"))
        dice.append(
            2 * np.count_nonzero((label > 0) & (liver > 0)) / (np.count_nonzero(label) + np.count_nonzero(liver))
        )
        tumour = np.convolve((label == TUMOUR).any((0, 1)), np.ones(GOP), "same") > 0
        truth += [tumour[i] for i in rows]
        score += rows.values()
    return {"dice": float(np.mean(dice)), "auc": float(roc_auc_score(truth, score)), "slices": len(truth)}


def changes(one: Path, other: Path) -> dict[str, float]:
    """Largest change of any voxel of the Prob-Masks, anywhere and in the liver's slices, and of the tumour probability
    of any slice; the liver masks' lowest Dice with each other."""
    anywhere, near, tumour, dice = [], [], [], []
    for folder in sorted(path for path in one.iterdir() if not path.name.startswith(".")):
        (p, a, s), (q, b, t) = read(folder), read(other / folder.name)
        change = np.abs(p.astype(np.float32) - q.astype(np.float32))
        anywhere.append(change.max())
        near.append(change[..., (a > 0).any((0, 1))].max())
        tumour.append(max(abs(s[i] - t[i]) for i in s.keys() & t.keys()))
        dice.append(2 * np.count_nonzero((a > 0) & (b > 0)) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return {
        "prob_anywhere": float(max(anywhere)), "prob_in_liver_slices": float(max(near)), "tumour": float(max(tumour)),
        "tumour_median": float(np.median(tumour)), "lowest_dice": float(min(dice)),
    }  # fmt: skip


def report(docs: str = str(DOCS)) -> None:
    """The tables from ``before_after.json``."""
    figures = json.loads((Path(docs) / "before_after.json").read_text())
    rows = [[name, f"{v['dice']:.4f}", f"{v['auc']:.4f}", str(v["slices"])] for name, v in figures["versions"].items()]
    head = [f"{figures['cases']} held-out cases", "case Dice", "slice AUC", "slices"]
    keys = ("lowest_dice", "prob_in_liver_slices", "prob_anywhere", "tumour", "tumour_median")
    more = [[pair, *(f"{v[key]:.4f}" for key in keys)] for pair, v in figures["changes"].items()]
    titles = ["from / to", "lowest Dice of the liver masks", "Prob-Mask, liver's slices", "anywhere"]
    titles += ["tumour of a slice", "median of the cases"]
    put(Path(docs) / "performance.md", START, END, [table(head, rows), table(titles, more)])


if __name__ == "__main__":
    fire.Fire({"run": run, "report": report})
