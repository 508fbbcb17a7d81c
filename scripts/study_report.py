"""The study's report: tables, plots and sentences, from its file of numbers alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cross_validate import calibrate, cross_fitted
from intervals import patient_draws
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from study_masks import CENTRES, fit_temperature, mask_figures, reliability
from study_plots import draw_plots
from study_stats import (
    FIGURES,
    disagreement,
    drawn_figures,
    figures,
    interval,
    paired_within,
    patient_rollup,
    patients_needed,
    within_patients,
)

START, END = "<!-- from results.json -->", "<!-- end -->"
COVERAGE = ((0, 0.5), (0.5, 0.9), (0.9, 1.0001))  # share of a group's tumour under the binary mask
Results = Mapping[str, Any]


class Analysis:
    """All figures of a results.json.

    Args:
        results: its content.
        draws: bootstrap samples.
    """

    def __init__(self, results: Results, draws: int = 2000) -> None:
        self.results, slices = results, results["slices"]
        self.person, self.fold = np.array(slices["person"]), np.array(slices["fold"])
        self.labels = {int(gop): np.array(v) for gop, v in results["labels"].items()}
        self.weights = patient_draws(self.person, draws)
        self.patients = len(np.unique(self.person))
        self.arms = list(results["scores"])

    def gop(self, arm: str) -> int:
        """Slices per group of an arm."""
        return int(self.results["arms"][arm]["gop"])

    def seeds(self, *arms: str) -> tuple[str, ...]:
        """The seeds that all of the arms have."""
        return tuple(s for s in self.results["scores"][arms[0]] if all(s in self.results["scores"][a] for a in arms))

    def raw(self, arm: str, seeds: Sequence[str] | None = None) -> list[np.ndarray]:
        """Logits of each seed, or of those named, ``[N]``."""
        scores = self.results["scores"][arm]
        return [np.array(scores[s]) for s in seeds or scores]

    def probabilities(
        self, arm: str, seeds: Sequence[str] | None = None, fit: Callable = calibrate
    ) -> list[np.ndarray]:
        """Probabilities of each seed, calibrated for each fold on the others."""
        label = self.labels[self.gop(arm)]
        return [cross_fitted(label, raw, self.fold, fit) for raw in self.raw(arm, seeds)]

    @functools.cache
    def figures(
        self, arm: str, gop: int, seeds: tuple[str, ...]
    ) -> tuple[dict[str, float], dict[str, np.ndarray], list[float]]:
        """Means over seeds of an arm judged by the labels of ``gop``: figures, the same of every draw, and the AUC of
        each seed."""
        label, pairs = self.labels[gop], list(zip(self.raw(arm, seeds), self.probabilities(arm, seeds)))
        own = [figures(label, raw, p) for raw, p in pairs]
        drawn = [drawn_figures(label, raw, p, self.weights) for raw, p in pairs]
        return (
            {name: float(np.mean([t[name] for t in own])) for name in FIGURES},
            {name: np.mean([t[name] for t in drawn], axis=0) for name in FIGURES},
            [f["auc"] for f in own],
        )

    def fold_auc(self, arm: str, gop: int, seeds: Sequence[str]) -> float:
        """Mean over the folds and seeds of the AUC among a fold's own slices, which one network judged."""
        label = self.labels[gop]
        rows = [r for r in (self.fold == f for f in np.unique(self.fold)) if 0 < label[r].sum() < r.sum()]
        return float(np.mean([roc_auc_score(label[r], raw[r]) for raw in self.raw(arm, seeds) for r in rows]))

    def contrast(self, one: str, other: str) -> dict[str, Any]:
        """AUC of ``one`` minus ``other``, paired by patient, over the seeds that both have.

        Arms of different gop are compared by each slice's own label, and their decisions, which were calibrated to
        different labels, not at all (``slices`` None).
        """
        alike, seeds = self.gop(one) == self.gop(other), self.seeds(one, other)
        gop = self.gop(one) if alike else 1
        (a, drawn_a, _), (b, drawn_b, _) = (self.figures(arm, gop, seeds) for arm in (one, other))
        difference, drawn = a["auc"] - b["auc"], drawn_a["auc"] - drawn_b["auc"]
        low, high = interval(drawn)
        first, second = (self.probabilities(arm, seeds[:1])[0] for arm in (one, other))
        return {
            "seeds": len(seeds),
            "difference": difference,
            "interval": [low, high],
            "excludes_0": low > 0 or high < 0,
            "difference_by_fold": self.fold_auc(one, gop, seeds) - self.fold_auc(other, gop, seeds),
            **patients_needed(self.patients, difference, drawn),
            "within": paired_within(*(self.within(arm, gop, seeds) for arm in (one, other))),
            "slices": disagreement(self.labels[gop], first, second, self.person) if alike else None,
        }

    @functools.cache
    def within(self, arm: str, gop: int, seeds: tuple[str, ...]) -> dict[str, float]:
        """Mean over seeds of the AUC among each patient's own slices."""
        tables = [within_patients(self.labels[gop], raw, self.person) for raw in self.raw(arm, seeds)]
        return {p: float(np.mean([t[p] for t in tables])) for p in tables[0]}

    def rollup(self, arm: str) -> dict[str, Any]:
        """Study-level answers of the first seed."""
        return patient_rollup(self.labels[self.gop(arm)], self.probabilities(arm)[0], self.person)

    def tumour_share(self) -> dict[str, np.ndarray]:
        """Of each group with tumour, the share of the tumour's volume under ``prob`` and ``binary``; nan without."""
        slices = {k: np.array(self.results["slices"][k]) for k in ("tumour", "prob", "binary")}
        with np.errstate(invalid="ignore", divide="ignore"):
            return {k: np.where(slices["tumour"] > 0, slices[k] / slices["tumour"], np.nan) for k in ("prob", "binary")}

    def histogram(self, name: str, fold: int | None = None) -> np.ndarray:
        """Counts [3, 128] of Prob-Masks, of all cases or those of one fold."""
        fold_of = dict(zip(self.results["slices"]["case"], self.fold))
        rows = self.results["masks"][name].items()
        return sum(np.array(h) for case, h in rows if fold is None or int(fold_of[case]) == fold)

    def tempered(self) -> dict[str, Any]:
        """Reliability of the shipped Prob-Mask as it is, and with each fold at the temperature of the others."""
        before, after = mask_figures(self.histogram("shipped")), []
        for fold, temperature in self.results["temperatures"].items():
            after.append((self.histogram("shipped", int(fold)), expit(CENTRES / temperature)))
        p = np.concatenate([p for _, p in after])
        hits, total = (np.concatenate([f(h) for h, _ in after]) for f in (lambda h: h[1:].sum(0), lambda h: h.sum(0)))
        return {"as it is": before["reliability"], "temperature": reliability(p, hits, total)}

    def tumour_calibration(self, arm: str) -> dict[str, Any]:
        """Reliability of an arm's tumour probability: raw, by temperature, and by scale and bias; first seed."""
        label = self.labels[self.gop(arm)]
        ways = {
            "raw": lambda *_: (1.0, 0.0),
            "temperature": lambda y, raw: (scale_only(y, raw), 0.0),
            "scale and bias": calibrate,
        }
        return {
            name: reliability(self.probabilities(arm, fit=fit)[0], label.astype(float), np.ones(len(label)), bins=10)
            for name, fit in ways.items()
        }


