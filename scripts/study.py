"""The study: does the Prob-Mask help, how much, and can the gap to the manual mask be closed?

python scripts/study.py run --config scripts/study.json
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cross_validate
import end_to_end
import fire
import nibabel as nib
import numpy as np
import prob_masks
from lits import replace_with, write_json
from prob_masks import Entry, read_lists
from scipy.special import logit
from study_masks import fit_temperature, logit_histograms, tumour_per_slice
from study_plots import picture_sheet
from study_report import Analysis, write_report

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DEFAULTS = {"mask_source": "prob", "combine": "concat", "gop": 3}
SHIPPED = "shipped"  # the Prob-Masks of stage 1 as its bundle is set
OWN = ("name", "seeds", "masks", "inner_groups", "from", "weights", "mend")  # of an arm, not knobs of the bundle
Arm = dict[str, Any]


class Study:
    """A study's config, and where its parts lie under ``output``.

    ``masks/<name>/`` (of prob_masks.py), ``masks/temperature/`` and ``arms/<name>/seed-<s>/fold-<k>/``.

    Args:
        config: a JSON file like ``study.json``; relative paths in it are from the working directory.
        seg: stage 1's bundle.
        cls: stage 2's bundle.

    Raises:
        SystemExit: a config that cannot be used.
    """

    def __init__(self, config: str | Path, seg: str | Path, cls: str | Path) -> None:
        self.file, self.seg, self.cls = Path(config), Path(seg).resolve(), Path(cls).resolve()
        try:
            self.config = json.loads(self.file.read_text())
            self.output = Path(self.config["output"]).resolve()
            self.lists = read_lists(Path(self.config["datalist"]).resolve())
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise SystemExit(f"ERROR {config}: {e}. Give a JSON file like scripts/study.json.") from e
        self.arms = {name_of(arm): arm for entry in self.config["arms"] for arm in expand(entry)}

    def masks(self, name: str = SHIPPED) -> Path:
        """Where Prob-Masks of that name lie."""
        return self.output / "masks" / name

    def trainings(self) -> list[tuple[str, str]]:
        """Every stage 1 to train: name of its masks, fold."""
        names = {SHIPPED: {}, **self.config.get("masks", {})}
        return [(name, str(fold)) for name, knobs in names.items() for fold in knobs.get("folds", self.folds())]

    def fold_of(self) -> dict[str, str]:
        """Patient group to fold."""
        return {group: str(k) for group, k in json.loads((self.masks() / "folds.json").read_text()).items()}

    def folder(self, name: str, seed: int) -> Path:
        """Where one seed of an arm lies."""
        return self.output / "arms" / name / f"seed-{seed}"

    def knobs(self, arm: Arm, seed: int) -> dict[str, Any]:
        """What an arm sets in stage 2's bundle."""
        knobs = {k: v for k, v in arm.items() if k not in OWN}
        return {**knobs, "mask_source": knobs["mask_source"].replace("temperature", "prob"), "seed": seed}

    def folds(self) -> list[str]:
        """Names of the folds."""
        return [str(k) for k in range(self.config["folds"])]

    def cases(self) -> list[Entry]:
        """The cases with their Prob-Masks."""
        return read_lists(self.masks() / "datalist_prob.json")["training"]

    def held_out(self, fold: str) -> list[Entry]:
        """Those of one fold."""
        fold_of = self.fold_of()
        return [e for e in self.cases() if fold_of[e["group"]] == fold]


def expand(entry: Arm) -> list[Arm]:
    """An entry of the config whose lists are to be combined in all ways, as single arms."""
    entry = {**DEFAULTS, "seeds": [0], "masks": SHIPPED, **entry}
    axes = {k: entry[k] if isinstance(entry[k], list) else [entry[k]] for k in DEFAULTS}
    return [{**entry, **dict(zip(axes, values))} for values in itertools.product(*axes.values())]


def name_of(arm: Arm) -> str:
    """``prob-concat-gop3``, with the masks' name before it unless they are the shipped ones; or the name given."""
    name = "{mask_source}-{combine}-gop{gop}".format(**arm)
    return arm.get("name") or (name if arm["masks"] == SHIPPED else f"{arm['masks']}-{name}")


