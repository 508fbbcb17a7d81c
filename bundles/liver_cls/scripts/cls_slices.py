"""Axial slices: which of the file each one is, and what is given per slice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from scripts.cls_reading import case_name


class IndexSlicesd(Transform):
    """Note which slice of the file each axial slice is, before the volume is turned to RAS.

    Adds ``slices`` [Z] (index along the file's own axial axis), ``slice_z`` [Z] (mm, RAS world, at the middle of the
    plane), both from foot to head, ``case`` (the file's name) unless the item has one, and the file's grid:
    ``ct_affine`` [4, 4] and ``ct_shape`` [3].
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``slices``, ``slice_z`` and ``case``; ``image`` [1, X, Y, Z] is in the file's orientation."""
        image: MetaTensor = data["image"]
        affine = np.asarray(image.affine, dtype=np.float64)
        axis, flip = axial_axis(affine)
        slices = torch.arange(image.shape[1 + axis])
        voxels = np.tile((np.array(image.shape[1:]) - 1) / 2, (len(slices), 1))
        voxels[:, axis] = slices
        z = torch.tensor(nib.affines.apply_affine(affine, voxels)[:, 2], dtype=torch.float32)
        if flip:
            slices, z = slices.flip(0), z.flip(0)
        case = data.get("case") or case_name(image.meta.get("filename_or_obj") or "study")
        grid = {"ct_affine": torch.as_tensor(affine), "ct_shape": torch.tensor(image.shape[1:])}
        return {**data, "slices": slices, "slice_z": z, "case": case, **grid}


def axial_axis(affine: np.ndarray) -> tuple[int, bool]:
    """The array axis closest to foot-head, and whether it runs from head to foot."""
    orientation = nib.orientations.io_orientation(affine)
    axis = int(np.flatnonzero(orientation[:, 0] == 2)[0])
    return axis, bool(orientation[axis, 1] < 0)


class CutSlicesd(MapTransform):
    """Keep the slices of ``extent`` in volumes ``[1, X, Y, Z]`` and in what is given per slice, ``[Z]``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, cut along the last axis of each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            values = d[key].as_tensor() if isinstance(d[key], MetaTensor) else d[key]
            d[key] = values[..., slice(*d["extent"])]
        return d


class SmoothAlongZd(MapTransform):
    """Average logits ``[Z, ...]`` with those of the slices nearby, weighted by a Gaussian of their distance.

    A tumour is seen in neighbouring slices too, noise is not. In mm, since slices lie 0.7 to 10 mm apart; MONAI's
    GaussianSmooth counts pixels.

    Args:
        keys: logits per slice, or of its pixels.
        sigma_mm: of the Gaussian; 0 leaves the logits.
    """

    def __init__(self, keys: KeysCollection, sigma_mm: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.sigma_mm = sigma_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its logits averaged; ``slice_z`` [Z] in mm says where they lie."""
        d = dict(data)
        if self.sigma_mm:
            z = torch.as_tensor(d["slice_z"]).float().flatten()
            weights = (-0.5 * ((z[:, None] - z) / self.sigma_mm) ** 2).softmax(1)
            for key in self.key_iterator(d):
                d[key] = torch.tensordot(weights.to(d[key]), d[key], dims=1)
        return d