def scale_only(label: np.ndarray, raw: np.ndarray) -> float:
    """1 / temperature that makes sigmoid(scale * raw) fit labels best."""
    loss = lambda s: np.logaddexp(0, s * raw).mean() - s * (label * raw).mean()  # noqa: E731
    return float(minimize_scalar(loss, bounds=(0.05, 10), method="bounded").x)


# ------------------------------------------------------------------------------------------------------ the text


def write_report(results: Results, folder: Path, text: Path, draws: int = 2000) -> Analysis:
    """Draw the plots into ``folder`` and put the tables into ``text``, between its two marks; what stands around them
    is left. Returns the figures behind them."""
    analysis = Analysis(results, draws)
    draw_plots(analysis, folder)
    at = "" if text.parent == folder else f"{folder.name}/"
    parts = [summary_text(analysis), arm_table(analysis), contrast_table(analysis), patient_text(analysis)]
    parts += [mechanism_text(analysis), calibration_text(analysis), loss_table(analysis), liver_table(analysis)]
    block = "\n\n".join([START, *(p.replace("PLOT/", at) for p in parts if p), END])
    old = text.read_text() if text.exists() else f"# The study\n\n{START}\n{END}\n"
    if START not in old or END not in old.split(START, 1)[1]:
        raise SystemExit(f"ERROR {text}: the marks {START} and {END} are missing. Put them where the tables belong.")
    before, rest = old.split(START, 1)
    part = text.with_name(f".part-{text.name}")
    part.write_text(before + block + rest.split(END, 1)[1])
    part.replace(text)
    return analysis


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def spread(low_high: Sequence[float], sign: bool = False) -> str:
    """``0.80 to 0.90``."""
    return " to ".join(f"{v:+.3f}" if sign else f"{v:.3f}" for v in low_high)


