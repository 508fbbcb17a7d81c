"""The CT's values: from HU to the network's units, and shading added in training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform, Transform
from scripts.cls_terms import Normalise


class NormaliseLiverd(Transform):
    """Bring the CT (HU) to units of ``scale`` HU above the liver's own level.

    Contrast phase and scanner move a liver by 50 HU, a tumour differs from its liver by 20 to 60. With the liver at 0,
    multiplying by the mask puts everything outside at the liver's level, and a tumour stands out as a dark blob.

    Args:
        mode: ``liver`` (median HU under the mask, weighted by it) or ``fixed`` (``level``).
        level: HU taken for the liver when fixed or when the mask is empty.
        scale: HU per unit.

    Raises:
        ValueError: another mode.
    """

    def __init__(self, mode: str = "liver", level: float = 100.0, scale: float = 30.0) -> None:
        self.mode, self.level, self.scale = Normalise(mode), level, scale

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``image`` [1, X, Y, Z] in those units; it is judged with ``mask`` of the same shape."""
        image = data["image"].as_tensor() if isinstance(data["image"], MetaTensor) else data["image"]
        level = self.level if self.mode is Normalise.FIXED else liver_level(image, data["mask"], self.level)
        return {**data, "image": (image - level) / self.scale}


def liver_level(image: torch.Tensor, mask: torch.Tensor, default: float) -> float:
    """Median HU of ``image``, weighted by ``mask``, both [1, X, Y, Z], to 1 HU; ``default`` without a mask.

    A median, since a large tumour or a leak of the mask would pull a mean; a constant to the gradient.
    """
    weight = mask.detach()[:, ::2, ::2].flatten()
    if weight.sum() < 1:
        return default
    hu = image.detach()[:, ::2, ::2].flatten().round().long()
    lowest = int(hu.min())
    share = torch.bincount(hu - lowest, weights=weight.double()).cumsum(0)
    return float(lowest + int(torch.searchsorted(share, share[-1] / 2)))


class RandShadingd(RandomizableTransform, Transform):
    """Add smooth shading to ``image`` [gop, X, Y], as arms beside the body and beam hardening leave it.

    MONAI's RandBiasField multiplies, which leaves a liver that lies at 0 as it is; this adds.

    Args:
        prob: probability of shading.
        strength: largest standard deviation of the coarse field, in units of the normalised image.
    """

    def __init__(self, prob: float, strength: float = 0.7) -> None:
        RandomizableTransform.__init__(self, prob)
        self.strength = strength

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``image`` shaded, every slice alike, or as it is."""
        self.randomize(None)
        if not self._do_transform:
            return dict(data)
        coarse = self.R.normal(scale=self.R.uniform(0, self.strength), size=(1, 1, *self.R.randint(2, 5, size=2)))
        field = torch.as_tensor(coarse, dtype=torch.float32)
        size = data["image"].shape[1:]
        return {**data, "image": data["image"] + F.interpolate(field, size=size, mode="bicubic", align_corners=True)[0]}
