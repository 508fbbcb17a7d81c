"""Liver metrics in millimetres and per slice, which MONAI's metrics leave to the caller's spacing and layout."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric

logger = logging.getLogger(__name__)


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


class NoteEmptyLabels:
    """Handler that says in the log which cases count in no metric since their label shows no liver.

    MONAI leaves them out without a word; the mean of none is 0.
    """

    def attach(self, engine: Engine) -> None:
        """Look at every case."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note)

    def note(self, engine: Engine) -> None:
        """Name the batch's cases without liver."""
        for item, out in zip(engine.state.batch, engine.state.output):
            if not out["label"].any():
                path = item["image"].meta["filename_or_obj"]
                logger.warning(f"{path}: its label shows no liver. It counts in no metric.")
