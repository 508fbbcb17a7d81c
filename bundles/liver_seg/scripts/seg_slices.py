"""The slices that the network sees at once, drawn from a training CT."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.transforms import Randomizable, Transform


class RandSliceStackd(Randomizable, Transform):
    """From slabs ``[1, X, Y, Z]`` to stacks ``[len(offsets), X, Y]`` of the slices at ``offsets`` from the middle.

    A slab that holds fewer slices than the offsets reach, such as an isolated slice, has its middle drawn from all of
    them, and its end slices stand in for those beyond. Now and then the slices lie closer, as if the scan's were
    thicker, or are all the middle one, as an isolated slice is its own neighbour. Changes ``image`` and
    ``label``, and adds ``offsets`` as drawn.

    Args:
        offsets: slices from the middle.
        closer: smallest factor of the offsets.
        alone_prob: probability that the middle slice stands in for all.
    """

    def __init__(self, offsets: Sequence[int], closer: float = 0.6, alone_prob: float = 0.1) -> None:
        self.offsets, self.closer, self.alone_prob = torch.tensor(offsets), closer, alone_prob
        self.reach = int(self.offsets.abs().max())

    def randomize(self, data: int) -> None:
        """Draw the middle of ``data`` slices, and the factor of the offsets; 0 leaves the middle slice alone."""
        self.middle = self.R.randint(data) if data < 2 * self.reach + 1 else data // 2
        alone = self.R.uniform() < self.alone_prob
        factor = self.R.uniform(self.closer, 1.0) if self.R.uniform() < 0.5 else 1.0
        self.factor = 0.0 if alone else factor

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        depth = data["image"].shape[-1]
        self.randomize(depth)
        offsets = (self.offsets * self.factor).round().long()
        index = (self.middle + offsets).clamp(0, depth - 1)
        stacks = {key: data[key][0].permute(2, 0, 1)[index].contiguous() for key in ("image", "label")}
        return {**data, **stacks, "offsets": offsets}
