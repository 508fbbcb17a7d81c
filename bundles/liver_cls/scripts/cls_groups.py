"""Groups of pictures (GOP): a slice and its neighbours, their labels, and drawing them for training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Randomizable, Transform
from scripts.cls_errors import StudyError

TUMOUR = 2  # LiTS: 0 background, 1 liver, 2 tumour
UNKNOWN = -1.0  # whether a slice shows tumour


def slice_groups(slices: torch.Tensor, centres: torch.Tensor, gop: int) -> torch.Tensor:
    """Slices ``[Z, C, X, Y]`` around the indices ``centres`` [N]: ``[N, C * gop, X, Y]``, end slices repeated."""
    offsets = torch.arange(-(gop // 2), gop // 2 + 1, device=centres.device)
    index = (centres[:, None] + offsets).clamp(0, len(slices) - 1)
    return slices[index].transpose(1, 2).flatten(1, 2)


class SliceLabelsd(Transform):
    """Turn ``label`` [1, X, Y, Z] into the labels of the groups around each slice, ``[Z]`` float, 1 = tumour in it.

    An item with ``tumour_present`` (0 or 1), such as an isolated slice, gets that. One with ``tumour_label`` False has
    no outlines, but lists ``tumour_in`` and ``tumour_free`` of its ``slices`` [Z]: what these leave open gets -1.

    Raises:
        StudyError: ``tumour_present`` is neither 0 nor 1, or a slice is listed that the CT does not have.
    """

    def __init__(self, gop: int) -> None:
        self.gop = gop

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the labels in the place of ``label``."""
        check_known(data)
        if "tumour_present" in data:  # a slice of which nothing else is known
            return {**data, "label": torch.full(data["label"].shape[-1:], float(data["tumour_present"]))}
        label = torch.as_tensor(data["label"])
        label = label.as_tensor() if isinstance(label, MetaTensor) else label
        if not data.get("tumour_label", True):
            return {**data, "label": listed_labels(data, (label > 0).flatten(0, 2).any(0), self.gop)}
        return {**data, "label": group_labels((label == TUMOUR).flatten(0, 2).any(0), self.gop)}


def check_known(data: Mapping[Hashable, Any]) -> None:
    """Raise StudyError where what a datalist tells of an item's slices, ``slices`` [Z], cannot be."""
    case = data.get("case", "study")
    if data.get("tumour_present", 0) not in (0, 1):
        raise StudyError(f"{case}: tumour_present is {data['tumour_present']!r} in the datalist. Give 0 or 1.")
    for key in ("tumour_in", "tumour_free"):
        lost = sorted({*data.get(key, [])} - {*data["slices"].tolist()}) if key in data else []
        if lost:
            gone = f"{key} lists slice {lost[0]}, which the CT does not have"
            raise StudyError(f"{case}: {gone}. Count from 0; pack a packed set again.")


