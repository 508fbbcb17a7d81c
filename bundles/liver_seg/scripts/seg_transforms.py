"""Resampling between a CT's grid and the network's working grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform


def resize_volume(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize ``[C, X, Y, Z]`` to ``[C, *size]``, averaging where an axis shrinks, linear where it grows.

    Differentiable; values stay within the input's range.
    """
    shrunk = [min(old, new) for old, new in zip(volume.shape[1:], size)]
    out = F.adaptive_avg_pool3d(volume, shrunk) if shrunk != list(volume.shape[1:]) else volume
    if shrunk != list(size):
        out = F.interpolate(out[None], size=tuple(size), mode="trilinear", align_corners=False)[0]
    return out


class ResampleToSpacingd(MapTransform, InvertibleTransform):
    """Resample ``[C, X, Y, Z]`` MetaTensors to about ``pixdim`` mm, keeping the field of view; invertible.

    MONAI's Spacing does not low-pass before shrinking, so a 0.6 mm CT reaches 2 mm with all its noise (aliased),
    and its inverse needs 7 GB for 512 x 512 x 450; this averages when shrinking and inverts by one interpolation.

    Args:
        keys: items to resample.
        pixdim: target spacing in mm, one per axis; the spacing reached divides the field of view evenly.
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.pixdim = tuple(float(p) for p in pixdim)

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._forward(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            info = self.pop_transform(d[key])
            out = resize_volume(d[key].as_tensor().float(), info["orig_size"])
            d[key] = MetaTensor(out, meta=d[key].meta, applied_operations=d[key].applied_operations)
            d[key].affine = info["extra_info"]["affine"]
        return d

    def _forward(self, image: MetaTensor) -> MetaTensor:
        old_size, old_affine = image.shape[1:], image.affine.clone()
        spacing = affine_to_spacing(old_affine).tolist()
        size = [max(1, round(n * s / p)) for n, s, p in zip(old_size, spacing, self.pixdim)]
        out = MetaTensor(
            resize_volume(image.as_tensor(), size), meta=image.meta, applied_operations=image.applied_operations
        )
        out.affine = old_affine @ _grid_change(old_size, size).to(old_affine)
        self.push_transform(out, orig_size=tuple(old_size), extra_info={"affine": old_affine})
        return out


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


def _grid_change(old_size: Sequence[int], new_size: Sequence[int]) -> torch.Tensor:
    """4 x 4 matrix from new voxel indices to old ones when both grids span the same field of view."""
    factors = torch.tensor([old / new for old, new in zip(old_size, new_size)], dtype=torch.float64)
    matrix = torch.diag(torch.cat([factors, torch.ones(1, dtype=torch.float64)]))
    matrix[:3, 3] = (factors - 1) / 2
    return matrix
