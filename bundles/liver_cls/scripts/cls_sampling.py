"""Resampling in plane, around the liver's middle."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform


class SamplePlaned(MapTransform):
    """Resample ``[1, X, Y, Z]`` in plane to ``[1, *roi, Z]`` with the liver's ``middle`` at the middle.

    Averages where the CT is finer than ``spacing``, so that one of 0.57 mm and one of 1.5 mm look alike. Cropping,
    padding and resizing take 2 s for 512 x 512 x 107 voxels; two matrix products take 0.4 s, and are differentiable.
    ``affine`` becomes the one of the result.

    Args:
        keys: volumes on one grid, RAS.
        roi: pixels.
        spacing: mm per pixel; None samples the whole slice, however large it is.
        fill: value beyond the volume, one per key.
    """

    def __init__(self, keys: KeysCollection, roi: Sequence[int], spacing: float | None, fill: Sequence[float]) -> None:
        super().__init__(keys)
        self.roi, self.spacing, self.fill = tuple(roi), spacing, tuple(fill)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its volumes sampled and ``affine`` of the result; see FindLiverd for what it must hold."""
        d = dict(data)
        sizes, grid = d["image"].shape[1:3], self._grid(d)
        weights = [sampling_weights(old, mm, *axis) for old, mm, axis in zip(sizes, d["pixdim"], grid)]
        for key, fill in self.key_iterator(d, self.fill):
            d[key] = sample_plane(d[key], *weights, fill)
        return d | {"affine": self._affine(d, grid)}

    def _grid(self, d: Mapping[Hashable, Any]) -> list[tuple[int, float, float]]:
        """Pixels, mm per pixel, and what lies in the middle (mm from the first voxel), of X and Y."""
        if self.spacing is not None:
            return [(new, self.spacing, middle) for new, middle in zip(self.roi, d["middle"])]
        axes = zip(self.roi, d["image"].shape[1:3], d["pixdim"])
        return [(new, old * mm / new, (old - 1) / 2 * mm) for new, old, mm in axes]

    def _affine(self, d: Mapping[Hashable, Any], grid: Sequence[tuple[int, float, float]]) -> torch.Tensor:
        """From the result's voxels to the world (mm); pixel ``(roi - 1) / 2`` lies in the middle."""
        to_volume = torch.eye(4, dtype=torch.float64)
        for i, (mm, (new, spacing, middle)) in enumerate(zip(d["pixdim"], grid)):
            to_volume[i, i], to_volume[i, 3] = spacing / mm, (middle - (new - 1) / 2 * spacing) / mm
        to_volume[2, 3] = d["extent"][0]
        return d["affine"].to(to_volume) @ to_volume


def sampling_weights(old: int, old_mm: float, new: int, new_mm: float, middle: float) -> torch.Tensor:
    """Weights ``[new, old]`` that sample an axis around ``middle`` (mm from its first voxel).

    A triangle as wide as the coarser of both spacings (``old_mm``, ``new_mm``). Rows sum to 1 inside, to less at the
    rim, to 0 beyond.
    """
    centres = (middle + (torch.arange(new) - (new - 1) / 2) * new_mm) / old_mm
    width = max(1.0, new_mm / old_mm)
    reach = int(np.ceil(width)) + 1
    first, last = int(min(0, centres[0] - reach)), int(max(old, centres[-1] + reach + 1))
    weights = (1 - (torch.arange(first, last) - centres[:, None]).abs() / width).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True))[:, -first : old - first]


def sample_plane(volume: torch.Tensor, wx: torch.Tensor, wy: torch.Tensor, fill: float) -> torch.Tensor:
    """``[1, X, Y, Z]`` weighted by ``wx`` [X', X] and ``wy`` [Y', Y]: ``[1, X', Y', Z]``, one slice after the other."""
    wx, wy = wx.to(volume.device), wy.to(volume.device)
    used = [slice(int(w.any(0).nonzero()[0]), int(w.any(0).nonzero()[-1]) + 1) for w in (wx, wy)]
    x, ux, uy = volume[0][used[0], used[1]].float(), wx[:, used[0]], wy[:, used[1]]
    if x.stride(0) == 1:  # as NIfTI is stored; each branch reads the volume in its own order
        out = x.permute(2, 1, 0)
        out = torch.cat([out[..., part] @ rows.T for rows, part in bands(ux)], -1)
        out = torch.cat([rows @ out[:, part] for rows, part in bands(uy)], -2).permute(2, 1, 0)
    else:
        out = torch.cat([rows @ x[:, part] for rows, part in bands(uy)], -2)
        out = torch.cat([torch.tensordot(rows, out[part], dims=1) for rows, part in bands(ux)])
        out = out.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    if fill:
        out = out + (fill * (1 - wx.sum(1)[:, None] * wy.sum(1)))[..., None]
    return out[None]


def bands(weights: torch.Tensor, count: int = 4) -> Iterator[tuple[torch.Tensor, slice]]:
    """Some rows of ``weights`` [new, old] at a time, and the part of the old axis that they use: half the work."""
    for rows in weights.chunk(count):
        reached = rows.any(0).nonzero().flatten().tolist() or [0]
        part = slice(reached[0], reached[-1] + 1)
        yield rows[:, part], part
