"""The study: does the Prob-Mask help, how much, and can the gap to the manual mask be closed?

python scripts/study.py run --config scripts/study.json
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import cross_validate
import end_to_end
import fire
import nibabel as nib
import numpy as np
import prob_masks
import torch
from lits import replace_with, write_json
from prob_masks import Entry, read_lists
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
            arms = [arm for entry in self.config["arms"] for arm in expand(entry)]
            self.arms = {name_of(arm): arm for arm in arms}
            check(self.config, arms)
        except FileNotFoundError as e:
            mend = "Prepare the data (scripts/lits.py), or give a JSON file like scripts/study.json."
            raise SystemExit(f"ERROR {config}: {e.filename} is not there. {mend}") from e
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise SystemExit(f"ERROR {config}: {e}. Give a JSON file like scripts/study.json.") from e

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

    def masks_of(self, arm: Arm) -> Path:
        """The Prob-Masks an arm works with."""
        return self.masks("temperature" if arm["mask_source"] == "temperature" else arm["masks"])

    def stage1_knobs(self, name: str) -> dict[str, Any]:
        """What masks of that name set in stage 1's bundle."""
        return {k: v for k, v in self.config.get("masks", {}).get(name, {}).items() if k not in ("folds", "epochs")}

    def folder(self, name: str, seed: int) -> Path:
        """Where one seed of an arm lies."""
        return self.output / "arms" / name / f"seed-{seed}"

    def knobs(self, arm: Arm, seed: int) -> dict[str, Any]:
        """What an arm sets in stage 2's bundle."""
        knobs = {k: v for k, v in arm.items() if k not in OWN}
        return {**knobs, "mask_source": knobs["mask_source"].replace("temperature", "prob"), "seed": seed}

    def stage1_epochs(self, name: str) -> int:
        """Epochs of the stage 1 behind masks of that name."""
        return self.config.get("masks", {}).get(name, {}).get("epochs", self.config["stage1_epochs"])

    def folds(self) -> list[str]:
        """Names of the folds."""
        return [str(k) for k in range(self.config["folds"])]

    def cases(self) -> list[Entry]:
        """The cases with their Prob-Masks."""
        return read_lists(self.masks() / "datalist_prob.json")["training"]

    def held_out(self, fold: str, masks: Path | None = None) -> list[Entry]:
        """Those of one fold, with the shipped Prob-Masks or others."""
        fold_of = self.fold_of()
        cases = read_lists((masks or self.masks()) / "datalist_prob.json")["training"]
        return [e for e in cases if fold_of[e["group"]] == fold]