def summary_text(a: Analysis) -> str:
    slices, reference = a.results["slices"], a.results["config"]["reference"]
    lines = [
        "## What came out",
        f"{len(set(slices['case']))} volumes of {a.patients} patient groups, {a.results['config']['folds']} folds by "
        f"group; {len(a.person)} slices considered, {int(a.labels[a.gop(reference)].sum())} of them in groups of "
        f"{a.gop(reference)} that hold tumour. {a.results['config']['epochs']} epochs of stage 2.",
    ]
    for one, other in a.results["config"]["contrasts"][:3]:
        c = a.contrast(one, other)
        verdict = "The interval excludes 0." if c["excludes_0"] else "The interval holds 0: no difference is shown."
        if not c["excludes_0"] and c["half_the_time"]:
            verdict += (
                f" Were {c['difference']:+.4f} the truth, an interval would exclude 0 half the time with "
                f"{c['half_the_time']} patient groups like these, and in 80 of 100 studies with {c['in_80_of_100']}."
            )
        lines.append(f"- **{one} minus {other}: {c['difference']:+.3f}** ({spread(c['interval'], True)}). {verdict}")
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def arm_table(a: Analysis) -> str:
    rows = []
    for arm in a.arms:
        own, drawn, seeds = a.figures(arm, a.gop(arm), a.seeds(arm))
        cells = [f"{own[name]:.3f} ({spread(interval(drawn[name]))})" for name in FIGURES]
        by_fold = f"{a.fold_auc(arm, a.gop(arm), a.seeds(arm)):.3f}"
        rows.append([arm, len(seeds), " ".join(f"{s:.3f}" for s in seeds), by_fold, *cells])
    head = [
        "arm",
        "seeds",
        "AUC of each",
        "mean of folds",
        "AUC",
        "accuracy",
        "TPR",
        "FPR",
        "sensitivity at 90 % specificity",
    ]
    return "\n\n".join([
        "## The arms",
        "Means over the seeds, with 95 % intervals from a bootstrap that draws patient groups. Accuracy, TPR and FPR "
        "at a probability of 0.5, calibrated for each fold on the others. Each arm by the labels of its own groups. "
        "The AUC pools the slices of all folds, so that networks that differ in scale lose by it; the mean of the "
        "folds' own AUC does not.",
        table(head, rows), "![ROC](PLOT/roc.png)",
    ])  # fmt: skip


def contrast_table(a: Analysis) -> str:
    rows = []
    for one, other in a.results["config"]["contrasts"]:
        c = a.contrast(one, other)
        w, by_fold = c["within"], f"{c['difference_by_fold']:+.3f}"
        better = f"{w['one_better']} of {w['patients']} (p = {w['p']:.3f})"
        verdict = "yes" if c["excludes_0"] else "no"
        cells = [
            c["seeds"],
            f"{c['difference']:+.3f}",
            spread(c["interval"], True),
            verdict,
            c["half_the_time"],
            c["in_80_of_100"],
            by_fold,
        ]
        rows.append([f"{one} - {other}", *cells, better])
    head = [
        "AUC, first - second",
        "seeds",
        "difference",
        "95 %",
        "excludes 0",
        "groups for half",
        "for 80 %",
        "by fold",
        "patients better",
    ]
    return "\n\n".join([
        "## Paired differences",
        "Of the same slices in the same draws, over the seeds that both arms have. The intervals hold what other "
        "patients would change, not what other seeds would: with one seed they are too narrow, see the AUC of each "
        "seed above. The two columns of groups say how many patient groups like these a study would need for its "
        "interval to exclude 0, half the time and in 80 of 100 studies, were the difference found the true one. "
        "By fold: the difference between the means of the folds' AUC. The last column counts the patients among whose "
        "own slices the first has the larger AUC, with Wilcoxon's signed-rank test. Arms of different gop are compared "
        "by each slice's own label.",
        table(head, rows), "![Paired differences](PLOT/differences.png)",
    ])  # fmt: skip


