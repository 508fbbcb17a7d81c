"""Out-of-fold Prob-Masks: every case's mask comes from a stage 1 that has not seen that person."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.files import read_json, write_json
from liver_ct.training import running
from liver_ct.training.claims import KNOWN, alone_in, claim_fold, configs_of, is_made_with, knobs_of, mark, recipe_of
from liver_ct.training.datalists import (
    Entry,
    assign_folds,
    learned_by,
    open_data,
    parts_to_do,
    read_lists,
    require_names,
    require_unseen,
    unseen_by,
)
from liver_ct.training.intervals import patient_intervals
from liver_ct.training.running import go_on, inference_knobs, run_bundle, save_weights

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
    epochs: int = 40,
    only: Sequence[str] | str | None = None,
    *,
    bundle: Path,
    held_out: Sequence[str] = (),
    start: Path | None = None,
    **overrides: Any,
) -> None:
    """Train stage 1 ``folds`` times by patient group, then everybody from the last fold on; write all Prob-Masks.

    Under ``output``: ``folds.json`` (group to fold), ``fold-K/model.pt``, ``full/model.pt``,
    ``prob/<case>/<case>_prob.nii.gz`` and ``datalist_prob.json`` (the datalist with each case's ``prob``). A second
    call goes on where a killed one stopped: at the last epoch of a training, at the next case of an inference.

    Args:
        datalist: a datalist.json of ``scripts/lits.py``, or the .zip that its ``pack`` made; validation cases take part
            as training cases.
        output: folder for all of the above.
        folds: number of folds; groups never straddle two.
        epochs: epochs of each fold, a quarter of them for everybody (``running.go_on``); the last weights are taken, so
            no held-out case chooses anything.
        only: parts to do now, of "0" .. "folds - 1" and "full"; default all. Parts may run side by side.
        bundle: a segmentation bundle with the ids of bundles/liver_seg.
        held_out: sources that are left out as a whole, each as a fold after those by person.
        start: weights that the held-out sources' folds start from; they must not have seen those sources. Folds by
            person always start from nothing.
        overrides: further knobs of its train.json, such as ``batch_size``.

    Raises:
        StudyError: Prob-Masks are missing in the end, or the folds there are of other data.
    """
    root = output.resolve()
    lists = open_data(datalist, root / "data")
    fold_of = assign_folds(lists, folds, root / "folds.json", held_out)
    failed = 0
    every = sorted(set(fold_of.values()))
    for part in parts_to_do(only, [*every, "full"]):
        length, knobs = epochs, overrides
        if part == "full":
            length, knobs = go_on(root / f"fold-{every[-1]}" / "model.pt", epochs, bundle, overrides)
        elif start and int(part) >= folds:
            knobs = {**overrides, "init_path": str(start.resolve())}
        failed += make_part(lists, root, part, length, bundle, knobs)
    list_masks(lists, root / "prob", root / "datalist_prob.json")
    if failed:
        raise StudyError(f"{failed} Prob-Masks are missing, for the reasons above")


def make_part(
    lists: Mapping[str, list[Entry]], root: Path, part: str, epochs: int, bundle: Path, overrides: Mapping[str, Any]
) -> int:
    """Train one part of ``make`` and write its Prob-Masks; returns how many could not be made."""
    fold_of = read_json(root / "folds.json")
    work = root / ("full" if part == "full" else f"fold-{part}")
    with alone_in(work):
        train(bundle, work, {k: unseen_by(v, part, fold_of) for k, v in lists.items()}, epochs, overrides)
        entries = lists["test"] if part == "full" else in_fold(lists, part, fold_of)
        return infer(bundle, work / "model.pt", entries, root / "prob", **inference_knobs(bundle, overrides))


def in_fold(lists: Mapping[str, list[Entry]], part: str, fold_of: Mapping[str, int]) -> list[Entry]:
    """The cases of a fold that get a Prob-Mask: its volumes, and the isolated slices of which tumour is known."""
    told = [entry for entry in lists["training_slices"] if "tumour_present" in entry]
    return [entry for entry in lists["training"] + told if str(fold_of.get(entry["group"])) == part]


def unseen(datalist: Path, output: Path, name: str, bundle: Path) -> Path:
    """Prob-Masks of another form of the same cases, such as the CTs that a packed set was made from.

    Every case gets its mask from the fold of ``make`` that has not seen its person, with the knobs that it was trained
    with.

    Args:
        datalist: of the cases, with the groups that ``make`` had.
        output: folder of ``make``.
        name: the masks lie in ``output/prob_<name>``, and ``output/datalist_<name>.json`` lists them.
        bundle: a segmentation bundle.

    Returns:
        The list.

    Raises:
        StudyError: Prob-Masks are missing in the end, or a case has a person of a fold that has not left it out.
    """
    root, lists = output.resolve(), read_lists(datalist.resolve())
    configs_of(bundle)
    require_names(datalist, lists)
    fold_of, folder = read_folds(root), root / f"prob_{name}"
    failed = 0
    for fold in sorted(set(fold_of.values())):
        entries = in_fold(lists, str(fold), fold_of)
        require_unseen(learned_by(root / f"fold-{fold}"), entries, datalist)
        failed += infer_as_trained(bundle, root / f"fold-{fold}", entries, folder)
    failed += infer_as_trained(bundle, root / "full", lists["test"], folder)
    if failed:
        raise StudyError(f"{failed} Prob-Masks are missing, for the reasons above")
    return list_masks(lists, folder, root / f"datalist_{name}.json")


def read_folds(root: Path) -> dict[str, int]:
    """Group to fold, of the output of ``make``; raises StudyError where that is another folder."""
    if not (root / "folds.json").is_file():
        raise StudyError(f"{root}: holds no folds.json. Give the output of `prob_masks.py make`.")
    fold_of: dict[str, int] = read_json(root / "folds.json")
    return fold_of


def infer_as_trained(bundle: Path, work: Path, entries: Sequence[Entry], output: Path) -> int:
    """``infer`` by a part of ``make``, with those of its knobs that inference has."""
    return infer(bundle, work / "model.pt", entries, output, **inference_knobs(bundle, knobs_of(work)))


def evaluate(
    datalist: Path, output: Path, bundle: Path, note: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Metrics of every fold's model on its held-out cases by evaluate.json, and all of them together.

    Each fold with the knobs that ``make`` was given for it. Under ``output``: ``fold-K/metrics/*.csv`` and
    ``results.json``, means over the cases with 95 % intervals from a bootstrap that draws patient groups. Folds that
    were evaluated before are not done again; ``note`` is told, in a line, of those that are not trained. Returns what
    ``results.json`` holds.
    """
    root, lists = output.resolve(), read_lists(datalist.resolve())
    configs_of(bundle)
    require_names(datalist, lists)
    fold_of = read_folds(root)
    cases = [e for e in lists["training"] if e["group"] in fold_of]
    if not cases:
        raise StudyError(
            f"{datalist}: none of its cases is of a person in {root / 'folds.json'}. Give the list of make."
        )
    trained = {fold for fold in fold_of.values() if (root / f"fold-{fold}" / "model.pt").is_file()}
    judged = [e for e in cases if fold_of[e["group"]] in trained]
    if not judged:
        raise StudyError(f"{root}: no fold of its cases has a model.pt. Do `prob_masks.py make` first.")
    if len(judged) < len(cases):
        note(f"{root}: cases of folds without a model.pt, not judged: {len(cases) - len(judged)} of {len(cases)}.")
    for fold in sorted({fold_of[e["group"]] for e in judged}):
        work = root / f"fold-{fold}"
        own = [e for e in cases if fold_of[e["group"]] == fold]
        require_unseen(learned_by(work), own, datalist)
        running.evaluate(bundle, work / "model.pt", work / "metrics", own, **knobs_of(work))
    by_source: dict[str, list[Entry]] = {}
    for entry in judged:
        by_source.setdefault(entry.get("source", "all"), []).append(entry)
    result = {source: report(own, root) for source, own in by_source.items()}
    write_json(root / "results.json", result)
    return result


def report(cases: Sequence[Entry], root: Path) -> dict[str, Any]:
    """The metrics of some cases, each by the fold that has not seen its person; raises StudyError for one without."""
    group = {Path(e["image"]).name: e["group"] for e in cases}
    tables = {name: read_metric(root.glob("fold-*/metrics"), metric) for name, metric in METRICS.items()}
    images = sorted(group)
    for image in images:
        if any(image not in table for table in tables.values()):
            raise StudyError(f"{root}: its fold-*/metrics have no {image}. Delete them, and evaluate again.")
    values = {name: np.array([table[image] for image in images]) for name, table in tables.items()}
    person = [group[image] for image in images]

    def mean(rows: NDArray[Any] | slice) -> dict[str, float]:
        return {name: float(value[rows].mean()) for name, value in values.items()}

    return {
        "cases": len(images),
        "patient_groups": len(set(person)),
        **{name: round(value, 4) for name, value in mean(slice(None)).items()},
        "lowest_dice": round(float(values["dice"].min()), 4),
        "interval_95": patient_intervals(person, mean),
        "dice_per_case": {i: round(float(d), 4) for i, d in zip(images, values["dice"])},
    }


def read_metric(folders: Iterable[Path], metric: str) -> dict[str, float]:
    """Name of the image, which may have been moved since, to value, from the tables of several evaluations."""
    tables = sorted(folder / f"{metric}_raw.csv" for folder in folders)
    rows = (row for path in tables for row in csv.DictReader(path.open(newline="", encoding="utf-8")))
    return {Path(row["filename"]).name: float(row["mean"]) for row in rows}


def train(
    bundle: Path, work: Path, lists: Mapping[str, list[Entry]], epochs: int, overrides: Mapping[str, Any]
) -> None:
    """Train to ``work/model.pt`` (a plain state dict), resuming at the last epoch; nothing to do when it is there.

    Raises:
        StudyError: the training failed, or there is one with other settings or cases.
    """
    cases = [*lists["training"], *lists["training_slices"]]
    claim_fold(work, recipe_of(bundle, cases, epochs=epochs, **overrides))
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
    state = torch.load(last, map_location="cpu", weights_only=True)
    save_weights(state.get("averaged", state["model"]), work / "model.pt")


def infer(bundle: Path, weights: Path, entries: Sequence[Entry], output: Path, **knobs: Any) -> int:
    """Write the Prob-Masks that are still missing; returns how many could not be made.

    Masks that other weights or knobs have left there are made again, and those of CTs that have changed since.

    Args:
        bundle: a segmentation bundle.
        weights: a training of it.
        entries: cases with ``image`` and ``case_id``.
        output: gets ``<case>/<case>_prob.nii.gz``, and in ``.made/<folder of the weights>`` what they follow from.
        knobs: of its inference.json, such as ``temperature``.
    """
    made_with, note = recipe_of(bundle, ckpt_path=weights, **knobs), output / ".made" / weights.parent.name
    if not is_made_with(note, made_with):
        for entry in entries:
            prob_path(entry, output).unlink(missing_ok=True)
        mark(note, made_with)
    forget_changed(entries, output, note / "images.json")
    todo = [{"image": e["image"]} for e in entries if not prob_path(e, output).exists()]
    if todo:
        # prepared data is checked, may hold single slices, and an empty mask is an answer that stage 2 has to live with
        knobs = {**inference_knobs(bundle, {"any_ct": True, "liver_required": False}), **knobs}
        with suppress(StudyError):  # the bundle has named the studies that failed, and finished the others
            run_bundle(bundle, config_file=bundle / "configs" / "inference.json", datalist=todo, ckpt_path=weights,
                       output_dir=output, **knobs)  # fmt: skip
    return sum(not prob_path(e, output).exists() for e in entries)


def forget_changed(entries: Sequence[Entry], folder: Path, note: Path) -> None:
    """Remove the Prob-Masks below ``folder`` of CTs that are others than ``note`` says, and note what they are now."""
    known = read_json(note) if note.is_file() else {}
    now = {entry["case_id"]: KNOWN(Path(entry["image"])) for entry in entries if Path(entry["image"]).is_file()}
    for entry in entries:
        case = entry["case_id"]
        if known.get(case, now.get(case)) != now.get(case):
            prob_path(entry, folder).unlink(missing_ok=True)
    if now.items() - known.items():
        write_json(note, known | now)


def prob_path(entry: Entry, folder: Path) -> Path:
    """Where the segmentation bundle writes the Prob-Mask of a case."""
    name = Path(entry["image"]).name.removesuffix(".gz").removesuffix(".nii")
    return folder / name / f"{name}_prob.nii.gz"


def masked(lists: Mapping[str, list[Entry]], folder: Path) -> dict[str, list[Entry]]:
    """The cases of each section whose Prob-Mask lies under ``folder``, with ``prob`` added."""
    return {
        section: [{**e, "prob": str(prob_path(e, folder))} for e in entries if prob_path(e, folder).exists()]
        for section, entries in lists.items()
    }


def list_masks(lists: Mapping[str, list[Entry]], folder: Path, target: Path) -> Path:
    """Write ``target``: the cases whose Prob-Mask lies under ``folder``, with ``prob`` added."""
    write_json(target, masked({key: lists[key] for key in ("training", "training_slices", "test")}, folder))
    return target