# ----------------------------------------------------------------------------------------------------- running


def run(
    config: str = str(ROOT / "scripts" / "study.json"),
    arms: Sequence[str] | str | None = None,
    results: str | None = None,
    seg_bundle: str = str(prob_masks.BUNDLE),
    cls_bundle: str = str(cross_validate.BUNDLE),
) -> None:
    """Make the Prob-Masks, train every arm on every fold and seed, measure, and write the results and their report.

    What is done already is left; a killed run goes on at the last epoch of each training. A part that fails stops no
    other, and the exit status is 1.

    Args:
        config: the study, a JSON file. Each entry of ``arms`` holds knobs of stage 2's bundle; lists of mask_source,
            combine and gop are combined in all ways; ``seeds``, ``inner_groups`` (early stopping on groups of the
            training fold), ``masks`` (which Prob-Masks, of those under the config's ``masks``: knobs of stage 1's
            bundle by name), ``from`` (end to end, starting from that arm) and ``weights`` (nothing is trained: that
            arm's weights, judged through this arm's mask) are the study's own. mask_source ``temperature`` is prob at
            the temperature fitted on the other folds; ``mend`` lets the true liver mend the Prob-Mask: ``leaks`` sets
            it to 0 outside, ``gaps`` to 1 inside.
        arms: only these, by name; default all. The report comes when all are there.
        results: folder for results.json, study.md and its plots; default the study's ``output``.
        seg_bundle: stage 1, a bundle with the ids of bundles/liver_seg.
        cls_bundle: stage 2, a bundle with the ids of bundles/liver_cls.
    """
    study = Study(config, seg_bundle, cls_bundle)
    chosen = [arms] if isinstance(arms, str) else list(arms or study.arms)
    unknown = set(chosen) - set(study.arms)
    if unknown:
        raise SystemExit(f"ERROR --arms {', '.join(sorted(unknown))}: not in {config}: {', '.join(study.arms)}.")
    workers = study.config.get("workers") or os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    for name, _ in study.trainings():
        prob_masks.assign_folds(study.lists, study.config["folds"], study.masks(name) / "folds.json")
    tasks = [(name, seed, fold) for name in chosen for seed in study.arms[name]["seeds"] for fold in study.folds()]
    kind = {name: next((k for k in ("from", "weights") if k in arm), "own") for name, arm in study.arms.items()}
    steps: list[tuple[Callable[..., None], list[tuple]]] = [
        (make_masks, [(study, *t) for t in study.trainings()]),
        (list_masks, [(study,)]),
        (measure_masks, [(study, *t) for t in study.trainings()]),
        (make_temperature_masks, [(study,)]),
        (train_arm, [(study, *t) for t in sorted(tasks, key=lambda t: t[1]) if kind[t[0]] == "own"]),  # seed by seed
        (judge_arm, [(study, *t) for t in tasks if kind[t[0]] == "weights"]),
        (train_end_to_end, [(study, *t) for t in tasks if kind[t[0]] == "from"]),
    ]
    for step, calls in steps:
        if not in_parallel(step, calls, workers):
            raise SystemExit(f"ERROR {step.__name__}: parts failed, for the reasons above. The same command goes on.")
    if arms is None:
        folder = Path(results) if results else study.output
        collect(study, folder / "results.json")
        report(str(folder))


def in_parallel(step: Callable[..., None], calls: Iterable[tuple], workers: int) -> bool:
    """Make all calls, ``workers`` at a time; whether all went well. Each does its work in processes of its own."""

    def call(arguments: tuple) -> bool:
        try:
            step(*arguments)
            return True
        except (Exception, SystemExit) as e:
            names = ", ".join(str(a) for a in arguments[1:])
            print(f"ERROR {step.__name__} {names}: {e}", file=sys.stderr)
            return False

    with ThreadPoolExecutor(workers) as pool:
        return all(list(pool.map(call, calls)))


