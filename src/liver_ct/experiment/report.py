"""The experiment's report: tables, plots and sentences, from its file of numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liver_ct.experiment.analysis import Analysis, Results
from liver_ct.experiment.masks import fit_temperature, mask_figures
from liver_ct.experiment.plots import draw_plots
from liver_ct.experiment.report_parts import part_text
from liver_ct.experiment.stats import FIGURES
from liver_ct.experiment.writing import spread, table, write_block
from liver_ct.training.intervals import patient_draws

START = "<!-- from results.json -->"
COVERAGE = ((0, 0.5), (0.5, 0.9), (0.9, 1.0001))  # share of a group's tumour under the binary mask


def write_report(results: Results, folder: Path, text: Path, draws: int = 2000) -> Analysis:
    """Draw the plots into ``folder`` and put the tables into ``text``, between its two marks; what stands around them
    is left. Returns the figures behind them."""
    analysis = Analysis(results, draws)
    draw_plots(analysis, folder)
    parts = [summary_text(analysis), arm_table(analysis), contrast_table(analysis), patient_text(analysis)]
    parts += [mechanism_text(analysis), calibration_text(analysis), loss_table(analysis), liver_table(analysis)]
    write_block(text, START, [*parts, part_text(results, draws)], folder)
    return analysis


def summary_text(a: Analysis) -> str:
    """What came out, in words."""
    slices, reference = a.results["slices"], a.results["config"]["reference"]
    lines = [
        "## What came out",
        (
            f"{len(set(slices['case']))} volumes of {a.patients} patient groups, "
            f"{a.results['config']['folds']} folds by "
            f"group; {len(a.person)} slices considered, {int(a.labels[a.gop(reference)].sum())} of them in groups of "
            f"{a.gop(reference)} that hold tumour. {a.results['config']['epochs']} epochs of stage 2."
        ),
    ]
    for one, other in a.results["config"]["contrasts"][:3]:
        c = a.contrast(one, other)
        verdict = "The interval excludes 0." if c["excludes_0"] else "The interval holds 0: no difference is shown."
        if c["interval"] is None:
            verdict = "Of one person no interval can be given."
        if not c["excludes_0"] and c["half_the_time"]:
            verdict += (
                f" Were {c['difference']:+.4f} the truth, an interval would exclude 0 half the time with "
                f"{c['half_the_time']} patient groups like these, and in 80 of 100 experiments with "
                f"{c['in_80_of_100']}."
            )
        lines.append(f"- **{one} minus {other}: {c['difference']:+.3f}** ({spread(c['interval'], True)}). {verdict}")
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def arm_table(a: Analysis) -> str:
    """The figures of each arm."""
    rows = []
    for arm in a.arms:
        own, drawn, seeds = a.figures(arm, a.gop(arm), a.seeds(arm))
        cells = [f"{own[name]:.3f} ({spread(a.interval(drawn[name]))})" for name in FIGURES]
        by_fold = f"{a.fold_auc(arm, a.gop(arm), a.seeds(arm)):.3f}"
        rows.append([arm, len(seeds), " ".join(f"{s:.3f}" for s in seeds), by_fold, *cells])
    head = ["arm", "seeds", "AUC of each", "mean of folds", "AUC", "accuracy", "TPR", "FPR"]
    head.append("sensitivity at 90 % specificity")
    return "\n\n".join([
        "## The arms",
        ("Means over the seeds, with 95 % intervals from a bootstrap that draws patient groups. Accuracy, TPR and FPR "
        "at a probability of 0.5, calibrated for each fold on the others. Each arm by the labels of its own groups. "
        "The AUC pools the slices of all folds, so that networks that differ in scale lose by it; the mean of the "
        "folds' own AUC does not."),
        table(head, rows), "![ROC](PLOT/roc.png)",
    ])  # fmt: skip


def contrast_table(a: Analysis) -> str:
    """The paired differences between arms."""
    rows = []
    for one, other in a.results["config"]["contrasts"]:
        c = a.contrast(one, other)
        w, by_fold = c["within"], f"{c['difference_by_fold']:+.3f}"
        better = f"{w['one_better']} of {w['patients']} (p = {w['p']:.3f})"
        verdict = "yes" if c["excludes_0"] else "no"
        rows.append([f"{one} - {other}", c["seeds"], f"{c['difference']:+.3f}", spread(c["interval"], True), verdict,
                     c["half_the_time"], c["in_80_of_100"], by_fold, better])  # fmt: skip
    head = ["AUC, first - second", "seeds", "difference", "95 %", "excludes 0", "groups for half", "for 80 %",
            "by fold", "patients better"]  # fmt: skip
    return "\n\n".join([
        "## Paired differences",
        ("Of the same slices in the same draws, over the seeds that both arms have. The intervals hold what other "
        "patients would change, not what other seeds would: with one seed they are too narrow, see the AUC of each "
        "seed above. The two columns of groups say how many patient groups like these an experiment needs for its "
        "interval to exclude 0, half the time and in 80 of 100 experiments, were the difference found the true one. "
        "By fold: the difference between the means of the folds' AUC. The last column counts the patients among whose "
        "own slices the first has the larger AUC, with Wilcoxon's signed-rank test. Arms of different gop are compared "
        "by each slice's own label."),
        table(head, rows), "![Paired differences](PLOT/differences.png)",
    ])  # fmt: skip


def patient_text(a: Analysis) -> str:
    """What the slices' answers say of each patient."""
    rows = []
    for arm in a.arms:
        r, within = a.rollup(arm), a.within(arm, a.gop(arm), a.seeds(arm))
        counts = [f"{r['found']} of {r['patients'] - r['tumour_free']}", f"{r['false_alarms']} of {r['tumour_free']}"]
        auc = "-" if r["auc"] is None else f"{r['auc']:.3f}"
        rows.append([arm, *counts, auc, f"{np.mean(list(within.values())):.3f}"])
    free = a.rollup(a.arms[0])["tumour_free"]
    return "\n\n".join([
        "## By patient",
        f"A patient's answer is the worst slice. **{free} of the {a.patients} patient groups are tumour-free**"
        + (", so that nothing can be said of false alarms by patient, nor an AUC given." if free == 0 else ".")
        + " The last column is the mean over patients of the AUC among their own slices.",
        table(["arm", "patients found", "false alarms", "AUC by patient", "AUC within patients"], rows),
    ])  # fmt: skip


