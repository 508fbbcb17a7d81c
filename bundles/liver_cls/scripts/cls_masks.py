"""The mask by which the CT is judged, and how it joins the CT."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.transforms.utils import distance_transform_edt
from scripts.cls_boxes import bounding_box
from scripts.cls_terms import Combine, MaskSource


class SelectMaskd(Transform):
    """Add ``mask`` [1, X, Y, Z], 0..1, by which the CT is judged.

    Args:
        source: ``prob`` (``item["prob"]`` as it is), ``binary`` (prob > 0.5), ``dilated`` (within ``dilate_mm`` of prob
            > 0.5), ``manual`` (``item["label"]`` > 0) or ``none`` (ones).
        dilate_mm: reach of ``dilated``.

    Raises:
        ValueError: another source.
    """

    def __init__(self, source: str, dilate_mm: float = 5.0) -> None:
        self.source, self.dilate_mm = MaskSource(source), dilate_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``mask``, float32, on the grid of what it is made of."""
        return {**data, "mask": self._mask(data)}

    def _mask(self, data: Mapping[Hashable, Any]) -> torch.Tensor:
        if self.source is MaskSource.PROB:
            return data["prob"].float()
        if self.source is MaskSource.BINARY:
            return (data["prob"] > 0.5).float()
        if self.source is MaskSource.DILATED:
            return dilate(data["prob"] > 0.5, self.dilate_mm)
        if self.source is MaskSource.MANUAL:
            return (data["label"] > 0).float()
        return torch.ones_like(data["image"], dtype=torch.float32)


def dilate(mask: MetaTensor, reach: float) -> MetaTensor:
    """Float mask of all voxels within ``reach`` mm of the bool ``mask`` [1, X, Y, Z], measured from voxel middles.

    Within the mask's box grown by ``reach``; over the whole of a CT it would take ten times as long.
    """
    pixdim = mask.pixdim.tolist()
    box = bounding_box(mask[0].numpy().astype(bool))
    out = torch.zeros_like(mask, dtype=torch.float32)
    if box is None:
        return out
    margin = [math.ceil(reach / mm) for mm in pixdim]
    part = (0, *(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margin)))
    distance = distance_transform_edt((~mask[part].bool())[None], sampling=pixdim)[0]
    out[part] = (torch.as_tensor(distance) <= reach).float()
    return out


class CombineMaskd(Transform):
    """Join ``image`` and ``mask`` of one shape ``[n, ...]`` into ``image``, which bears the item's ``affine``, if any.

    Args:
        mode: ``multiply`` (``[n, ...]``) or ``concat`` (``[2n, ...]``, the CT first).

    Raises:
        ValueError: another mode.
    """

    def __init__(self, mode: str) -> None:
        self.mode = Combine(mode)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with both in ``image``; ``mask`` stays."""
        image, mask = data["image"], data["mask"]
        joined = image * mask if self.mode is Combine.MULTIPLY else torch.cat([image, mask])
        return {**data, "image": MetaTensor(joined, affine=data["affine"]) if "affine" in data else joined}