def make_masks(study: Study, name: str, fold: str) -> None:
    """Train stage 1 for one fold and write its Prob-Masks."""
    knobs = {k: v for k, v in study.config.get("masks", {}).get(name, {}).items() if k != "folds"}
    epochs = study.config["stage1_epochs"]
    claim(study.masks(name) / f"fold-{fold}", {"epochs": epochs, **knobs})
    if prob_masks.make_part(study.lists, study.masks(name), fold, epochs, study.seg, knobs):
        raise SystemExit("Prob-Masks are missing, for the reasons above")


def list_masks(study: Study) -> None:
    """Name the Prob-Masks of every kind in a datalist."""
    for name, _ in study.trainings():
        prob_masks.list_masks(study.lists, study.masks(name))


def measure_masks(study: Study, name: str, fold: str) -> None:
    """Dice, and histograms of stage 1's logits, of the fold's held-out cases: ``fold-K/``."""
    work, cases = study.masks(name) / f"fold-{fold}", study.held_out(fold)
    prob_masks.evaluate_fold(study.seg, work / "model.pt", work / "metrics", cases)
    if not (work / "histograms.json").exists():
        write_json(work / "histograms.json", logit_histograms(study.seg, work / "model.pt", cases))


def histograms(masks: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Case to its fold and counts [3, 128]."""
    return {
        case: (path.parent.name.removeprefix("fold-"), np.array(counts))
        for path in sorted(masks.glob("fold-*/histograms.json"))
        for case, counts in json.loads(path.read_text()).items()
    }


def temperatures(masks: Path) -> dict[str, float]:
    """Fold to the temperature fitted on the held-out cases of the other folds, so on none that it is judged by."""
    counts = histograms(masks)
    folds = sorted({fold for fold, _ in counts.values()})
    return {f: round(fit_temperature(sum(c for fold, c in counts.values() if fold != f)), 3) for f in folds}


def make_temperature_masks(study: Study) -> None:
    """The shipped Prob-Masks once more, at the fitted temperatures: ``masks/temperature/``."""
    target, missing = study.masks("temperature"), 0
    for fold, temperature in temperatures(study.masks()).items():
        weights = study.masks() / f"fold-{fold}" / "model.pt"
        missing += prob_masks.infer(study.seg, weights, study.held_out(fold), target / "prob", temperature=temperature)
    if missing:
        raise SystemExit(f"{missing} Prob-Masks are missing, for the reasons above")
    shutil.copyfile(study.masks() / "folds.json", target / "folds.json")
    prob_masks.list_masks(study.lists, target)


def train_arm(study: Study, name: str, seed: int, fold: str) -> None:
    """Train one arm on one fold and judge it on the held-out cases."""
    arm = study.arms[name]
    work = study.folder(name, seed)
    claim(work / f"fold-{fold}", {"epochs": study.config["epochs"], **arm})
    masks = study.masks("temperature" if arm["mask_source"] == "temperature" else arm["masks"])
    cross_validate.run_part(masks, work, fold, study.config["epochs"], study.cls,
                            arm.get("inner_groups", 0), study.knobs(arm, seed))  # fmt: skip


def judge_arm(study: Study, name: str, seed: int, fold: str) -> None:
    """Judge the weights of another arm through this arm's mask."""
    arm, work = study.arms[name], study.folder(name, seed) / f"fold-{fold}"
    claim(work, arm)
    cases = study.held_out(fold)
    if arm.get("mend"):
        cases = [mended(entry, arm["mend"], work / "prob") for entry in cases]
    shutil.copyfile(study.folder(arm["weights"], seed) / f"fold-{fold}" / "model.pt", work / "model.pt")
    cross_validate.evaluate(study.cls, work, cases, study.knobs(arm, seed))


def mended(entry: Entry, mend: str, folder: Path) -> Entry:
    """The case with a Prob-Mask in ``folder`` that the true liver has mended, in its leaks or its gaps."""
    prob, label = (nib.load(entry[key]) for key in ("prob", "label"))
    liver, values = np.asanyarray(label.dataobj) > 0, prob.get_fdata(dtype=np.float32)
    values = values * liver if mend == "leaks" else np.maximum(values, liver)
    image = nib.Nifti1Image((values * 255).round().astype(np.uint8), prob.affine)
    image.header.set_slope_inter(1 / 255, 0)
    path = replace_with(folder / Path(entry["prob"]).name, lambda part: nib.save(image, part))
    return {**entry, "prob": str(path)}


def train_end_to_end(study: Study, name: str, seed: int, fold: str) -> None:
    """Train both stages as one from where another arm and its Prob-Masks stand, and judge the pair."""
    arm = study.arms[name]
    start = study.folder(arm["from"], seed) / f"fold-{fold}" / "model.pt"
    work = study.folder(name, seed) / f"fold-{fold}"
    claim(work, arm)
    cases, fold_of = study.held_out(fold), study.fold_of()
    others = [e for e in study.cases() if fold_of[e["group"]] != fold]
    bundles = (study.seg, study.cls)
    weights = (study.masks() / f"fold-{fold}" / "model.pt", start)
    end_to_end.train(bundles, weights, work, others, study.knobs(arm, seed))
    if prob_masks.infer(study.seg, work / "seg.pt", cases, work / "prob"):
        raise SystemExit("Prob-Masks are missing, for the reasons above")
    own = [{**e, "prob": str(prob_masks.prob_path(e, work / "prob"))} for e in cases]
    cross_validate.evaluate(study.cls, work, own, {"seed": seed})
    prob_masks.evaluate_fold(study.seg, work / "seg.pt", work / "liver", cases)


def claim(work: Path, arm: Arm) -> None:
    """Note what a folder is trained with, so that another config never takes it for its own.

    Raises:
        SystemExit: it was trained with something else.
    """
    file, own = work / "arm.json", {k: v for k, v in arm.items() if k not in ("name", "seeds")}
    if not file.exists():
        write_json(file, own)
    elif json.loads(file.read_text()) != own:
        raise SystemExit(f"{file}: trained with other knobs. Delete the folder or name the arm otherwise.")


# -------------------------------------------------------------------------------------------------- the results


def collect(study: Study, target: Path) -> None:
    """Bring everything measured into one file of numbers: what the report is made from.

    ``slices`` (one row per considered slice: case, index, patient group, fold, tumour in mm3 and how much of it lies
    under prob and binary in its group), ``labels`` by gop, ``scores`` (raw logits by arm and seed), ``masks``
    (histograms of stage 1's logits by name and case), ``temperatures`` by fold, and ``liver`` (Dice by name and case).
    """
    cases, fold_of = {e["case_id"]: e for e in study.cases()}, study.fold_of()
    tumour = {case: tumour_per_slice(entry) for case, entry in cases.items()}
    gops = sorted({arm["gop"] for arm in study.arms.values()} | {1})
    scores = {
        name: {str(seed): read_scores(study.folder(name, seed)) for seed in arm["seeds"]}
        for name, arm in study.arms.items()
    }
    keys = list(next(iter(next(iter(scores.values())).values())))
    for name, seeds in scores.items():
        for seed, table in seeds.items():
            if table.keys() != set(keys):
                raise SystemExit(
                    f"ERROR arm {name}, seed {seed}: other slices than the first arm's. Delete its folder."
                )
    volume = {gop: {case: over_group(v, gop) for case, v in tumour.items()} for gop in {*gops, DEFAULTS["gop"]}}
    rows = [volume[DEFAULTS["gop"]][case][int(z)] for case, z in keys]
    labels = {str(gop): [int(volume[gop][case][int(z), 0] > 0) for case, z in keys] for gop in gops}
    check_labels(scores, study.arms, keys, labels)
    masks = list(dict.fromkeys(name for name, _ in study.trainings()))
    write_json(target, {
        "config": {k: study.config[k] for k in ("folds", "stage1_epochs", "epochs", "reference", "contrasts")},
        "arms": {name: {k: v for k, v in arm.items() if k != "name"} for name, arm in study.arms.items()},
        "slices": {
            "case": [case for case, _ in keys],
            "slice": [int(z) for _, z in keys],
            "person": [cases[case]["group"] for case, _ in keys],
            "fold": [fold_of[cases[case]["group"]] for case, _ in keys],
            **{name: [round(float(r[i]), 1) for r in rows] for i, name in enumerate(("tumour", "prob", "binary"))},
        },
        "labels": labels,
        "scores": {n: {s: [round(t[k][1], 4) for k in keys] for s, t in seeds.items()} for n, seeds in scores.items()},
        "masks": {name: {c: h.tolist() for c, (_, h) in histograms(study.masks(name)).items()} for name in masks},
        "temperatures": temperatures(study.masks()),
        "liver": {
            **{name: dice(study.masks(name).glob("fold-*/metrics")) for name in masks},
            **{
                name: dice(study.folder(name, arm["seeds"][0]).glob("fold-*/liver"))
                for name, arm in study.arms.items() if "from" in arm
            },
        },
    })  # fmt: skip


def dice(folders: Iterable[Path]) -> dict[str, float]:
    """Case to Dice of the liver, from several evaluations."""
    values = prob_masks.read_metric(folders, "val_mean_dice")
    return {Path(image).name.removesuffix(".gz").removesuffix(".nii"): round(v, 4) for image, v in values.items()}


def read_scores(folder: Path) -> dict[tuple[str, str], tuple[int, float]]:
    """(case, slice) to label and logit, of all folds."""
    rows = (row for path in sorted(folder.glob("fold-*/metrics/slices.csv")) for row in csv.DictReader(path.open()))
    clipped = lambda p: float(logit(np.clip(float(p), 1e-6, 1 - 1e-6)))  # noqa: E731
    return {(row["case"], row["slice"]): (int(row["label"]), clipped(row["probability"])) for row in rows}


def over_group(tumour: np.ndarray, gop: int) -> np.ndarray:
    """Sums of ``[slices, 3]`` over each slice's group, end slices repeated; the first above 0 is the group's label."""
    index = np.arange(len(tumour))[:, None] + np.arange(-(gop // 2), gop // 2 + 1)
    return tumour[index.clip(0, len(tumour) - 1)].sum(1)


def check_labels(scores: Mapping, arms: Mapping[str, Arm], keys: Sequence, labels: Mapping[str, list[int]]) -> None:
    """The labels the arms were judged by have to be those of the files as they are now."""
    for name, seeds in scores.items():
        for seed, table in seeds.items():
            if [table[key][0] for key in keys] != labels[str(arms[name]["gop"])]:
                raise SystemExit(f"ERROR arm {name}, seed {seed}: other labels than the data's. Delete its folder.")


def report(results: str = str(DOCS / "study")) -> None:
    """Write ``study.md`` and its plots from ``results/results.json``: nothing else is needed.

    Args:
        results: the folder; study.md lies in it, or, for that of this repository, beside it.
    """
    folder = Path(results)
    text = DOCS / "study.md" if folder.resolve() == DOCS / "study" else folder / "study.md"
    write_report(json.loads((folder / "results.json").read_text()), folder, text)


def compare(
    one: str,
    other: str,
    results: str = str(DOCS / "study"),
    sheet: str | None = None,
    config: str = str(ROOT / "scripts" / "study.json"),
    count: int = 12,
) -> None:
    """Print how two arms differ: AUC with a paired interval, and the slices on which either alone is right.

    Args:
        one: name of an arm.
        other: name of another.
        results: folder of results.json.
        sheet: also draw the slices on which they disagree most, with tumour and Prob-Mask, to this PNG. It shows
            patients, and needs the data of ``config``.
        config: the study, for ``sheet``.
        count: how many slices to draw.
    """
    content = json.loads((Path(results) / "results.json").read_text())
    for name in (one, other):
        if name not in content["scores"]:
            raise SystemExit(f"ERROR {name}: no such arm. Choose of {', '.join(content['scores'])}.")
    analysis = Analysis(content)
    print(json.dumps(analysis.contrast(one, other), indent=1))
    if sheet:
        study = Study(config, prob_masks.BUNDLE, cross_validate.BUNDLE)
        picture_sheet(analysis, {e["case_id"]: e for e in study.cases()}, one, other, Path(sheet), count)


if __name__ == "__main__":
    fire.Fire({"run": run, "report": report, "compare": compare})
