"""Tables of the parts of the data: isolated slices, each source, and weights judged through several masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from liver_ct.experiment.analysis import VOLUMES, Analysis, Results, parts
from liver_ct.experiment.calibrating import rows_of, tumour_under_masks
from liver_ct.experiment.stats import WIDTH
from liver_ct.experiment.writing import spread, table, write_block
from liver_ct.training.intervals import interval, patient_draws

JUDGED, CALIBRATED = "<!-- from judged/results.json -->", "<!-- from calibration.json -->"
MOST = 10_000  # people; more is no plan
FEWEST = 2  # people of whom an interval can be said


def part_text(results: Results, draws: int = 2000, whole: bool = False) -> str:
    """Arms and contrasts of each part of the data; of the volumes, too, if ``whole``.

    Empty for results of versions that knew volumes alone.
    """
    if "set" not in results["slices"]:
        return ""
    chosen = [part for part in parts(results) if whole or part != VOLUMES]
    return "\n\n".join(one_part(Analysis(results, draws, part), part) for part in chosen)


def one_part(a: Analysis, part: str) -> str:
    """The figures of one part: AUC of each arm, and paired differences by person."""
    gop = a.gop(a.results["config"]["reference"])
    label = a.labels[gop]
    cases = len(set(a.results["slices"]["case"]))
    size = f"{cases} cases of {a.patients} people, {len(label)} slices, {int(label.sum())} with tumour in their group."
    lines = [f"## {part[0].upper()}{part[1:]}", size]
    if label.all() or not label.any() or a.patients < FEWEST:
        return "\n\n".join([*lines, "Too few people or slices of one kind: no AUC can be given."])
    head, rows = ["arm", "seeds", "AUC (95 % by person)"], list[list[Any]]()
    several = len(set(a.fold)) > 1  # networks, whose scores share no scale
    if several:
        head.append("mean of folds")
    for arm in a.arms:
        own, drawn, seeds = a.figures(arm, a.gop(arm), a.seeds(arm))
        rows.append([arm, len(seeds), f"{own['auc']:.3f} ({spread(a.interval(drawn['auc']))})"])
        if several:
            rows[-1].append(f"{a.fold_auc(arm, a.gop(arm), a.seeds(arm)):.3f}")
    lines.append(table(head, rows))
    rows = []
    for one, other in a.results["config"]["contrasts"]:
        c = a.contrast(one, other)
        better = f"{c['within']['one_better']} of {c['within']['patients']}"
        verdict = "yes" if c["excludes_0"] else "no"
        difference = f"{c['difference']:+.3f}"
        rows.append([f"{one} - {other}", difference, spread(c["interval"], True), verdict,
                     people(c["for_width"]), people(c["in_80_of_100"]), better])  # fmt: skip
    head = ["AUC, first - second", "difference", "95 %", "excludes 0", f"people for a width of {WIDTH}",
            "people for 80 %", "people better"]  # fmt: skip
    return "\n\n".join([*lines, table(head, rows)])


def people(number: int | None) -> str:
    """A number of people that an experiment could have, for a table."""
    return "-" if number is None else str(number) if number <= MOST else f"over {MOST}"


def judged_report(results: Results, folder: Path, text: Path) -> None:
    """Put the tables of weights judged through several masks into a page."""
    write_block(text, JUDGED, [part_text(results, whole=True)], folder, begin=True)


def calibration_report(content: Results, folder: Path, text: Path) -> None:
    """Put the tables of a calibration.json into a page."""
    parts = [calibration_table(content), "![Reliability](PLOT/calibration.png)"]
    write_block(text, CALIBRATED, [*parts, tumour_table(content)], folder, begin=True)


def calibration_table(content: Results) -> str:
    """ECE of both probabilities by part, with intervals by person."""
    rows = [
        [
            row["what"],
            row["part"],
            row["people"],
            row["scaled"],
            f"{row['ece']:.3f} ({spread(row['interval'])})" if row["people"] >= FEWEST else f"{row['ece']:.3f}",
            f"{row['person_median']:.3f}",
            f"{row['person_worst']:.3f}",
        ]
        for row in rows_of(content)
    ]
    head = ["probability", "of", "people", "scaled by", "ECE (95 % by person)", "median person", "worst person"]
    return table(head, rows)


def tumour_table(content: Results) -> str:
    """How much of each person's tumours the masks keep, and the mean of the people."""
    found = tumour_under_masks(content) if "voxels" in content else []
    rows = [
        [
            row["person"],
            row["source"],
            row["voxels"],
            f"{100 * row['cut']:.1f} %",
            f"{100 * row['kept']:.1f} %",
            "-" if row["kept_of_cut"] is None else f"{100 * row['kept_of_cut']:.1f} %",
        ]
        for row in found
    ]
    head = ["person", "source", "tumour voxels", "below 0.5, cut by the binary mask", "kept by the Prob-Mask",
            "of what is cut, kept by the Prob-Mask"]  # fmt: skip
    if len(found) >= FEWEST:
        weights = patient_draws([row["person"] for row in found]).astype(float)
        cells = []
        for name in ("cut", "kept"):
            values = np.array([row[name] for row in found])
            low, high = interval(weights @ values / weights.sum(1)) or (math.nan, math.nan)
            cells.append(f"{100 * values.mean():.1f} % ({100 * low:.1f} to {100 * high:.1f})")
        rows.append(["**mean of people (95 %)**", "", sum(row["voxels"] for row in found), *cells, ""])
    return table(head, rows) if rows else ""
