"""From a CT and a liver mask on its grid to the network's input, one considered axial slice after the other."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, RandomizableTransform, Transform
from monai.transforms.utils import distance_transform_edt
from scripts.cls_inferer import slice_groups
from scripts.cls_study import StudyError, case_name

MASK_SOURCES = ("prob", "binary", "dilated", "manual", "none")
TUMOUR = 2  # LiTS: 0 background, 1 liver, 2 tumour


class IndexSlicesd(Transform):
    """Note which slice of the file each axial slice is, before the volume is turned to RAS.

    Adds ``slices`` [Z] (index along the file's own axial axis), ``slice_z`` [Z] (mm, RAS world, at the middle of the
    plane), both from foot to head, and ``case`` (the file's name) unless the item has one.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image: MetaTensor = data["image"]
        affine = np.asarray(image.affine, dtype=np.float64)
        axis, flip = axial_axis(affine)
        slices = torch.arange(image.shape[1 + axis])
        voxels = np.tile((np.array(image.shape[1:]) - 1) / 2, (len(slices), 1))
        voxels[:, axis] = slices
        z = torch.tensor(nib.affines.apply_affine(affine, voxels)[:, 2], dtype=torch.float32)
        slices, z = (slices.flip(0), z.flip(0)) if flip else (slices, z)
        case = data.get("case") or case_name(image.meta.get("filename_or_obj") or "study")
        return {**data, "slices": slices, "slice_z": z, "case": case}


def axial_axis(affine: np.ndarray) -> tuple[int, bool]:
    """The array axis closest to foot-head, and whether it runs from head to foot."""
    orientation = nib.orientations.io_orientation(affine)
    axis = int(np.flatnonzero(orientation[:, 0] == 2)[0])
    return axis, bool(orientation[axis, 1] < 0)


class CutToLiverd(MapTransform):
    """Cut volumes ``[1, X, Y, Z]`` of any orientation, and what IndexSlicesd noted, to the liver's axial slices with
    ``margin`` slices on both sides, as FindLiverd takes the liver.

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


class SelectMaskd(Transform):
    """Add ``mask`` [1, X, Y, Z], 0..1, by which the CT is judged.

    Args:
        source: ``prob`` (``item["prob"]`` as it is), ``binary`` (prob > 0.5), ``dilated`` (within ``dilate_mm`` of prob
            > 0.5), ``manual`` (``item["label"]`` > 0) or ``none`` (ones).
        dilate_mm: reach of ``dilated``.
    """

    def __init__(self, source: str, dilate_mm: float = 5.0) -> None:
        if source not in MASK_SOURCES:
            raise ValueError(f"mask_source is {source!r}. Choose one of {', '.join(MASK_SOURCES)}.")
        self.source, self.dilate_mm = source, dilate_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, "mask": self._mask(data)}

    def _mask(self, data: Mapping[Hashable, Any]) -> torch.Tensor:
        if self.source == "prob":
            return data["prob"].float()
        if self.source == "binary":
            return (data["prob"] > 0.5).float()
        if self.source == "dilated":
            return dilate(data["prob"] > 0.5, self.dilate_mm)
        if self.source == "manual":
            return (data["label"] > 0).float()
        return torch.ones_like(data["image"], dtype=torch.float32)


def dilate(mask: MetaTensor, reach: float) -> MetaTensor:
    """Float mask of all voxels within ``reach`` mm of the bool ``mask`` [1, X, Y, Z], measured from voxel middles.

    Within the mask's box grown by ``reach``; over the whole of a CT it would take ten times as long.
    """
    pixdim = mask.pixdim.tolist()
    box = bounding_box(mask[0].numpy().astype(bool))
    out = torch.zeros_like(mask, dtype=torch.float32)
    if box:
        margin = [math.ceil(reach / mm) for mm in pixdim]
        part = (0, *(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margin)))
        distance = distance_transform_edt((~mask[part].bool())[None], sampling=pixdim)[0]
        out[part] = (torch.as_tensor(distance) <= reach).float()
    return out


class FindLiverd(Transform):
    """Add ``middle``, the liver's middle (x, y) in mm from the first voxel, ``extent``, the considered slices [z0, z1)
    of the RAS volume, its ``pixdim`` in mm, and its ``affine`` [4, 4].

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
    """Bounding box of ``[X, Y, Z]`` > 0.5 or of its largest part; None when empty."""
    above = (mask.detach() > 0.5).cpu().numpy()
    box = bounding_box(above)
    if box and largest:
        parts = cc3d.connected_components(np.asfortranarray(above[box]))
        found = cc3d.statistics(parts)
        inner = found["bounding_boxes"][1 + np.argmax(found["voxel_counts"][1:])]
        box = tuple(slice(o.start + int(i.start), o.start + int(i.stop)) for o, i in zip(box, inner))
    return box


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Of what is true in ``[X, Y, Z]``; None when nothing is. scipy's find_objects takes a hundred times as long."""
    if not mask.any():
        return None
    lines = (mask.any(axis=axes).nonzero()[0] for axes in ((1, 2), (0, 2), (0, 1)))
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


class CutSlicesd(MapTransform):
    """Keep the slices of ``extent`` in volumes ``[1, X, Y, Z]`` and in what is given per slice, ``[Z]``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            values = d[key].as_tensor() if isinstance(d[key], MetaTensor) else d[key]
            d[key] = values[..., slice(*d["extent"])]
        return d


class SamplePlaned(MapTransform):
    """Resample ``[1, X, Y, Z]`` in plane to ``[1, *roi, Z]`` with the liver's ``middle`` at the middle.

    Averages where the CT is finer than ``spacing``, so that one of 0.57 mm and one of 1.5 mm look alike. Cropping,
    padding and resizing take 2 s for 512 x 512 x 107 voxels; two matrix products take 0.4 s, and are differentiable.
    ``affine`` becomes the one of the result.

    Args:
        keys: volumes on one grid, RAS.
        roi: pixels.
        spacing: mm per pixel.
        fill: value beyond the volume, one per key.
    """

    def __init__(self, keys: KeysCollection, roi: Sequence[int], spacing: float, fill: Sequence[float]) -> None:
        super().__init__(keys)
        self.roi, self.spacing, self.fill = tuple(roi), spacing, tuple(fill)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        axes = zip(d["image"].shape[1:3], d["pixdim"], self.roi, d["middle"])
        weights = [sampling_weights(old, mm, new, self.spacing, middle) for old, mm, new, middle in axes]
        for key, fill in self.key_iterator(d, self.fill):
            d[key] = sample_plane(d[key], *weights, fill)
        return d | {"affine": self._affine(d)}

    def _affine(self, d: Mapping[Hashable, Any]) -> torch.Tensor:
        """From the result's voxels to the world (mm); pixel ``(roi - 1) / 2`` lies at the liver's middle."""
        to_volume = torch.eye(4, dtype=torch.float64)
        for i, (mm, new, middle) in enumerate(zip(d["pixdim"], self.roi, d["middle"])):
            to_volume[i, i], to_volume[i, 3] = self.spacing / mm, (middle - (new - 1) / 2 * self.spacing) / mm
        to_volume[2, 3] = d["extent"][0]
        return d["affine"].to(to_volume) @ to_volume


def sampling_weights(old: int, old_mm: float, new: int, new_mm: float, middle: float) -> torch.Tensor:
    """Weights ``[new, old]`` that sample an axis around ``middle`` (mm from its first voxel): a triangle as wide as
    the coarser of both spacings. Rows sum to 1 inside, to less at the rim, to 0 beyond."""
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
        out = (uy @ (x.permute(2, 1, 0) @ ux.T)).permute(2, 1, 0)
    else:
        out = torch.tensordot(ux, uy @ x, dims=1).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    if fill:
        out = out + (fill * (1 - wx.sum(1)[:, None] * wy.sum(1)))[..., None]
    return out[None]


class NormaliseLiverd(Transform):
    """Bring the CT (HU) to units of ``scale`` HU above the liver's own level.

    Contrast phase and scanner move a liver by 50 HU, a tumour differs from its liver by 20 to 60. With the liver at 0,
    multiplying by the mask puts everything outside at the liver's level, and a tumour stands out as a dark blob.

    Args:
        mode: ``liver`` (median HU under the mask, weighted by it) or ``fixed`` (``level``).
        level: HU taken for the liver when fixed or when the mask is empty.
        scale: HU per unit.
    """

    def __init__(self, mode: str = "liver", level: float = 100.0, scale: float = 30.0) -> None:
        if mode not in ("liver", "fixed"):
            raise ValueError(f"normalise is {mode!r}. Choose liver or fixed.")
        self.mode, self.level, self.scale = mode, level, scale

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data["image"].as_tensor() if isinstance(data["image"], MetaTensor) else data["image"]
        level = self.level if self.mode == "fixed" else liver_level(image, data["mask"], self.level)
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


class CombineMaskd(Transform):
    """Join ``image`` and ``mask`` of one shape ``[n, ...]`` into ``image``.

    Args:
        mode: ``multiply`` (``[n, ...]``) or ``concat`` (``[2n, ...]``, the CT first).
    """

    def __init__(self, mode: str) -> None:
        if mode not in ("multiply", "concat"):
            raise ValueError(f"combine is {mode!r}. Choose multiply or concat.")
        self.mode = mode

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image, mask = data["image"], data["mask"]
        return {**data, "image": image * mask if self.mode == "multiply" else torch.cat([image, mask])}


class SmoothAlongZd(MapTransform):
    """Average logits per slice ``[Z]`` with those of the slices nearby, weighted by a Gaussian of their distance.

    A tumour is seen in neighbouring slices too, noise is not. In mm, since slices lie 0.7 to 10 mm apart; MONAI's
    GaussianSmooth counts pixels.

    Args:
        keys: logits per slice.
        sigma_mm: of the Gaussian; 0 leaves the logits.
    """

    def __init__(self, keys: KeysCollection, sigma_mm: float) -> None:
        super().__init__(keys)
        self.sigma_mm = sigma_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.sigma_mm:
            z = torch.as_tensor(d["slice_z"]).float().flatten()
            weights = (-0.5 * ((z[:, None] - z) / self.sigma_mm) ** 2).softmax(1)
            for key in self.key_iterator(d):
                d[key] = weights.to(d[key]) @ d[key]
        return d


class SliceLabelsd(Transform):
    """Turn ``label`` [1, X, Y, Z] into the labels of the groups around each slice, ``[Z]`` float, 1 = tumour in it."""

    def __init__(self, gop: int) -> None:
        self.gop = gop

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        label = torch.as_tensor(data["label"])
        label = label.as_tensor() if isinstance(label, MetaTensor) else label
        return {**data, "label": group_labels((label == TUMOUR).flatten(0, 2).any(0), self.gop)}


def group_labels(tumour: torch.Tensor, gop: int) -> torch.Tensor:
    """Slices with tumour ``[Z]`` bool to groups with tumour ``[Z]`` float."""
    return F.max_pool1d(tumour.float()[None], gop, stride=1, padding=gop // 2)[0]


class DrawGroupsd(Randomizable, Transform):
    """Draw groups of slices of a study, tumour and no tumour in a set proportion; the answer to class imbalance.

    ``image`` and ``mask`` (float), ``liver`` and ``tumour`` (uint8) [1, X, Y, Z] with ``label`` [Z] become a list of
    items with ``image``, ``mask`` and ``liver`` [gop, X, Y] and ``label`` [1, X, Y]: where any slice of the group shows
    tumour.

    Args:
        num: groups per study and epoch.
        gop: slices per group.
        pos_fraction: share of groups with tumour, where the study has both kinds.
        reverse_prob: probability to turn a group upside down.
    """

    def __init__(self, num: int, gop: int, pos_fraction: float = 0.5, reverse_prob: float = 0.5) -> None:
        self.num, self.gop, self.pos_fraction, self.reverse_prob = num, gop, pos_fraction, reverse_prob

    def randomize(self, data: Any) -> None:
        """Choose the central slices and which groups to reverse, for ``label`` [Z]."""
        with_tumour, without = (np.flatnonzero(data.numpy() == value) for value in (1, 0))
        wanted = int(self.num * self.pos_fraction + self.R.random())
        wanted = 0 if len(with_tumour) == 0 else self.num if len(without) == 0 else wanted
        self.centres = np.concatenate([self._choose(with_tumour, wanted), self._choose(without, self.num - wanted)])
        self.reverse = self.R.random(self.num) < self.reverse_prob

    def _choose(self, slices: np.ndarray, num: int) -> np.ndarray:
        return self.R.choice(slices, num, replace=num > len(slices)) if num else np.empty(0, dtype=np.int64)

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        self.randomize(data["label"])
        centres = torch.as_tensor(self.centres)
        volumes = {k: data[k].permute(3, 0, 1, 2) for k in ("image", "mask", "liver", "tumour")}
        groups = {k: slice_groups(volume, centres, self.gop) for k, volume in volumes.items()}
        groups["label"] = groups.pop("tumour").amax(1, keepdim=True).float()
        return [{k: g[i].flip(0) if self.reverse[i] else g[i] for k, g in groups.items()} for i in range(len(centres))]


class RandTumourd(RandomizableTransform, Transform):
    """Draw lesions into the liver of a group, and into its label: one to four ovals, or irregular blobs.

    The training cases are few, and so are the tumours that tell how a tumour looks. MONAI's RandCoarseDropout blanks
    boxes anywhere; this shades ovals of 1.5 to 14 pixels' radius, or blobs of 0.4 to 30 % of the liver's cross-section.

    ``image`` [gop, X, Y] float, ``liver`` [gop, X, Y], ``label`` [1, X, Y].

    Args:
        prob: probability of lesions.
        contrast: smallest and largest change of the normalised image; downwards in nine of ten lesions.
        min_pixels: groups that show less liver are left alone.
    """

    def __init__(self, prob: float, contrast: Sequence[float] = (0.5, 2.2), min_pixels: int = 200) -> None:
        RandomizableTransform.__init__(self, prob)
        self.contrast, self.min_pixels = tuple(contrast), min_pixels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.randomize(None)
        liver = data["liver"][len(data["liver"]) // 2] > 0
        if not self._do_transform or liver.sum() < self.min_pixels:
            return dict(data)
        lesion = (self._ovals(liver) if self.R.uniform() < 0.6 else self._blobs(liver)) * liver
        change = self.R.uniform(*self.contrast) * (1 if self.R.uniform() < 0.1 else -1)
        label = torch.maximum(data["label"], (lesion > 0.5).to(data["label"])[None])
        return {**data, "image": data["image"] + change * lesion, "label": label}

    def _ovals(self, liver: torch.Tensor) -> torch.Tensor:
        """Soft-edged ovals centred in ``liver`` [X, Y], 0..1."""
        x, y = torch.meshgrid(*(torch.arange(float(n)) for n in liver.shape), indexing="ij")
        inside, lesion = liver.nonzero(), torch.zeros(liver.shape)
        for _ in range(self.R.randint(1, 5)):
            u, v = inside[self.R.randint(len(inside))]
            radius, aspect = math.exp(self.R.uniform(math.log(1.5), math.log(14))), self.R.uniform(0.7, 1.4)
            cos, sin = math.cos(turn := self.R.uniform(0, math.pi)), math.sin(turn)
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
        self.randomize(None)
        if not self._do_transform:
            return dict(data)
        coarse = self.R.normal(scale=self.R.uniform(0, self.strength), size=(1, 1, *self.R.randint(2, 5, size=2)))
        field = torch.as_tensor(coarse, dtype=torch.float32)
        size = data["image"].shape[1:]
        return {**data, "image": data["image"] + F.interpolate(field, size=size, mode="bicubic", align_corners=True)[0]}
