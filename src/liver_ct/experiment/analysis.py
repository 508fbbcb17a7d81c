"""All figures of an experiment, from its file of numbers alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from liver_ct.experiment.collecting import SETS
from liver_ct.experiment.masks import CENTRES, mask_figures, reliability
from liver_ct.experiment.stats import (
    FIGURES,
    disagreement,
    drawn_figures,
    figures,
    paired_within,
    patient_rollup,
    patients_needed,
    people_for_width,
    within_patients,
)
from liver_ct.training.calibration import calibrate, cross_fitted, told_apart
from liver_ct.training.intervals import interval, patient_draws

Results = Mapping[str, Any]
Fit = Callable[[NDArray[Any], NDArray[Any]], tuple[float, float]]
VOLUMES, OUTSIDE, _ = SETS
AS_IT_IS, TEMPERATURE, SCALE_AND_BIAS = "as it is", "temperature", "scale and bias"
WAYS: dict[str, Fit] = {  # of making a logit a probability
    AS_IT_IS: lambda *_: (1.0, 0.0),
    TEMPERATURE: lambda label, raw: (scale_only(label, raw), 0.0),
    SCALE_AND_BIAS: calibrate,
}


def parts(results: Results) -> dict[str, NDArray[Any]]:
    """Which rows ``[N]`` of the slices are of the volumes, of isolated slices, and of the volumes of each source.

    Sources are parts where there are several; results of earlier versions hold volumes alone.
    """
    slices = results["slices"]
    kind = np.array(slices.get("set", [VOLUMES] * len(slices["case"])))
    found = {name: kind == name for name in SETS if (kind == name).any()}
    source = np.array(slices.get("source", [""] * len(kind)))
    names = sorted(set(source[kind == VOLUMES]))
    if len(names) > 1:
        found |= {f"volumes of {name}": (kind == VOLUMES) & (source == name) for name in names}
    return found


def restricted(results: Results, rows: NDArray[Any]) -> Results:
    """Results of some rows of the slices alone: a mask of the rows, or their indices in another order."""
    if rows.dtype == bool and rows.all():
        return results

    def pick(values: Sequence[Any]) -> list[Any]:
        return [values[row] for row in indices]

    indices = np.flatnonzero(rows) if rows.dtype == bool else rows

    return {
        **results,
        "slices": {name: pick(column) for name, column in results["slices"].items()},
        "labels": {gop: pick(column) for gop, column in results["labels"].items()},
        "scores": {arm: {s: pick(v) for s, v in seeds.items()} for arm, seeds in results["scores"].items()},
    }


class Analysis:
    """All figures of a results.json: of the volumes, or of another part.

    Args:
        results: its content.
        draws: bootstrap samples.
        part: of ``parts``; default the volumes.
    """

    def __init__(self, results: Results, draws: int = 2000, part: str = VOLUMES) -> None:
        results = restricted(results, parts(results)[part])
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

    def raw(self, arm: str, seeds: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Logits of each seed, or of those named, ``[N]``."""
        scores = self.results["scores"][arm]
        return [np.array(scores[s]) for s in seeds or scores]

    def probabilities(self, arm: str, seeds: Sequence[str] | None = None, fit: Fit = calibrate) -> list[NDArray[Any]]:
        """Probabilities of each seed, calibrated for each fold on the others; of one fold, for each person."""
        label, apart = self.labels[self.gop(arm)], told_apart(self.fold, self.person)
        return [cross_fitted(label, raw, apart, fit) for raw in self.raw(arm, seeds)]

    def interval(self, drawn: NDArray[Any]) -> list[float] | None:
        """95 % interval of draws; None for one person, who can be drawn in one way alone."""
        return interval(drawn) if self.patients > 1 else None

    @functools.cache  # noqa: B019 (one analysis per run)
    def figures(
        self, arm: str, gop: int, seeds: tuple[str, ...]
    ) -> tuple[dict[str, float], dict[str, NDArray[Any]], list[float]]:
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
        spread = self.interval(drawn)
        first, second = (self.probabilities(arm, seeds[:1])[0] for arm in (one, other))
        return {
            "seeds": len(seeds),
            "difference": difference,
            "interval": spread,
            "excludes_0": spread is not None and (spread[0] > 0 or spread[1] < 0),
            "difference_by_fold": self.fold_auc(one, gop, seeds) - self.fold_auc(other, gop, seeds),
            **patients_needed(self.patients, difference, drawn),
            "for_width": people_for_width(self.patients, drawn),
            "within": paired_within(*(self.within(arm, gop, seeds) for arm in (one, other))),
            "slices": disagreement(self.labels[gop], first, second, self.person) if alike else None,
        }

    @functools.cache  # noqa: B019 (one analysis per run)
    def within(self, arm: str, gop: int, seeds: tuple[str, ...]) -> dict[str, float]:
        """Mean over seeds of the AUC among each patient's own slices."""
        tables = [within_patients(self.labels[gop], raw, self.person) for raw in self.raw(arm, seeds)]
        return {p: float(np.mean([t[p] for t in tables])) for p in tables[0]}

    def rollup(self, arm: str) -> dict[str, Any]:
        """Study-level answers of the first seed."""
        return patient_rollup(self.labels[self.gop(arm)], self.probabilities(arm)[0], self.person)

    def tumour_share(self) -> dict[str, NDArray[Any]]:
        """Of each group with tumour, the share of the tumour's volume under ``prob`` and ``binary``; nan without."""
        slices = {k: np.array(self.results["slices"][k]) for k in ("tumour", "prob", "binary")}
        with np.errstate(invalid="ignore", divide="ignore"):
            return {k: np.where(slices["tumour"] > 0, slices[k] / slices["tumour"], np.nan) for k in ("prob", "binary")}

    def histogram(self, name: str, fold: int | None = None) -> NDArray[Any]:
        """Counts [3, 128] of Prob-Masks, of all cases or those of one fold."""
        fold_of = self.results.get("mask_fold") or dict(zip(self.results["slices"]["case"], self.fold))
        rows = self.results["masks"][name].items()
        kept = [h for case, h in rows if fold is None or int(fold_of[case]) == fold]
        return np.asarray(np.sum(kept, axis=0))

    def tempered(self) -> dict[str, Any]:
        """Reliability of the shipped Prob-Mask as it is, and with each fold at the temperature of the others."""
        before, after = mask_figures(self.histogram("shipped")), []
        for fold, temperature in self.results["temperatures"].items():
            after.append((self.histogram("shipped", int(fold)), expit(CENTRES / temperature)))
        p = np.concatenate([p for _, p in after])
        hits = np.concatenate([counts[1:].sum(0) for counts, _ in after])
        total = np.concatenate([counts.sum(0) for counts, _ in after])
        return {AS_IT_IS: before["reliability"], TEMPERATURE: reliability(p, hits, total)}

    def tumour_calibration(self, arm: str) -> dict[str, Any]:
        """Reliability of an arm's tumour probability: as it is, by temperature, and by scale and bias; first seed."""
        label = self.labels[self.gop(arm)]
        return {
            name: reliability(self.probabilities(arm, fit=fit)[0], label.astype(float), np.ones(len(label)), bins=10)
            for name, fit in WAYS.items()
        }


def scale_only(label: NDArray[Any], raw: NDArray[Any]) -> float:
    """1 / temperature that makes sigmoid(scale * raw) fit labels best; 1 for labels of one kind, which fit none."""
    if label.all() or not label.any():
        return 1.0

    def cross_entropy(scale: float) -> float:
        return float(np.logaddexp(0, scale * raw).mean() - scale * (label * raw).mean())

    return float(minimize_scalar(cross_entropy, bounds=(0.05, 10), method="bounded").x)