def patient_text(a: Analysis) -> str:
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
    share, slices = a.tumour_share(), a.results["slices"]
    tumour = np.array(slices["tumour"])
    total = {k: np.array(slices[k]).sum() / tumour.sum() for k in ("prob", "binary")}
    has = ~np.isnan(share["binary"])
    lines = [
        "## The mechanism",
        f"Of the tumours' volume, {100 * total['binary']:.1f} % lies under the binary mask; the "
        f"Prob-Mask keeps {100 * total['prob']:.1f} % (its mean there, which also dims what it keeps). Of "
        f"{int(has.sum())} groups with tumour, {int((share['binary'][has] < 0.5).sum())} have less than half of it "
        "under the binary mask.",
    ]
    reference, binary = a.results["config"]["contrasts"][0]
    rows = []
    label = a.labels[a.gop(reference)] > 0
    for low, high in COVERAGE:
        chosen = has & label & (share["binary"] >= low) & (share["binary"] < high)
        if chosen.any():
            tpr = [np.mean([(p[chosen] >= 0.5).mean() for p in a.probabilities(arm)]) for arm in (reference, binary)]
            rows.append(
                [f"{100 * low:.0f} to {100 * min(high, 1):.0f} %", int(chosen.sum()), *(f"{v:.3f}" for v in tpr)]
            )
    lines.append("TPR at 0.5 by how much of the group's tumour the binary mask keeps:")
    lines.append(table(["tumour under the binary mask", "groups", reference, binary], rows))
    lines.append("![Tumour under the masks](PLOT/coverage.png)")
    rows = []
    for one, other in a.results["config"]["contrasts"]:
        d = a.contrast(one, other)["slices"]
        if d:
            cells = [
                f"{d[k]['all']} ({d[k]['tumour']} + {d[k]['all'] - d[k]['tumour']})"
                for k in ("one_right", "other_right")
            ]
            rows.append([f"{one}, {other}", *cells, d["both_right"], d["both_wrong"],
                         f"{d['patients_one_better']} : {d['patients_other_better']}", f"{d['p']:.3f}"])  # fmt: skip
    lines.append(
        "Where two arms decide differently at 0.5, which is right (first seed; in brackets with tumour + without). p "
        "is McNemar's exact test, which takes slices for independent and is too sure; the patients in whom either is "
        "right more often say more. `scripts/study.py compare` does this for any two arms, and draws the slices."
    )
    head = ["first, second", "only the first is right", "only the second", "both", "neither", "patients", "p"]
    return "\n\n".join([*lines, table(head, rows)])


def calibration_text(a: Analysis) -> str:
    masks, tumour = a.tempered(), a.tumour_calibration(a.results["config"]["reference"])
    fitted = fit_temperature(a.histogram("shipped"))
    rows = [
        *(["Prob-Mask", name, f"{value['ece']:.4f}"] for name, value in masks.items()),
        *(["tumour probability", name, f"{value['ece']:.4f}"] for name, value in tumour.items()),
    ]
    folds = ", ".join(f"{t:.2f}" for t in a.results["temperatures"].values())
    return "\n\n".join([
        "## Calibration",
        "Expected calibration error (ECE) on held-out cases: of voxels within 20 mm of the liver on stage 1's grid (15 "
        "bins), and of slices (10 bins). Temperature, or scale and bias, of each fold are fitted on the other folds. "
        f"Temperatures of the Prob-Mask: {folds} by fold, {fitted:.2f} on all (`temperature` of liver_seg).",
        table(["what", "scaled by", "ECE"], rows), "![Reliability](PLOT/reliability.png)",
    ])  # fmt: skip


def loss_table(a: Analysis) -> str:
    names = list(a.results["masks"])
    common = set.intersection(*(set(a.results["masks"][n]) for n in names))
    rows = []
    for name in names:
        m = mask_figures(sum(np.array(a.results["masks"][name][c]) for c in common))
        dice = np.mean([a.results["liver"][name][c] for c in common])
        rows.append([name, f"{dice:.4f}", f"{m['reliability']['ece']:.4f}", f"{100 * m['unsure']:.1f} %",
                     f"{100 * m['unsure_where_wrong']:.1f} %", f"{100 * m['tumour_under_prob']:.1f} %",
                     f"{100 * m['tumour_under_binary']:.1f} %"])  # fmt: skip
    head = ["stage 1", "case Dice", "ECE", "unsure", "unsure where wrong", "tumour under prob", "under binary"]
    return "\n\n".join([
        "## Saturation and stage 1's loss",
        f"Held-out cases that all of them have ({len(common)}). Unsure: a probability within 0.05 and 0.95, of all "
        "voxels within 20 mm of the liver, and of those on the wrong side of 0.5, which a binary mask gets wrong.",
        table(head, rows),
    ])  # fmt: skip


def liver_table(a: Analysis) -> str:
    tuned = [arm for arm in a.arms if "from" in a.results["arms"][arm]]
    if not tuned:
        return ""
    person = dict(zip(a.results["slices"]["case"], a.person))
    before, rows = a.results["liver"]["shipped"], []
    for arm in tuned:
        cases = sorted(a.results["liver"][arm])
        change = np.array([a.results["liver"][arm][c] - before[c] for c in cases])
        weights = patient_draws([person[c] for c in cases], len(a.weights)).astype(float)
        low_high = interval(weights @ change / weights.sum(1))
        own = np.mean([a.results["liver"][arm][c] for c in cases])
        rows.append([arm, f"{own:.4f}", f"{change.mean():+.4f}", spread(low_high, True)])
    return "\n\n".join([
        "## End to end: the liver",
        "Mean case Dice of stage 1 after both stages were trained as one, and its change.",
        table(["arm", "case Dice", "change", "95 %"], rows),
    ])  # fmt: skip
