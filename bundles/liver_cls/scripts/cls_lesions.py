"""Lesions drawn into the training groups."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import RandomizableTransform, Transform


class RandTumourd(RandomizableTransform, Transform):
    """Draw lesions into the liver of a group, and into its label: one to four ovals, or irregular blobs.

    The training cases are few, and so are the tumours that tell how a tumour looks. MONAI's RandCoarseDropout blanks
    boxes anywhere; this shades ovals of 1.5 to 14 pixels' radius, or blobs of 0.4 to 30 % of the liver's cross-section.

    ``image`` [gop, X, Y] float, ``liver`` [gop, X, Y], ``label`` [2, X, Y], whose first channel is where tumour is.
    Groups whose tumour has no outline are left alone.

    Args:
        prob: probability of lesions.
        contrast: smallest and largest change of the normalised image; downwards in nine of ten lesions.
        min_pixels: groups that show less liver are left alone.
    """

    def __init__(self, prob: float, contrast: Sequence[float] = (0.5, 2.2), min_pixels: int = 200) -> None:
        RandomizableTransform.__init__(self, prob)
        self.contrast, self.min_pixels = tuple(contrast), min_pixels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with lesions in ``image`` and ``label``, or as it is."""
        self.randomize(None)
        liver = data["liver"][len(data["liver"]) // 2] > 0
        unknown = (data["label"][1] > 0).any()
        if not self._do_transform or unknown or liver.sum() < self.min_pixels:
            return dict(data)
        draw = self._ovals if self.R.uniform() < 0.6 else self._blobs
        lesion = draw(liver) * liver
        size = self.R.uniform(*self.contrast)
        change = size if self.R.uniform() < 0.1 else -size
        tumour = torch.maximum(data["label"][0], (lesion > 0.5).to(data["label"]))
        label = torch.stack([tumour, data["label"][1]])
        return {**data, "image": data["image"] + change * lesion, "label": label}

    def _ovals(self, liver: torch.Tensor) -> torch.Tensor:
        """Soft-edged ovals centred in ``liver`` [X, Y], 0..1."""
        x, y = torch.meshgrid(*(torch.arange(float(n)) for n in liver.shape), indexing="ij")
        inside, lesion = liver.nonzero(), torch.zeros(liver.shape)
        for _ in range(self.R.randint(1, 5)):
            u, v = inside[self.R.randint(len(inside))]
            radius = math.exp(self.R.uniform(math.log(1.5), math.log(14)))
            aspect = self.R.uniform(0.7, 1.4)
            turn = self.R.uniform(0, math.pi)
            cos, sin = math.cos(turn), math.sin(turn)
            along, across = (x - u) * cos + (y - v) * sin, (y - v) * cos - (x - u) * sin
            edge = 0.3 + 0.15 * radius * self.R.uniform()
            lesion = torch.maximum(
                lesion, torch.sigmoid((radius - torch.hypot(along / aspect, across * aspect)) / edge)
            )
        return lesion

    def _blobs(self, liver: torch.Tensor) -> torch.Tensor:
        """The highest parts of smooth noise within ``liver`` [X, Y], 0..1."""
        coarse = self.R.randint(4, 20)
        noise = torch.as_tensor(self.R.normal(size=(1, 1, coarse, coarse)), dtype=torch.float32)
        field = F.interpolate(noise, size=liver.shape, mode="bicubic")[0, 0]
        level = torch.quantile(field[liver], 1 - math.exp(self.R.uniform(math.log(0.004), math.log(0.3))))
        return torch.sigmoid((field - level) / self.R.uniform(0.05, 0.3))