def mechanism_text(a: Analysis) -> str:
    """How much of the tumours lies under the masks."""
    under, slices = a.tumour_share()["binary"], a.results["slices"]
    tumour = np.array(slices["tumour"])
    total = {k: np.array(slices[k]).sum() / tumour.sum() for k in ("prob", "binary")}
    has = ~np.isnan(under)
    return "\n\n".join([
        "## The mechanism",
        (f"Of the tumours' volume, {100 * total['binary']:.1f} % lies under the binary mask; the "
        f"Prob-Mask keeps {100 * total['prob']:.1f} % (its mean there, which also dims what it keeps). Of "
        f"{int(has.sum())} groups with tumour, {int((under[has] < 0.5).sum())} have less than half of it "
        "under the binary mask."),
        "TPR at 0.5 by how much of the group's tumour the binary mask keeps:",
        coverage_table(a, under),
        "![Tumour under the masks](PLOT/coverage.png)",
        ("Where two arms decide differently at 0.5, which is right (first seed; in brackets with tumour + without). p "
        "is McNemar's exact test, which takes slices for independent and is too sure; the patients in whom either is "
        "right more often say more. `scripts/study.py compare` does this for any two arms, and draws the slices."),
        disagreement_table(a),
    ])  # fmt: skip


def coverage_table(a: Analysis, under: NDArray[Any]) -> str:
    """TPR of the first contrast's arms by ``under``, the share of each slice's tumour under the binary mask."""
    reference, binary = a.results["config"]["contrasts"][0]
    label, rows = a.labels[a.gop(reference)] > 0, []
    for low, high in COVERAGE:
        chosen = label & (under >= low) & (under < high)  # NaN, where there is no tumour, is in none
        if chosen.any():
            tpr = [np.mean([(p[chosen] >= 0.5).mean() for p in a.probabilities(arm)]) for arm in (reference, binary)]
            part = f"{100 * low:.0f} to {100 * min(high, 1):.0f} %"
            rows.append([part, int(chosen.sum()), *(f"{v:.3f}" for v in tpr)])
    return table(["tumour under the binary mask", "groups", reference, binary], rows)


