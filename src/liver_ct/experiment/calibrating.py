"""Whether both probabilities mean what they say: of people the networks have not seen, by person and by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from liver_ct.errors import StudyError
from liver_ct.experiment.analysis import AS_IT_IS, TEMPERATURE, WAYS, parts
from liver_ct.experiment.collecting import read_results
from liver_ct.experiment.mask_steps import temperatures
from liver_ct.experiment.masks import CENTRES, binned, ece, kept_histograms
from liver_ct.files import read_json, write_json
from liver_ct.training.calibration import cross_fitted
from liver_ct.training.claims import knobs_of
from liver_ct.training.datalists import Entry, read_lists
from liver_ct.training.intervals import interval, patient_draws

FILE = "calibration.json"
MASK_BINS, SLICE_BINS = 15, 10
Content = Mapping[str, Any]


def measure(
    output: Path, bundle: Path, masks: Path | None, datalist: Path | None, judged: Path | None, arm: str | None
) -> dict[str, Any]:
    """Collect the counts and logits that calibration is measured from; write and return ``output/calibration.json``.

    Histograms of stage 1's logits are kept beside its weights, so that a killed run goes on at the next fold.

    Args:
        output: folder for the file.
        bundle: a segmentation bundle with the ids of bundles/liver_seg.
        masks: output of ``prob_masks make``; each fold is measured on its own people, with the knobs that it was
            trained with. None leaves stage 1 out.
        datalist: of the volumes; default the one in ``masks``.
        judged: folder of a results.json; None leaves stage 2 out.
        arm: of those results, its first seed; default their reference.

    Raises:
        StudyError: nothing to measure, no fold's weights, or no such arm.
    """
    if masks is None and judged is None:
        raise StudyError("--masks, --judged: neither was given. Give the folder of stage 1, of stage 2 or both.")
    content: dict[str, Any] = {}
    if masks is not None:
        content |= voxels(masks, read_lists((datalist or masks / "datalist_prob.json").resolve())["training"], bundle)
    if judged is not None:
        content["slices"] = slices(read_results(judged), arm)
    write_json(output / FILE, content, indent=None)
    return content


def voxels(masks: Path, cases: Sequence[Entry], bundle: Path) -> dict[str, Any]:
    """Counts [3, 128] of each case by the fold that has not seen it, and the temperatures fitted on the other folds."""
    fold_of = {group: str(fold) for group, fold in read_json(masks / "folds.json").items()}
    columns: dict[str, list[Any]] = {name: [] for name in ("case", "person", "source", "fold", "counts")}
    for work in sorted(masks.glob("fold-*")):
        fold = work.name.removeprefix("fold-")
        own = [e for e in cases if fold_of.get(e["group"]) == fold]
        counts = kept_histograms(bundle, work, own, knobs_of(work)) if own else {}
        for entry in own:
            row = (entry["case_id"], entry["group"], entry.get("source", ""), fold, counts[entry["case_id"]])
            for column, value in zip(columns.values(), row):
                column.append(value)
    if not columns["case"]:
        raise StudyError(f"{masks}: no fold with volumes of its own. Give the output of prob_masks make.")
    several = len(set(columns["fold"])) > 1
    return {"voxels": columns, "temperatures": temperatures(masks) if several else {}}


def slices(results: Mapping[str, Any], arm: str | None) -> dict[str, Any]:
    """Label and raw logit of each slice of an arm, whose it is, which network's, and which parts it belongs to."""
    arm = arm or results["config"]["reference"]
    if arm not in results["scores"]:
        raise StudyError(f"--arm {arm}: no such arm. Choose of {', '.join(results['scores'])}.")
    scores = results["scores"][arm]
    return {
        "arm": arm,
        "person": results["slices"]["person"],
        "fold": results["slices"]["fold"],
        "parts": {name: np.flatnonzero(rows).tolist() for name, rows in parts(results).items()},
        "label": results["labels"][str(results["arms"][arm]["gop"])],
        "logit": scores[next(iter(scores))],
    }


