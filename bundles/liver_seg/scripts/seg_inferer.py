"""2.5D inference: every slice is segmented from a stack of adjacent slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.nets import DynUNet
from scipy import ndimage
from scripts.seg_precision import CpuBf16Inferer


def input_in_float32(network: torch.nn.Module) -> torch.nn.Module:
    """Make the first layers of a network compute in float32 where the CPU otherwise takes bfloat16.

    With 8 bits HU 0 to 200 come in steps of up to 0.8 HU; the largest error of a DynUNet's output is 0.021 with its
    first block in float32, 0.012 with two. Of another network it is the first convolution. MONAI has no switch for
    parts.
    """
    if isinstance(network, DynUNet):
        layers = [network.input_block, network.downsamples[0]]
    else:
        layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)][:1]
    for layer in layers:
        layer.forward = _float32_forward(type(layer)).__get__(layer)  # bound: a copy of the network gets its own
    return network


def _float32_forward(kind: type[torch.nn.Module]) -> Callable[..., torch.Tensor]:
    """The forward of a kind of layer outside of the CPU's autocast."""

    @torch.autocast("cpu", enabled=False)
    def forward(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = kind.forward(self, x.float() if x.device.type == "cpu" else x)
        return out

    return forward


class AdjacentSliceInferer(CpuBf16Inferer):
    """Run a 2D network whose channels are slices nearby over a whole volume.

    MONAI's SliceInferer feeds one slice at a time, and its engines autocast on CUDA only; here the neighbours come
    along, and a capable CPU computes in bfloat16. Differentiable.

    Args:
        offsets: slices that the network sees around each, such as -2, -1, 0, 1, 2; its input channels.
        batch_size: slices per network call.
        divisor: X and Y are zero-padded to a multiple of this for the call, and of more where the network needs it.
        bf16: autocast on the CPU; None asks the CPU, and tries it on a pattern before a network's first volume.
        coarse_step: look at every so many slices first, and then only at those of the liver's range; the others get
            the logit ``UNSEEN``. 1 looks at all.
    """

    UNSEEN = -20.0  # no probability to speak of

    def __init__(
        self,
        offsets: Sequence[int],
        batch_size: int = 16,
        divisor: int = 32,
        bf16: bool | None = None,
        coarse_step: int = 1,
    ) -> None:
        super().__init__(bf16, divisor)
        self.offsets, self.batch_size, self.coarse_step = tuple(offsets), batch_size, coarse_step

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Volume ``[B, 1, X, Y, Z]`` to logits of the same shape, or slice stacks ``[B, len(offsets), X, Y]`` to
        ``[B, 1, X, Y]``; float32."""
        x = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if x.ndim == 4:
            return self._forward(x, network, *args, **kwargs)
        self.try_bf16(network, len(self.offsets), x.device)
        return torch.stack([self._volume(volume[0], network, *args, **kwargs)[None] for volume in x])

    def _volume(
        self, volume: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        depth = volume.shape[-1]
        coarse = torch.arange(0, depth + self.coarse_step - 1, self.coarse_step).clamp(max=depth - 1)
        logits = self._slices(volume, coarse, network, *args, **kwargs)
        if self.coarse_step == 1:
            return logits.permute(1, 2, 0)
        first, last = (int(coarse[i]) for i in liver_range(logits.detach().sigmoid()))
        fine = torch.tensor([z for z in range(first, last) if z % self.coarse_step])
        out = logits.new_full((depth, *logits.shape[1:]), self.UNSEEN)
        out[coarse] = logits
        if len(fine):
            out[fine] = self._slices(volume, fine, network, *args, **kwargs)
        return out.permute(1, 2, 0)

    def _slices(
        self, volume: torch.Tensor, index: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Logits ``[N, X, Y]`` of the slices ``index`` [N]."""
        out = []
        for part in index.split(self.batch_size):
            stacks = adjacent_slices(volume, part, self.offsets)
            out.append(self._forward(stacks, network, *args, **kwargs)[:, 0])
        return torch.cat(out)


def liver_range(probs: torch.Tensor, seen: float = 0.5) -> tuple[int, int]:
    """First and last of some slices ``[N, X, Y]`` between which the liver lies: the run of slices with any probability
    above ``seen`` that holds most of what is above 0.5, and a slice on both sides; all of them where nothing is."""
    area = (probs > 0.5).flatten(1).sum(1)
    runs, count = ndimage.label((probs > seen).flatten(1).any(1).cpu().numpy())
    if not area.any():
        return 0, len(probs) - 1
    largest = np.bincount(runs, area.cpu().numpy(), count + 1)[1:].argmax() + 1
    inside = np.flatnonzero(runs == largest)
    return max(0, int(inside[0]) - 1), min(len(probs) - 1, int(inside[-1]) + 1)


def adjacent_slices(volume: torch.Tensor, index: torch.Tensor, offsets: Sequence[int]) -> torch.Tensor:
    """``[X, Y, Z]`` to ``[N, len(offsets), X, Y]``: what lies around the slices ``index`` [N], end slices repeated
    beyond the ends."""
    around = index[:, None] + index.new_tensor(offsets)
    return volume.permute(2, 0, 1)[around.clamp(0, volume.shape[-1] - 1)]