def disagreement_table(a: Analysis) -> str:
    """The slices that the arms of each contrast judge differently."""
    rows = []
    for one, other in a.results["config"]["contrasts"]:
        d = a.contrast(one, other)["slices"]
        if d:
            right = (d["one_right"], d["other_right"])
            cells = [f"{n['all']} ({n['tumour']} + {n['all'] - n['tumour']})" for n in right]
            rows.append([f"{one}, {other}", *cells, d["both_right"], d["both_wrong"],
                         f"{d['patients_one_better']} : {d['patients_other_better']}", f"{d['p']:.3f}"])  # fmt: skip
    head = ["first, second", "only the first is right", "only the second", "both", "neither", "patients", "p"]
    return table(head, rows)


def calibration_text(a: Analysis) -> str:
    """How well probabilities mean what they say."""
    masks, tumour = a.tempered(), a.tumour_calibration(a.results["config"]["reference"])
    fitted = fit_temperature(a.histogram("shipped"))
    rows = [
        *(["Prob-Mask", name, f"{value['ece']:.4f}"] for name, value in masks.items()),
        *(["tumour probability", name, f"{value['ece']:.4f}"] for name, value in tumour.items()),
    ]
    folds = ", ".join(f"{t:.2f}" for t in a.results["temperatures"].values())
    return "\n\n".join([
        "## Calibration",
        ("Expected calibration error (ECE) on held-out cases: of voxels within 20 mm of the liver on stage 1's grid "
        "(15 bins), and of slices (10 bins). Temperature, or scale and bias, of each fold are fitted on the other "
        f"folds. Temperatures of the Prob-Mask: {folds} by fold, {fitted:.2f} on all (`temperature` of liver_seg)."),
        table(["what", "scaled by", "ECE"], rows), "![Reliability](PLOT/reliability.png)",
    ])  # fmt: skip


def loss_table(a: Analysis) -> str:
    """What stage 1's loss does to its Prob-Masks."""
    names = list(a.results["masks"])
    common = set.intersection(*(set(a.results["masks"][n]) for n in names))
    if not common:
        return ""
    rows = []
    for name in names:
        m = mask_figures(np.sum([a.results["masks"][name][c] for c in common], axis=0))
        dice = np.mean([a.results["liver"][name][c] for c in common])
        rows.append([name, f"{dice:.4f}", f"{m['reliability']['ece']:.4f}", f"{100 * m['unsure']:.1f} %",
                     f"{100 * m['unsure_where_wrong']:.1f} %", f"{100 * m['tumour_under_prob']:.1f} %",
                     f"{100 * m['tumour_under_binary']:.1f} %"])  # fmt: skip
    head = ["stage 1", "case Dice", "ECE", "unsure", "unsure where wrong", "tumour under prob", "under binary"]
    return "\n\n".join([
        "## Saturation and stage 1's loss",
        (f"Held-out cases that all of them have ({len(common)}). Unsure: a probability within 0.05 and 0.95, of all "
        "voxels within 20 mm of the liver, and of those on the wrong side of 0.5, which a binary mask gets wrong."),
        table(head, rows),
    ])  # fmt: skip


def liver_table(a: Analysis) -> str:
    """What training both stages as one does to the liver."""
    tuned = [arm for arm in a.arms if "from" in a.results["arms"][arm]]
    if not tuned:
        return ""
    person = dict(zip(a.results["slices"]["case"], a.person))
    before, rows = a.results["liver"]["shipped"], []
    for arm in tuned:
        cases = sorted(a.results["liver"][arm])
        change = np.array([a.results["liver"][arm][c] - before[c] for c in cases])
        weights = patient_draws([person[c] for c in cases], len(a.weights)).astype(float)
        low_high = a.interval(weights @ change / weights.sum(1))
        own = np.mean([a.results["liver"][arm][c] for c in cases])
        rows.append([arm, f"{own:.4f}", f"{change.mean():+.4f}", spread(low_high, True)])
    return "\n\n".join([
        "## End to end: the liver",
        "Mean case Dice of stage 1 after both stages were trained as one, and its change.",
        table(["arm", "case Dice", "change", "95 %"], rows),
    ])  # fmt: skip
