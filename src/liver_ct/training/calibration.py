"""Logits made probabilities that mean what they say, and the figures of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit


def calibrate(label: NDArray[Any], raw: NDArray[Any]) -> tuple[float, float]:
    """Scale and bias that make logits ``raw`` [N] fit labels best (logistic regression, Platt 1999).

    Groups are drawn evenly in training, so that the network's own probabilities are too high. Labels of one kind fit no
    scale: they leave the logits as they are, 1 and 0.
    """
    if label.all() or not label.any():
        return 1.0, 0.0

    def cross_entropy(scale_and_bias: NDArray[Any]) -> float:
        logit = scale_and_bias[0] * raw + scale_and_bias[1]
        return float(np.logaddexp(0, logit).mean() - (label * logit).mean())

    scale, bias = minimize(cross_entropy, (1.0, 0.0)).x
    return float(scale), float(bias)


def cross_fitted(
    label: NDArray[Any],
    raw: NDArray[Any],
    fold: NDArray[Any],
    fit: Callable[[NDArray[Any], NDArray[Any]], tuple[float, float]] = calibrate,
) -> NDArray[Any]:
    """Probabilities ``[N]`` of logits, with scale and bias of each fold fitted on the other folds; those of a fold that
    is alone are left as they are."""
    out = np.empty_like(raw)
    for f in np.unique(fold):
        others = fold != f
        scale, bias = fit(label[others], raw[others]) if others.any() else (1.0, 0.0)
        out[fold == f] = expit(scale * raw[fold == f] + bias)
    return out


def told_apart(fold: NDArray[Any], person: NDArray[Any]) -> NDArray[Any]:
    """What calibration is cross-fitted by, ``[N]``: folds, or people where one network judged them all."""
    return fold if len(np.unique(fold)) > 1 else person


def metrics(label: NDArray[Any], score: NDArray[Any], probability: NDArray[Any] | None = None) -> dict[str, float]:
    """AUC of scores (nan for slices of one class), and accuracy, TPR and FPR at 0.5 of probabilities, all [N]."""
    both = 0 < label.sum() < len(label)
    auc = roc_auc(label, score) if both else float("nan")
    found, tumour = (score if probability is None else probability) >= 0.5, label > 0
    return {
        "auc": auc,
        "accuracy": float((found == tumour).mean()),
        "tpr": float(found[tumour].mean()) if tumour.any() else float("nan"),
        "fpr": float(found[~tumour].mean()) if not tumour.all() else float("nan"),
    }


def roc_auc(label: NDArray[Any], score: NDArray[Any]) -> float:
    """AUC of scores [N] of both classes, by MONAI."""
    auc = compute_roc_auc(torch.as_tensor(score)[:, None], torch.as_tensor(label)[:, None])
    return float(np.asarray(auc))