def figures(sums: NDArray[Any], draws: int) -> dict[str, Any]:
    """ECE of people's sums ``[P, 3, bins]`` together, its interval by person, and each person's own."""
    weights = patient_draws([str(i) for i in range(len(sums))], draws).astype(float)
    people = ece(sums)
    total = sums.sum(0)
    used = total[0] > 0
    return {
        "people": len(sums),
        "ece": round(float(ece(total)), 4),
        "interval": interval(ece(np.einsum("dp,pkb->dkb", weights, sums))),
        "person_median": round(float(np.median(people)), 4),
        "person_worst": round(float(people.max()), 4),
        "predicted": (total[2][used] / total[0][used]).round(4).tolist(),
        "observed": (total[1][used] / total[0][used]).round(4).tolist(),
    }


def rows_of(content: Content, draws: int = 2000) -> list[dict[str, Any]]:
    """The figures of a calibration.json: ``what`` probability, of which ``part``, ``scaled`` how, and ``figures``."""
    rows = mask_rows(content, draws) if "voxels" in content else []
    return rows + (slice_rows(content["slices"], draws) if "slices" in content else [])


def mask_rows(content: Content, draws: int) -> list[dict[str, Any]]:
    """Those of the Prob-Mask by source, as it is and at the temperature of the other folds."""
    table, fitted = content["voxels"], content["temperatures"]
    ways = [AS_IT_IS, TEMPERATURE] if fitted else [AS_IT_IS]
    rows = []
    for source in sorted(set(table["source"])):
        own = [i for i, name in enumerate(table["source"]) if name == source]
        for way in ways:
            by_person: dict[str, NDArray[Any]] = {}
            for i in own:
                counts = np.array(table["counts"][i], dtype=float)
                p = expit(CENTRES / (fitted[table["fold"][i]] if way == TEMPERATURE else 1))
                sums = binned(p, counts[1:].sum(0), counts.sum(0), MASK_BINS)
                by_person[table["person"][i]] = by_person.get(table["person"][i], 0) + sums
            found = figures(np.stack(list(by_person.values())), draws)
            rows.append({"what": "Prob-Mask", "part": source or "all", "scaled": way, **found})
    return rows


def slice_rows(table: Content, draws: int) -> list[dict[str, Any]]:
    """Those of the tumour probability by part; temperature, scale and bias of each person fitted on the others whom the
    same network judged, as logits of two networks share no scale."""
    label, raw, person = (np.array(table[name]) for name in ("label", "logit", "person"))
    fold = np.array(table.get("fold", ["0"] * len(person)))  # earlier versions wrote none
    scaled = {way: np.empty(len(person)) for way in WAYS}
    for same in (fold == f for f in np.unique(fold)):
        for way, fit in WAYS.items():
            scaled[way][same] = cross_fitted(label[same], raw[same].astype(float), person[same], fit)
    rows = []
    for part, index in table["parts"].items():
        for way, p in scaled.items():
            own = [np.array(index)[person[index] == name] for name in np.unique(person[index])]
            sums = [binned(p[i], label[i].astype(float), np.ones(len(i)), SLICE_BINS) for i in own]
            rows.append({"what": "tumour probability", "part": part, "scaled": way, **figures(np.stack(sums), draws)})
    return rows


def tumour_under_masks(content: Content) -> list[dict[str, Any]]:
    """What the masks do to each person's tumours: ``cut``, the share of the tumour's voxels below 0.5, ``kept``, the
    mean probability of its voxels, ``kept_of_cut``, the same of those below 0.5 (None without any), and ``voxels``.

    Of people with outlined tumours, the most cut first.
    """
    table = content["voxels"]
    tumour: dict[tuple[str, str], NDArray[Any]] = {}
    for person, source, counts in zip(table["person"], table["source"], table["counts"]):
        tumour[person, source] = tumour.get((person, source), 0) + np.array(counts[2], dtype=float)
    p, below, rows = expit(CENTRES), CENTRES < 0, []
    for (person, source), count in tumour.items():
        if count.sum():
            cut = count[below].sum()
            rows.append({
                "person": person,
                "source": source,
                "voxels": int(count.sum()),
                "cut": float(cut / count.sum()),
                "kept": float((count * p).sum() / count.sum()),
                "kept_of_cut": float((count * p)[below].sum() / cut) if cut else None,
            })  # fmt: skip
    return sorted(rows, key=lambda row: -row["cut"])