def check(config: Mapping[str, Any], arms: Sequence[Arm]) -> None:
    """Raise ValueError for arms of one name, and for names that no arm or mask bears."""
    names = [name_of(arm) for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"several arms are called {twice[0]}; give one a name of its own")
    sources = [arm[k] for arm in arms for k in ("from", "weights") if k in arm]
    asked = [*sources, config["reference"], *(name for pair in config["contrasts"] for name in pair)]
    unknown = sorted(set(asked) - set(names))
    if unknown or not config["contrasts"]:
        raise ValueError(f"no arm is called {unknown[0]}" if unknown else "there are no contrasts")
    seeds = {name: set(arm["seeds"]) for name, arm in zip(names, arms)}
    for name, arm in zip(names, arms):
        if not seeds[name] <= seeds[arm.get("from") or arm.get("weights") or name]:
            raise ValueError(f"arm {name} has seeds that the arm it starts from lacks")
        if arm["masks"] not in {SHIPPED, *config.get("masks", {})}:
            raise ValueError(f"arm {name} has masks {arm['masks']}, which are not among the masks")


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

    What is done already is left; a killed run goes on at the last epoch of each training. An arm that fails stops no
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
    chosen = arms.split(",") if isinstance(arms, str) else list(arms or study.arms)
    unknown = set(chosen) - set(study.arms)
    if unknown:
        raise SystemExit(f"ERROR --arms {', '.join(sorted(unknown))}: not in {config}: {', '.join(study.arms)}.")
    workers = study.config.get("workers") or os.cpu_count() or 1
    threads = max(1, (os.cpu_count() or 1) // workers)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    lock = hold(study.output / ".lock")
    same_folds(study)
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
    failed = []
    for step, calls in steps:
        if not in_parallel(step, calls, workers):
            failed.append(step.__name__)
            if "masks" in step.__name__:  # nothing goes without
                break
    lock.close()
    if failed:
        raise SystemExit(f"ERROR {', '.join(failed)}: parts failed, for the reasons above. The same command goes on.")
    if arms is None:
        folder = Path(results) if results else study.output
        collect(study, folder / "results.json")
        report(str(folder))


def in_parallel(step: Callable[..., None], calls: Iterable[tuple], workers: int) -> bool:
    """Make all calls, ``workers`` at a time; whether all went well. Trainings run in processes of their own."""

    def call(arguments: tuple) -> bool:
        try:
            step(*arguments)
            return True
        except (Exception, SystemExit) as e:
            names = " ".join(str(a) for a in arguments[1:])
            print(f"ERROR {step.__name__} {names}: {e}".replace(": ERROR ", ": "), file=sys.stderr)
            return False

    with ThreadPoolExecutor(workers) as pool:
        return all(list(pool.map(call, calls)))


def make_masks(study: Study, name: str, fold: str) -> None:
    """Train stage 1 for one fold and write its Prob-Masks."""
    knobs, epochs = study.stage1_knobs(name), study.stage1_epochs(name)
    claim(study.masks(name) / f"fold-{fold}", {"epochs": epochs, **knobs}, remove=study.masks(name))
    if prob_masks.make_part(study.lists, study.masks(name), fold, epochs, study.seg, knobs):
        raise SystemExit("Prob-Masks are missing, for the reasons above")


def list_masks(study: Study) -> None:
    """Name the Prob-Masks of every kind in a datalist."""
    for name, _ in study.trainings():
        prob_masks.list_masks(study.lists, study.masks(name))


def measure_masks(study: Study, name: str, fold: str) -> None:
    """Dice, and histograms of stage 1's logits, of the fold's held-out cases: ``fold-K/``."""
    work, cases, knobs = study.masks(name) / f"fold-{fold}", study.held_out(fold), study.stage1_knobs(name)
    prob_masks.evaluate_fold(study.seg, work / "model.pt", work / "metrics", cases, **knobs)
    if not (work / "histograms.json").exists():
        write_json(work / "histograms.json", logit_histograms(study.seg, work / "model.pt", cases, knobs))


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
    target, missing, fitted = study.masks("temperature"), 0, temperatures(study.masks())
    claim(target, {"temperatures": fitted, "stage1": digest(study.masks().glob("fold-*/model.pt"))})
    for fold, temperature in fitted.items():
        weights = study.masks() / f"fold-{fold}" / "model.pt"
        missing += prob_masks.infer(study.seg, weights, study.held_out(fold), target / "prob", temperature=temperature)
    if missing:
        raise SystemExit(f"{missing} Prob-Masks are missing, for the reasons above")
    shutil.copyfile(study.masks() / "folds.json", target / "folds.json")
    prob_masks.list_masks(study.lists, target)


def train_arm(study: Study, name: str, seed: int, fold: str) -> None:
    """Train one arm on one fold and judge it on the held-out cases."""
    arm, masks, work = study.arms[name], study.masks_of(study.arms[name]), study.folder(name, seed)
    epochs = arm.get("epochs", study.config["epochs"])
    knobs = {k: v for k, v in study.knobs(arm, seed).items() if k != "epochs"}
    masks_digest = digest([*study.masks(arm["masks"]).glob("fold-*/model.pt"), *masks.glob("arm.json")])
    claim(work / f"fold-{fold}", {**arm, "epochs": epochs, "stage1": masks_digest})
    cross_validate.run_part(masks, work, fold, epochs, study.cls, arm.get("inner_groups", 0), knobs)


def judge_arm(study: Study, name: str, seed: int, fold: str) -> None:
    """Judge the weights of another arm through this arm's mask."""
    arm, work = study.arms[name], study.folder(name, seed) / f"fold-{fold}"
    source = study.folder(arm["weights"], seed) / f"fold-{fold}" / "model.pt"
    claim(work, {**arm, "source": digest([source])})
    cases = study.held_out(fold, study.masks_of(arm))
    if arm.get("mend"):
        cases = [mended(entry, arm["mend"], work / "prob") for entry in cases]
    shutil.copyfile(source, work / "model.pt")
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
    arm, work = study.arms[name], study.folder(name, seed) / f"fold-{fold}"
    start, masks = study.folder(arm["from"], seed) / f"fold-{fold}", study.masks(study.arms[arm["from"]]["masks"])
    weights = (masks / f"fold-{fold}" / "model.pt", start / "model.pt")
    claim(work, {**arm, "source": digest(weights)})
    cases, fold_of = study.held_out(fold, masks), study.fold_of()
    others = [e for e in study.cases() if fold_of[e["group"]] != fold]
    end_to_end.train((study.seg, study.cls), weights, work, others, study.knobs(arm, seed))
    if prob_masks.infer(study.seg, work / "seg.pt", cases, work / "prob"):
        raise SystemExit("Prob-Masks are missing, for the reasons above")
    own = [{**e, "prob": str(prob_masks.prob_path(e, work / "prob"))} for e in cases]
    cross_validate.evaluate(study.cls, work, own, study.knobs(arm, seed))
    prob_masks.evaluate_fold(study.seg, work / "seg.pt", work / "liver", cases)


def claim(work: Path, content: Mapping[str, Any], remove: Path | None = None) -> None:
    """Note in ``work/arm.json`` what a folder is made with, so that other settings never take it for their own.

    Raises:
        SystemExit: it was made with something else; ``remove`` (default: the folder) has to go.
    """
    file, own = work / "arm.json", {k: v for k, v in content.items() if k not in ("name", "seeds")}
    if not file.exists():
        write_json(file, own)
    elif json.loads(file.read_text()) != own:
        raise SystemExit(f"{file}: made with other settings or weights. Delete {remove or work}, or name it otherwise.")


def digest(files: Iterable[Path]) -> str:
    """Checksum of several files, in the order of their names."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def hold(file: Path) -> IO[str]:
    """Lock the study, so that no second run writes into its folders; trainings that a kill left behind hold it too.

    Raises:
        SystemExit: another run holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.open("w")
    os.set_inheritable(lock.fileno(), True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit(
            f"ERROR {file}: another run of this study is at work. Wait for it, or end its trainings."
        ) from None
    return lock


def same_folds(study: Study) -> None:
    """One division into folds for masks of every name.

    Raises:
        SystemExit: one was made with another.
    """
    shipped = prob_masks.assign_folds(study.lists, study.config["folds"], study.masks() / "folds.json")
    for name, _ in study.trainings():
        file = study.masks(name) / "folds.json"
        if not file.exists():
            write_json(file, shipped)
        elif json.loads(file.read_text()) != shipped:
            raise SystemExit(f"ERROR {file}: other folds than the shipped masks'. Delete {study.masks(name)}.")


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
        name: {str(seed): cross_validate.held_out(study.masks(), study.folder(name, seed)) for seed in arm["seeds"]}
        for name, arm in study.arms.items()
    }
    keys = list(next(iter(next(iter(scores.values())).values())))
    for name, seeds in scores.items():
        for seed, table in seeds.items():
            if table.keys() != set(keys):
                raise SystemExit(f"ERROR {study.folder(name, seed)}: other slices than the first arm's. Delete it.")
    volume = {gop: {case: over_group(v, gop) for case, v in tumour.items()} for gop in {*gops, DEFAULTS["gop"]}}
    rows = [volume[DEFAULTS["gop"]][case][int(z)] for case, z in keys]
    labels = {str(gop): [int(volume[gop][case][int(z), 0] > 0) for case, z in keys] for gop in gops}
    check_labels(study, scores, keys, labels)
    masks = list(dict.fromkeys(name for name, _ in study.trainings()))
    content = {
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
    }  # fmt: skip
    replace_with(target, lambda part: part.write_text(json.dumps(content, separators=(",", ":")) + "\n"))


def dice(folders: Iterable[Path]) -> dict[str, float]:
    """Case to Dice of the liver, from several evaluations."""
    values = prob_masks.read_metric(folders, "val_mean_dice")
    return {Path(image).name.removesuffix(".gz").removesuffix(".nii"): round(v, 4) for image, v in values.items()}


def over_group(tumour: np.ndarray, gop: int) -> np.ndarray:
    """Sums of ``[slices, 3]`` over each slice's group, end slices repeated; the first above 0 is the group's label."""
    index = np.arange(len(tumour))[:, None] + np.arange(-(gop // 2), gop // 2 + 1)
    return tumour[index.clip(0, len(tumour) - 1)].sum(1)


def check_labels(study: Study, scores: Mapping, keys: Sequence, labels: Mapping[str, list[int]]) -> None:
    """The labels the arms were judged by have to be those of the files as they are now."""
    for name, seeds in scores.items():
        for seed, table in seeds.items():
            if [table[key][0] for key in keys] != labels[str(study.arms[name]["gop"])]:
                raise SystemExit(f"ERROR {study.folder(name, seed)}: other labels than the data's. Delete it.")


def report(results: str = str(DOCS / "study")) -> None:
    """Write ``study.md`` and its plots from ``results/results.json``: nothing else is needed.

    Args:
        results: the folder; study.md lies in it, or, for that of this repository, beside it.
    """
    folder, content = Path(results), read_results(results)
    text = DOCS / "study.md" if folder.resolve() == DOCS / "study" else folder / "study.md"
    write_report(content, folder, text)


def read_results(folder: str) -> dict[str, Any]:
    """Content of a study's results.json; raises SystemExit where there is none."""
    file = Path(folder) / "results.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as e:
        raise SystemExit(f"ERROR {file}: {e}. Give the folder of a finished study as --results.") from e


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
    content = read_results(results)
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
