"""Real tumours, cut out at their outlines and set into other people's livers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.transforms import RandomizableTransform, Transform


class Graft(NamedTuple):
    """A tumour as it was cut out: ``image`` [gop, h, w] in units above its liver's level, ``shape`` [h, w] bool."""

    image: torch.Tensor
    shape: torch.Tensor


class RandGraftd(RandomizableTransform, Transform):
    """Set a real tumour of an earlier group into the liver of this one, and into its label.

    A drawn lesion has the texture of its host, a real one brings its own rim and grain (as in arXiv:2306.16036). The
    tumours come from the outlined groups that have passed before, as many as ``keep``; MONAI has no transform that
    mixes items. Works on images whose liver lies at 0 (NormaliseLiverd), so that a tumour keeps its contrast.

    ``image`` and ``liver`` [gop, X, Y], ``label`` [2, X, Y], tumour and density. Groups whose tumour has no outline are
    left alone.

    Args:
        prob: probability of a graft.
        keep: tumours kept to choose from.
        size: smallest and largest side of a tumour, pixels.
        min_pixels: groups that show less liver are left alone.
    """

    def __init__(self, prob: float, keep: int = 256, size: tuple[int, int] = (4, 64), min_pixels: int = 200) -> None:
        RandomizableTransform.__init__(self, prob)
        self.keep, self.size, self.min_pixels = keep, size, min_pixels
        self.kept: list[Graft] = []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with one tumour more in ``image`` and ``label``, or as it is."""
        self.randomize(None)
        d = dict(data)
        liver = d["liver"][len(d["liver"]) // 2] > 0
        host = not (d["label"][1] > 0).any() and int(liver.sum()) >= self.min_pixels
        grafted = self._set(d, liver) if self._do_transform and host and self.kept else d
        self._cut(d)
        return grafted

    def _cut(self, d: Mapping[Hashable, Any]) -> None:
        """Keep the tumour of a group, in the place of an earlier one where enough are kept."""
        tumour = d["label"][0] > 0
        if not tumour.any():
            return
        first, last = (ends.tolist() for ends in tumour.nonzero().aminmax(dim=0))
        box = slice(first[0], last[0] + 1), slice(first[1], last[1] + 1)
        sides = tumour[box].shape
        if min(sides) < self.size[0] or max(sides) > self.size[1]:
            return
        graft = Graft(d["image"][(slice(None), *box)].clone(), tumour[box].clone())
        if len(self.kept) < self.keep:
            self.kept.append(graft)
        else:
            self.kept[self.R.randint(self.keep)] = graft

    def _set(self, d: dict[Hashable, Any], liver: torch.Tensor) -> dict[Hashable, Any]:
        """The item with one of the kept tumours, turned, scaled and a little changed in contrast."""
        image, shape = self._varied(self.kept[self.R.randint(len(self.kept))])
        inside = liver.nonzero()
        at = inside[self.R.randint(len(inside))] - torch.tensor(shape.shape) // 2
        host, part = zip(*(overlap(int(a), n, m) for a, n, m in zip(at, shape.shape, liver.shape)))
        soft = torch.zeros(liver.shape)
        soft[host] = shape[part]
        soft = soft * liver
        whole = torch.zeros_like(d["image"])
        whole[(slice(None), *host)] = image[(slice(None), *part)]
        tumour = torch.maximum(d["label"][0], (soft > 0.5).to(d["label"]))
        mixed = d["image"] * (1 - soft) + whole * soft
        return {**d, "image": mixed, "label": torch.stack([tumour, d["label"][1]])}

    def _varied(self, graft: Graft) -> tuple[torch.Tensor, torch.Tensor]:
        """Image [gop, h, w] and soft shape [h, w] of a tumour after a random turn, flip, scale and contrast."""
        size = [max(3, round(n * self.R.uniform(0.6, 1.5))) for n in graft.shape.shape]
        stack = torch.cat([graft.image, graft.shape[None].float()])
        stack = F.interpolate(stack[None], size=size, mode="bilinear", antialias=True)[0]
        stack = torch.rot90(stack, self.R.randint(4), (1, 2))
        stack = stack.flip(1) if self.R.uniform() < 0.5 else stack
        return stack[:-1] * self.R.uniform(0.6, 1.3), stack[-1]


def overlap(start: int, length: int, limit: int) -> tuple[slice, slice]:
    """Where ``length`` pixels from ``start`` on lie within ``limit``, and which of them do."""
    first, last = max(start, 0), min(start + length, limit)
    return slice(first, last), slice(first - start, last - start)
