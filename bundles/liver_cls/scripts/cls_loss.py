"""The loss of a lesion map that has to be right for the slice as a whole, too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss


class LesionAndSliceLoss(_Loss):
    """A segmentation loss on the lesion map, plus BCE of its largest logit against "there is tumour in this group".

    MONAI's losses look at pixels only; the slice's answer is the map's maximum, and one wrong pixel decides it.

    Args:
        lesion: loss of logits and target ``[B, 1, X, Y]``.
        slice_weight: weight of the slice's BCE.
    """

    def __init__(self, lesion: _Loss, slice_weight: float = 1.0) -> None:
        super().__init__()
        self.lesion, self.slice_weight = lesion, slice_weight

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, 1, X, Y]`` and tumour ``[B, 1, X, Y]`` within 0 and 1, cut at 0.5, to a scalar."""
        tumour = (target > 0.5).to(input)
        slices = F.binary_cross_entropy_with_logits(input.flatten(1).amax(1), tumour.flatten(1).amax(1))
        return self.lesion(input, tumour) + self.slice_weight * slices
