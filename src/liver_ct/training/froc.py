"""How many lesions are found, by size, and how many are false: free-response ROC (FROC) of lesion lists, by person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from monai.metrics import compute_froc_curve_data
from numpy.typing import NDArray

from liver_ct.lits.cases import TUMOUR
from liver_ct.outputs.lesions import Lesions, find_lesions
from liver_ct.training.intervals import patient_intervals

SIZES = {"under_1_cm": (0.0, 10.0), "1_to_2_cm": (10.0, 20.0), "over_2_cm": (20.0, np.inf)}  # longest axial diameter
SAME = 0.1  # intersection over union from which two lesions are one, as nnDetection counts in CT
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # false lesions per person


class Judged(NamedTuple):
    """One study's list against its outlines.

    Attributes:
        person: whose study it is.
        diameters: of the outlined lesions, mm, ``[L]``.
        found: probability of the most probable listed lesion that is the outlined one, ``[L]``; 0 where none is.
        listed_diameters: of the listed lesion that fits best, mm, ``[L]``; nan where none is.
        false: probabilities of the listed lesions that are no outlined one, ``[F]``.
    """

    person: str
    diameters: NDArray[Any]
    found: NDArray[Any]
    listed_diameters: NDArray[Any]
    false: NDArray[Any]


def judge(
    prob: NDArray[Any], label: NDArray[Any], affine: NDArray[Any], person: str, outline: float, smallest_ml: float
) -> Judged:
    """Hold every part of a lesion map against the outlines, whatever its probability.

    Args:
        prob: lesion map ``[X, Y, Z]``, uint8, 255 is 1.
        label: outlines ``[X, Y, Z]`` as in LiTS, tumour 2; each connected part of it is a lesion.
        affine: 4 x 4, voxel to world mm (RAS).
        person: whose study it is.
        outline: of `find_lesions`.
        smallest_ml: likewise.
    """
    liver, tumour = (label > 0).astype(np.uint8), np.where(label == TUMOUR, 255, 0).astype(np.uint8)
    listed = find_lesions(prob, label, liver, affine, threshold=outline, outline=outline, smallest_ml=smallest_ml)
    outlined = find_lesions(tumour, label, liver, affine)
    overlap = overlaps(listed, outlined)
    same = np.asarray(overlap >= SAME)
    probability = np.array([lesion.probability for lesion in listed.found])
    diameters = np.array([lesion.diameter_mm for lesion in listed.found])
    best = np.array([diameters[column.argmax()] if max(column, default=0) >= SAME else np.nan for column in overlap.T])
    found = (same * probability[:, None]).max(0, initial=0)
    lesions = np.array([lesion.diameter_mm for lesion in outlined.found])
    return Judged(person, lesions, found, best, probability[~same.any(1)])


def overlaps(listed: Lesions, outlined: Lesions) -> NDArray[Any]:
    """Intersection over union of each listed with each outlined lesion, ``[listed, outlined]``."""
    rows, columns = len(listed.found) + 1, len(outlined.found) + 1
    pairs = listed.labels.ravel(order="K").astype(np.int64) * columns + outlined.labels.ravel(order="K")
    shared = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)
    union = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
    share: NDArray[Any] = shared / np.maximum(union, 1)
    return share[1:, 1:]


def figures(studies: Sequence[Judged], threshold: float) -> dict[str, Any]:
    """What lists find, at a threshold of a lesion's probability and at one false lesion per person.

    ``at_one_false_per_person`` takes the lowest threshold that lists no more, found on the same people;
    ``left_out`` takes each person's from the others, and is None where there are none. Intervals (95 %) draw people,
    with all their studies.
    """
    people, one = sorted({study.person for study in studies}), threshold_at_one(studies)
    others = {p: [study for study in studies if study.person != p] for p in people}
    left_out = {p: threshold_at_one(rest) for p, rest in others.items() if rest}
    errors = [(s.listed_diameters - s.diameters)[s.found >= threshold] for s in studies]
    return {
        "people": len(people),
        "studies": len(studies),
        "lesions": {size: int(sum(of_size(study, size).sum() for study in studies)) for size in SIZES},
        "same_from_iou": SAME,
        "at_threshold": at(studies, lambda _: threshold),
        "at_one_false_per_person": at(studies, lambda _: one),
        "left_out": at(studies, lambda study: left_out[study.person]) if left_out else None,
        "froc": {"false_per_person": list(RATES), **{size: froc(studies, size, len(people)) for size in SIZES}},
        "diameter_error_mm": dict(zip(("quarter", "median", "three_quarters"), quartiles(np.concatenate(errors)))),
    }


def at(studies: Sequence[Judged], threshold_of: Callable[[Judged], float]) -> dict[str, Any]:
    """Thresholds, figures and their intervals, where each study is listed from ``threshold_of(study)`` on."""
    thresholds = [threshold_of(study) for study in studies]
    counts = np.array([counted(study, threshold) for study, threshold in zip(studies, thresholds)])
    person, names = np.array([study.person for study in studies]), list(SIZES)
    totals = counts.sum(0)
    there = [place for place in range(len(SIZES)) if totals[2 + 2 * place]]  # sizes of which there is a lesion

    def rates(rows: NDArray[Any]) -> dict[str, float]:
        false, *sizes = counts[rows].sum(0).tolist()
        drawn = sum(1 / (person == who).sum() for who in person[rows])  # a person drawn twice counts twice
        shares = {names[place]: share_of(*sizes[2 * place : 2 * place + 2]) for place in there}
        return {"false_per_person": false / drawn, **shares}

    every = {name: round(float(value), 4) for name, value in rates(np.arange(len(studies))).items()}
    found = dict(zip(SIZES, totals[1::2].tolist()))
    spread = patient_intervals(person, rates)
    return {
        "thresholds": [round(min(thresholds), 4), round(max(thresholds), 4)],
        "false": int(counts[:, 0].sum()),
        "found": found,
        **every,
        "interval_95": spread,
    }


def share_of(found: int, lesions: int) -> float:
    """Of lesions, nan where a draw holds none."""
    return found / lesions if lesions else float("nan")


def counted(study: Judged, threshold: float) -> list[int]:
    """False lesions from a threshold on, and of each size how many are found and how many there are."""
    numbers = [int((study.false >= threshold).sum())]
    for size in SIZES:
        mine = of_size(study, size)
        numbers += [int((study.found[mine] >= threshold).sum()), int(mine.sum())]
    return numbers


def of_size(study: Judged, size: str) -> NDArray[Any]:
    """Which of the outlined lesions are of a size, ``[L]`` bool."""
    low, high = SIZES[size]
    mine: NDArray[Any] = (study.diameters >= low) & (study.diameters < high)
    return mine


def threshold_at_one(studies: Sequence[Judged]) -> float:
    """The lowest probability from which on there is no more than one false lesion per person."""
    allowed = len({study.person for study in studies})
    false = np.sort(np.concatenate([study.false for study in studies]))[::-1]
    every = np.unique(np.concatenate([*(study.false for study in studies), *(study.found for study in studies)]))
    above = every[every > (false[allowed] if allowed < len(false) else 0)]
    return float(above[0]) if len(above) else 1.0


def froc(studies: Sequence[Judged], size: str, people: int) -> list[float]:
    """Sensitivity for lesions of a size at each of RATES, by MONAI's FROC curve; its steps are not interpolated."""
    found = np.concatenate([study.found[of_size(study, size)] for study in studies])
    false = np.concatenate([study.false for study in studies])
    # the curve begins above the lowest probability: a 0 that is no lesion makes it begin with all of them
    rate, sensitivity = compute_froc_curve_data(false, np.append(found, 0.0), max(1, len(found)), people)
    return [round(float(sensitivity[rate <= limit].max(initial=0)), 4) for limit in RATES]


def quartiles(values: NDArray[Any]) -> list[float | None]:
    """Of the values, to a tenth; None where there is none."""
    return [round(float(v), 1) for v in np.percentile(values, [25, 50, 75])] if len(values) else [None] * 3
