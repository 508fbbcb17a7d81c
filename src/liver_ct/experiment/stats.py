"""Statistics of the experiment: figures of an arm, intervals by patient, paired differences, disagreements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from liver_ct.training.intervals import interval

FIGURES = ("auc", "accuracy", "tpr", "fpr", "sensitivity_at_90")
SPECIFICITY = 0.9
WIDTH = 0.03  # of an interval of a difference in AUC that answers the question


def figures(label: NDArray[Any], score: NDArray[Any], probability: NDArray[Any]) -> dict[str, float]:
    """FIGURES of one arm: AUC and sensitivity at 90 % specificity of scores, the rest of probabilities at 0.5.

    Args:
        label: 0 or 1, ``[N]``.
        score: any scale, ``[N]``.
        probability: calibrated, ``[N]``.
    """
    tumour, found = label > 0, probability >= 0.5
    fpr, tpr, _ = roc_curve(tumour, score, drop_intermediate=False)
    return {
        "auc": float(roc_auc_score(tumour, score)),
        "accuracy": float((found == tumour).mean()),
        "tpr": float(found[tumour].mean()),
        "fpr": float(found[~tumour].mean()),
        "sensitivity_at_90": float(tpr[fpr <= 1 - SPECIFICITY + 1e-9].max()),
    }


def drawn_figures(
    label: NDArray[Any], score: NDArray[Any], probability: NDArray[Any], weights: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """``figures`` for every row of ``weights`` [D, N] at once, ``[D]`` each; nan where a draw lacks a class.

    scikit-learn takes one set of weights at a time, which makes 2000 draws of 30 runs a matter of many minutes.
    """
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])  # equal scores are one step of the curve
    tumour, found = (label > 0).astype(np.float64), (probability >= 0.5).astype(np.float64)
    out: dict[str, list[NDArray[Any]]] = {name: [] for name in FIGURES}
    with np.errstate(divide="ignore", invalid="ignore"):
        for w in np.array_split(weights.astype(np.float64), max(1, weights.size // 500_000)):
            positives, total = w @ tumour, w.sum(1)
            negatives = total - positives
            hits = np.add.reduceat((w * tumour)[:, order], starts, axis=1).cumsum(1) / positives[:, None]
            alarms = np.add.reduceat((w * (1 - tumour))[:, order], starts, axis=1).cumsum(1) / negatives[:, None]
            tpr, fpr = (np.pad(c, ((0, 0), (1, 0))) for c in (hits, alarms))
            out["auc"].append(np.trapezoid(tpr, fpr, axis=1))
            out["sensitivity_at_90"].append(np.where(fpr <= 1 - SPECIFICITY + 1e-9, tpr, 0).max(1))
            true, false = w @ (found * tumour) / positives, w @ (found * (1 - tumour)) / negatives
            out["tpr"].append(true)
            out["fpr"].append(false)
            out["accuracy"].append((true * positives + (1 - false) * negatives) / total)
    drawn = {name: np.concatenate(parts) for name, parts in out.items()}
    drawn["sensitivity_at_90"][np.isnan(drawn["auc"])] = np.nan
    return drawn


def patients_needed(patients: int, difference: float, drawn: NDArray[Any]) -> dict[str, int | None]:
    """Of how many patient groups like these a 95 % interval excludes 0: half the time, and in 80 of 100 experiments.

    The bootstrap's standard error falls with the square root of the number of patients, and the difference is taken
    for the true one; None where it is 0, or there is no error to go by.
    """
    error = float(np.nanstd(drawn)) if patients > 1 and not np.isnan(drawn).all() else float("nan")
    if difference == 0 or np.isnan(error) or np.isnan(difference):
        return {"half_the_time": None, "in_80_of_100": None}

    def needed(z: float) -> int:
        return int(np.ceil(patients * (z * error / difference) ** 2))

    two_sided = stats.norm.ppf(0.975)
    return {"half_the_time": needed(two_sided), "in_80_of_100": needed(two_sided + stats.norm.ppf(0.8))}


def people_for_width(people: int, drawn: NDArray[Any], width: float = WIDTH) -> int | None:
    """Of how many people like these a 95 % interval is as narrow as ``width``, whatever the difference.

    Its width falls with the square root of their number; None where there is none to go by.
    """
    spread = interval(drawn) if people > 1 else None
    if spread is None:
        return None
    low, high = spread
    return int(np.ceil(people * ((high - low) / width) ** 2))


def disagreement(label: NDArray[Any], one: NDArray[Any], other: NDArray[Any], person: NDArray[Any]) -> dict[str, Any]:
    """Slices on which two arms decide differently at 0.5, and which of them is right.

    Args:
        label: 0 or 1, ``[N]``.
        one: calibrated probabilities of one arm ``[N]``.
        other: of the other ``[N]``.
        person: whose each slice is ``[N]``.

    Returns:
        Numbers of slices: ``one_right`` and ``other_right`` where only that arm is right, in all and by truth; of
        patients in whom either is right more often; and ``p``, McNemar's exact test, which takes slices for independent
        and so is too sure.
    """
    tumour = label > 0
    first, second = (one >= 0.5) == tumour, (other >= 0.5) == tumour
    only_one, only_other = first & ~second, second & ~first
    per_patient = [int(only_one[person == p].sum() - only_other[person == p].sum()) for p in np.unique(person)]
    n = int(only_one.sum() + only_other.sum())
    return {
        "slices": len(label),
        "both_right": int((first & second).sum()),
        "both_wrong": int((~first & ~second).sum()),
        "one_right": {"all": int(only_one.sum()), "tumour": int(only_one[tumour].sum())},
        "other_right": {"all": int(only_other.sum()), "tumour": int(only_other[tumour].sum())},
        "patients_one_better": sum(d > 0 for d in per_patient),
        "patients_other_better": sum(d < 0 for d in per_patient),
        "p": float(stats.binomtest(int(only_one.sum()), n).pvalue) if n else 1.0,
    }


def within_patients(label: NDArray[Any], score: NDArray[Any], person: NDArray[Any]) -> dict[str, float]:
    """AUC among each patient's own slices, of patients who show both kinds."""
    rows = {p: person == p for p in np.unique(person)}
    return {str(p): float(roc_auc_score(label[r], score[r])) for p, r in rows.items() if 0 < label[r].sum() < r.sum()}


def patient_rollup(label: NDArray[Any], probability: NDArray[Any], person: NDArray[Any]) -> dict[str, Any]:
    """The study-level answer, the largest probability of a patient's slices, against "there is tumour somewhere"."""
    people = np.unique(person)
    truth = np.array([label[person == p].max() for p in people]) > 0
    highest = np.array([probability[person == p].max() for p in people])
    free = int((~truth).sum())
    return {
        "patients": len(people),
        "tumour_free": free,
        "found": int((highest[truth] >= 0.5).sum()),
        "false_alarms": int((highest[~truth] >= 0.5).sum()),
        "auc": float(roc_auc_score(truth, highest)) if 0 < free < len(people) else None,
    }


def paired_within(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """Wilcoxon's signed-rank test of two arms' ``within_patients``."""
    people = sorted(one.keys() & other.keys())
    d = np.array([one[p] - other[p] for p in people])
    return {
        "patients": len(d),
        "one_better": int((d > 0).sum()),
        "median": float(np.median(d)) if len(d) else float("nan"),
        "p": float(stats.wilcoxon(d).pvalue) if np.any(d) else 1.0,
    }
