"""Liver metrics in millimetres and per slice, which MONAI's metrics leave to the caller's spacing and layout."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric


def _spacing(image: MetaTensor) -> list[float]:
    """Distances between voxels along the array's axes, in mm."""
    return affine_to_spacing(image.affine.squeeze()).tolist()


class SurfaceDiceMm(SurfaceDiceMetric):
    """SurfaceDiceMetric whose tolerance is in mm: the spacing comes from each label's affine."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: MetaTensor, **kwargs: Any) -> torch.Tensor:
        return super()._compute_tensor(y_pred, y, **{**kwargs, "spacing": _spacing(y)})


class HausdorffDistanceMm(HausdorffDistanceMetric):
    """HausdorffDistanceMetric in mm: the spacing comes from each label's affine."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: MetaTensor, **kwargs: Any) -> torch.Tensor:
        return super()._compute_tensor(y_pred, y, **{**kwargs, "spacing": _spacing(y)})


class SliceDice(DiceMetric):
    """Mean over a case's labelled axial slices (last axis, RAS) of each slice's Dice, ``[B, C]``.

    The measure of the original system: small slices at the liver's ends count as much as large ones.
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        axes = (2, 3)
        overlap, size = (y_pred * y).sum(axes), y_pred.sum(axes) + y.sum(axes)
        dice = torch.where(y.sum(axes) > 0, 2 * overlap / size, torch.nan)
        return dice.nanmean(-1)
