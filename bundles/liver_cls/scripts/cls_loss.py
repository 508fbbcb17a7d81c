"""The loss of a lesion map that has to be right for the slice as a whole, too, or of the slice's logit alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import MapTransform
from torch.nn.modules.loss import _Loss

SURELY_NOT = -20.0  # a logit that costs nothing where there is no tumour


class LesionAndSliceLoss(_Loss):
    """A segmentation loss on the lesion map, plus what the group as a whole must say.

    MONAI's losses look at pixels only; the slice's answer is the map's maximum, and one wrong pixel decides it: hence
    BCE of the largest logit against "there is tumour in this group". Where the target gives a density instead of an
    outline, the pixels are free, but their sum is held to the area (as sizes in reports do in arXiv:2510.14803).

    A network that gives one logit per group is held to that BCE alone.

    Args:
        lesion: loss of logits and target ``[B, 1, X, Y]``.
        slice_weight: weight of the slice's BCE.
        area_weight: weight of the error of the logarithm of the area.
    """

    def __init__(self, lesion: _Loss, slice_weight: float = 1.0, area_weight: float = 0.1) -> None:
        super().__init__()
        self.lesion, self.slice_weight, self.area_weight = lesion, slice_weight, area_weight

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, 1, X, Y]`` or ``[B, 1]``, and target ``[B, 2, X, Y]``, tumour (cut at 0.5) and density, to a
        scalar."""
        slices = F.binary_cross_entropy_with_logits(input.flatten(1).amax(1), tumour_in_group(target).to(input))
        if input.ndim == 2:
            return slices
        tumour, density = (target[:, :1] > 0.5).to(input), target[:, 1:]
        free = density > 0
        outlined = self.lesion(input.masked_fill(free, SURELY_NOT), tumour)
        return outlined + self.slice_weight * slices + self.area_weight * self._area(input, density, free)

    def _area(self, input: torch.Tensor, density: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
        """Smooth L1 between the logarithms of predicted and known tumour area, pixels, of groups where it is known."""
        wanted = density.flatten(1).sum(1)
        given = wanted >= 1
        if not given.any():
            return input.new_zeros(())
        said = (input.sigmoid() * free).flatten(1).sum(1)
        return F.smooth_l1_loss(said[given].log1p(), wanted[given].log1p())


def tumour_in_group(target: torch.Tensor) -> torch.Tensor:
    """Targets ``[B, 2, X, Y]``, tumour and density, to ``[B]`` bool: whether there is tumour in the group."""
    return (target[:, 0] > 0.5).flatten(1).any(1) | (target[:, 1] > 0).flatten(1).any(1)


class TumourInGroupd(MapTransform):
    """Turn targets ``[2, X, Y]``, tumour and density, into whether there is tumour in the group, ``[1]`` float."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the answers in the place of the targets."""
        return {**data, **{key: tumour_in_group(data[key][None]).float() for key in self.key_iterator(data)}}