def group_labels(tumour: torch.Tensor, gop: int) -> torch.Tensor:
    """Slices with tumour ``[Z]`` bool to groups with tumour ``[Z]`` float."""
    return F.max_pool1d(tumour.float()[None], gop, stride=1, padding=gop // 2)[0]


def listed(data: Mapping[Hashable, Any], key: str) -> torch.Tensor:
    """``[Z]`` bool: which of an item's ``slices`` its list ``key`` names."""
    return torch.isin(data["slices"], torch.tensor(data.get(key, []), dtype=data["slices"].dtype))


def listed_labels(data: Mapping[Hashable, Any], liver: torch.Tensor, gop: int) -> torch.Tensor:
    """``[Z]`` float of an item without outlines: 1 where the group holds a slice known to show tumour, 0 where all of
    it is known to show none, else -1, and -1 around every slice that neither list names.

    A neighbour that shows no ``liver`` ([Z] bool) shows no tumour of it, listed or not.
    """
    tumour = listed(data, "tumour_in")
    told = tumour | listed(data, "tumour_free")
    positive, open_ = group_labels(tumour, gop), group_labels(liver & ~told, gop)
    return positive.masked_fill(~told | (open_ > positive), UNKNOWN)


class TumourDensityd(Transform):
    """Add ``density`` [1, X, Y, Z]: tumour pixels to be expected per pixel of the liver, where no outline tells them.

    An item with ``tumour_present`` 1 holds tumour somewhere in ``liver`` [1, X, Y, Z], of ``tumour_area_mm2`` in all,
    if that is given; one with ``tumour_label`` False holds some in its slices ``tumour_in``. 0 everywhere else:
    outlines are known there, or that there is nothing to outline.

    Args:
        spacing: mm per pixel of the liver; None where it differs from study to study, so that no area is known.
    """

    PRESENT = 1e-6  # somewhere, of unknown area

    def __init__(self, spacing: float | None) -> None:
        self.spacing = spacing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``density``."""
        liver = data["liver"].float()
        if "tumour_present" not in data and not data.get("tumour_label", True):
            return {**data, "density": liver * self.PRESENT * listed(data, "tumour_in")}
        pixels = float(data.get("tumour_area_mm2") or 0) / self.spacing**2 if self.spacing else 0.0
        share = max(pixels / max(float(liver.sum()), 1.0), self.PRESENT) if data.get("tumour_present") else 0.0
        return {**data, "density": liver * min(share, 1.0)}


class DrawGroupsd(Randomizable, Transform):
    """Draw groups of slices of a study, tumour and no tumour in a set proportion; the answer to class imbalance.

    ``image``, ``mask`` and ``density`` (float), ``liver`` and ``tumour`` (uint8) [1, X, Y, Z] with ``label`` [Z] become
    a list of items with ``image``, ``mask`` and ``liver`` [gop, X, Y] and ``label`` [2, X, Y]: where any slice of the
    group shows tumour, and the density (TumourDensityd). Groups of unknown label are not drawn.

    Args:
        num: groups per study and epoch; no more than it has of known label.
        gop: slices per group.
        pos_fraction: share of groups with tumour, where the study has both kinds; None takes them as they come.
        reverse_prob: probability to turn a group upside down.
    """

    def __init__(self, num: int, gop: int, pos_fraction: float | None = 0.5, reverse_prob: float = 0.5) -> None:
        self.num, self.gop, self.pos_fraction, self.reverse_prob = num, gop, pos_fraction, reverse_prob

    def randomize(self, data: Any) -> None:
        """Choose the central slices and which groups to reverse, for ``label`` [Z]."""
        with_tumour, without = (np.flatnonzero(data.numpy() == value) for value in (1, 0))
        known = len(with_tumour) + len(without)
        num = min(self.num, known)
        share = len(with_tumour) / max(known, 1) if self.pos_fraction is None else self.pos_fraction
        wanted = int(num * share + self.R.random())
        if len(with_tumour) == 0:
            wanted = 0
        elif len(without) == 0:
            wanted = num
        self.centres = np.concatenate([self._choose(with_tumour, wanted), self._choose(without, num - wanted)])
        self.reverse = self.R.random(num) < self.reverse_prob

    def _choose(self, slices: np.ndarray, num: int) -> np.ndarray:
        """``num`` of ``slices``, each once where there are enough."""
        if num == 0:
            return np.empty(0, dtype=np.int64)
        return self.R.choice(slices, num, replace=num > len(slices))

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """The groups, those with tumour first.

        Raises:
            StudyError: no group's label is known; a batch of such studies would be empty.
        """
        if not (data["label"] >= 0).any():
            cause = f"tumour_in and tumour_free tell of no group of {self.gop} slices whether it shows tumour"
            raise StudyError(f"{data.get('case', 'study')}: {cause}. List neighbouring slices too, or leave it out.")
        self.randomize(data["label"])
        centres = torch.as_tensor(self.centres)
        volumes = {k: data[k].permute(3, 0, 1, 2) for k in ("image", "mask", "liver", "tumour", "density")}
        groups = {k: slice_groups(volume, centres, self.gop) for k, volume in volumes.items()}
        maps = [groups.pop(key).amax(1, keepdim=True).float() for key in ("tumour", "density")]
        groups["label"] = torch.cat(maps, dim=1)
        return [self._group(groups, i) for i in range(len(centres))]

    def _group(self, groups: Mapping[str, torch.Tensor], i: int) -> dict[Hashable, Any]:
        """The group ``i``, upside down where that was drawn."""
        if self.reverse[i]:
            return {k: values[i] if k == "label" else values[i].flip(0) for k, values in groups.items()}
        return {key: values[i] for key, values in groups.items()}
