"""Where the liver lies, and cutting volumes to it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from scripts.cls_boxes import bounding_box
from scripts.cls_errors import StudyError
from scripts.cls_slices import axial_axis


class CutToLiverd(MapTransform):
    """Cut volumes ``[1, X, Y, Z]`` of any orientation, and what IndexSlicesd noted, to the liver's axial slices.

    ``margin`` slices on both sides stay. The liver is found as FindLiverd does.

    Turning to RAS copies, and a scan may be ten times as long as its liver. Where the source is not given or empty,
    everything stays.

    Args:
        keys: volumes to cut, those of them that are there.
        source: the liver is where this exceeds 0.5.
        margin: slices.
    """

    def __init__(self, keys: KeysCollection, source: str, margin: int) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.source, self.margin = source, margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, every volume cut along its own axial axis, with its affine set right."""
        d = dict(data)
        axis, flip = axial_axis(np.asarray(d["image"].affine, dtype=np.float64))
        box = liver_box(d[self.source][0], largest=self.source == "prob") if self.source in d else None
        if box is None:
            return d
        depth = d["image"].shape[1 + axis]
        start, stop = max(0, box[axis].start - self.margin), min(depth, box[axis].stop + self.margin)
        for key in self.key_iterator(d):
            d[key] = narrow(d[key], axis, start, stop)
        kept = slice(depth - stop, depth - start) if flip else slice(start, stop)  # slices run from foot to head
        return d | {key: d[key][kept] for key in ("slices", "slice_z")}


def narrow(image: MetaTensor, axis: int, start: int, stop: int) -> MetaTensor:
    """The part of ``[1, X, Y, Z]`` from ``start`` to ``stop`` along a spatial axis, where it lies."""
    part = MetaTensor(image.as_tensor().narrow(1 + axis, start, stop - start), meta=image.meta)
    affine = image.affine.clone()
    affine[:3, 3] += start * affine[:3, axis]
    part.affine = affine
    return part


class FindLiverd(Transform):
    """Add where the liver lies in the RAS volume, and where that lies in the world.

    ``middle`` is the liver's middle (x, y) in mm from the first voxel, ``extent`` the considered slices [z0, z1),
    ``pixdim`` the volume's spacing in mm and ``affine`` [4, 4] its affine.

    Taken from the first of ``keys`` that the item holds: label > 0, or the largest part of prob > 0.5 (a Prob-Mask
    keeps its islands). Without any, the middle of the volume and all slices.

    Args:
        keys: where to look for the liver.
        margin: slices considered below and above it.
        required: raise StudyError rather than consider the whole volume when the mask is empty.
    """

    def __init__(self, keys: Sequence[str], margin: int = 5, required: bool = True) -> None:
        self.keys, self.margin, self.required = tuple(keys), margin, required

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``middle``, ``extent``, ``pixdim`` and ``affine``; its volumes ``[1, X, Y, Z]`` are RAS.

        Raises:
            StudyError: the mask is empty, and a liver is required.
        """
        shape, pixdim = data["image"].shape[1:], data["image"].pixdim.tolist()
        key = next((k for k in self.keys if k in data), None)
        box = liver_box(data[key][0], largest=key == "prob") if key else None
        if key and box is None and self.required:
            source = data[key].meta.get("filename_or_obj") or data["case"]
            raise StudyError(f"{source}: no liver found in the mask. Give an abdominal CT with its liver mask.")
        x, y, z = box or tuple(slice(0, n) for n in shape)
        middle = tuple((s.start + s.stop - 1) / 2 * p for s, p in zip((x, y), pixdim))
        extent = (max(0, z.start - self.margin), min(shape[2], z.stop + self.margin))
        place = {"middle": middle, "extent": extent, "pixdim": pixdim, "affine": data["image"].affine}
        return {**data, **place}


def liver_box(mask: torch.Tensor, largest: bool) -> tuple[slice, slice, slice] | None:
    """Bounding box, in voxels, of ``[X, Y, Z]`` > 0.5 or of its largest part; None when empty."""
    above = (mask.detach() > 0.5).cpu().numpy()
    box = bounding_box(above)
    if box is None or not largest:
        return box
    parts, count = cc3d.connected_components(np.asfortranarray(above[box]), return_N=True)
    if count == 1:  # statistics take three times as long as finding the parts
        return box
    found = cc3d.statistics(parts)
    inner = found["bounding_boxes"][1 + np.argmax(found["voxel_counts"][1:])]
    x, y, z = (slice(o.start + int(i.start), o.start + int(i.stop)) for o, i in zip(box, inner))
    return x, y, z
