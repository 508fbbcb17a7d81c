"""What training CTs hold too little of, drawn into them: other liver levels, lesions, masses beside the liver."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform


class RandLiverLeveld(RandomizableTransform, MapTransform):
    """Shift the labelled tissue of ``[Z, X, Y]`` against its surroundings, as fat or another contrast phase does.

    MONAI's intensity transforms move the whole image alike; a fatty liver is dark beside an unchanged spleen.

    Args:
        keys: images to change.
        label_key: tissue where it is above 0.
        prob: probability of a shift.
        shift: largest shift, up or down, in units of the image.
    """

    def __init__(self, keys: KeysCollection, label_key: str, prob: float = 0.4, shift: float = 0.3) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.label_key, self.shift = label_key, shift

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        self.randomize(None)
        change = self.R.uniform(-self.shift, self.shift)
        if self._do_transform:
            tissue = d[self.label_key] > 0
            for key in self.key_iterator(d):
                d[key] = d[key] + change * tissue
        return d


class RandLesiond(RandomizableTransform, MapTransform):
    """Draw a lesion of random shape into the labelled tissue of ``[Z, X, Y]``, and leave the label as it is.

    Few training livers hold large tumours, and a network that has seen none cuts them away. MONAI's RandCoarseDropout
    blanks boxes anywhere; this shades irregular blobs of 5 to 60 % of a liver's cross-section, as tumours do. Drawn
    alike in all slices of the stack.

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
        d = dict(data)
        tissue = d[self.label_key]
        self.randomize(tissue)
        if not self._do_transform or not tissue.any():
            return d
        field = F.interpolate(self.noise, size=tissue.shape[1:], mode="bicubic")[0, 0]
        level = torch.quantile(field[tissue.amax(0) > 0], 1 - self.share)
        blob = torch.sigmoid((field - level) / self.edge)
        for key in self.key_iterator(d):
            d[key] = d[key] + self.change * blob * (tissue > 0)
        return d


class RandMassd(RandomizableTransform, MapTransform):
    """Draw a cyst or a mass beside the labelled tissue of ``[Z, X, Y]``; the label stays, the mass is none of it.

    Few training cases have one, and a large cyst behind the liver was taken for liver. An ellipsoid with an uneven
    rim, dark as fluid or nearly as bright as the tissue, over everything but the tissue. ``offsets`` [Z] says how far
    the slices lie from the middle one.

    Args:
        keys: images to draw in.
        label_key: tissue where it is above 0.
        prob: probability of a mass.
        radius: smallest and largest half axis in plane, pixels.
        depth: smallest and largest half axis along Z, slices.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        prob: float = 0.2,
        radius: Sequence[float] = (6, 36),
        depth: Sequence[float] = (3, 12),
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.label_key, self.radius, self.depth = label_key, tuple(radius), tuple(depth)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        self.randomize(None)
        tissue = d[self.label_key] > 0
        middle = tissue[len(tissue) // 2]
        if not self._do_transform or not middle.any() or middle.all():  # a small patch may hold nothing but liver
            return d
        where = self._ellipsoid(middle, d["offsets"]) * ~tissue
        as_fluid, level, offset = self.R.uniform() < 0.6, self.R.uniform(0.0, 0.3), self.R.uniform(-0.3, 0.05)
        for key in self.key_iterator(d):
            image = d[key]
            value = level if as_fluid else float(image[tissue].median()) + offset
            grain = image - F.avg_pool2d(image[None], 5, stride=1, padding=2)[0]
            d[key] = image + where * (value + grain - image)
        return d

    def _ellipsoid(self, tissue: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Soft-edged ellipsoid 0..1 ``[Z, X, Y]`` around a point just outside the ``tissue`` [X, Y] of the middle."""
        plane = tissue.float()[None]
        near = (F.max_pool2d(plane, 13, stride=1, padding=6) > plane)[0].nonzero()
        u, v = near[self.R.randint(len(near))].tolist()
        a, b = self.R.uniform(*self.radius, size=2)
        c, z0 = self.R.uniform(*self.depth), self.R.uniform(-3, 3)
        x, y = (torch.arange(float(n)) for n in tissue.shape)
        squared = ((offsets - z0) / c)[:, None, None] ** 2 + ((x - u) / a)[:, None] ** 2 + ((y - v) / b) ** 2
        coarse = torch.as_tensor(self.R.normal(size=(1, 1, 8, 8)), dtype=torch.float32)
        rim = 0.15 * F.interpolate(coarse, size=tissue.shape, mode="bicubic")[0]
        return torch.sigmoid((1 - squared.sqrt() + rim) * min(a, b) / 0.7)
