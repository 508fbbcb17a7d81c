"""Lesions drawn into the training CTs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform


class RandLesiond(RandomizableTransform, MapTransform):
    """Draw a lesion of random shape into the labelled tissue of ``[1, X, Y, Z]``, and leave the label as it is.

    Few training livers hold large tumours, and a network that has seen none cuts them away. MONAI's RandCoarseDropout
    blanks boxes anywhere; this shades irregular blobs of 5 to 60 % of a liver's cross-section, as tumours do. Drawn
    alike in all Z slices of a thin slab.

    Args:
        keys: images to draw in.
        label_key: tissue where it is above 0.
        prob: probability of a lesion.
        contrast: smallest and largest change of intensity; downwards in 85 of 100 lesions.
    """

    def __init__(
        self, keys: KeysCollection, label_key: str, prob: float = 0.5, contrast: Sequence[float] = (0.06, 0.45)
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.label_key, self.contrast = label_key, tuple(contrast)

    def randomize(self, data: torch.Tensor) -> None:
        """Draw the coarse noise whose highest parts become the lesion, its share of the tissue, edge and contrast."""
        super().randomize(None)
        coarse = self.R.randint(2, 12)
        self.noise = torch.as_tensor(self.R.normal(size=(1, 1, coarse, coarse)), dtype=torch.float32)
        self.share, self.edge = self.R.uniform(0.05, 0.6), self.R.uniform(0.03, 0.25)
        self.change = self.R.uniform(*self.contrast) * (1 if self.R.uniform() < 0.15 else -1)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Images with a lesion or without; the label as it is."""
        d = dict(data)
        tissue = (d[self.label_key][0] > 0).float()
        self.randomize(tissue)
        if not self._do_transform or not tissue.any():
            return d
        field = F.interpolate(self.noise, size=tissue.shape[:2], mode="bicubic")[0, 0]
        level = torch.quantile(field[tissue.amax(-1) > 0], 1 - self.share)
        blob = torch.sigmoid((field - level) / self.edge)[..., None]
        soft = F.avg_pool2d(tissue.permute(2, 0, 1)[None], 3, stride=1, padding=1)[0].permute(1, 2, 0)
        for key in self.key_iterator(d):
            d[key] = d[key] + self.change * blob * soft
        return d
