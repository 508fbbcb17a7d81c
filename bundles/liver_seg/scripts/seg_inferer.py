"""2.5D inference: every slice is segmented from a stack of adjacent slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer


def cpu_has_bf16() -> bool:
    """True when this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX), where it is faster than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def input_in_float32(network: torch.nn.Module) -> torch.nn.Module:
    """Make ``network.input_block`` (a DynUNet's first) compute in float32 where the CPU otherwise takes bfloat16.

    With 8 bits HU 0 to 160 come in steps of up to 0.6 HU; in float32 the largest error of the probability falls from
    0.026 to 0.016. MONAI has no switch for a part of a network.
    """
    block = network.input_block
    block.forward = torch.autocast("cpu", enabled=False)(block.forward)
    return network


class AdjacentSliceInferer(Inferer):
    """Run a 2D network whose channels are ``gop`` adjacent slices over a whole volume.

    MONAI's SliceInferer feeds one slice at a time, and its engines autocast on CUDA only; here the neighbours come
    along, and a capable CPU computes in bfloat16. Differentiable.

    Args:
        gop: number of adjacent slices, odd; the network's input channels.
        batch_size: slices per network call.
        divisor: X and Y are zero-padded to a multiple of this for the call.
        bf16: autocast on the CPU; None asks the CPU.
    """

    def __init__(self, gop: int, batch_size: int = 16, divisor: int = 32, bf16: bool | None = None) -> None:
        self.gop, self.batch_size, self.divisor = gop, batch_size, divisor
        self.bf16 = cpu_has_bf16() if bf16 is None else bf16

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any):
        """Volume ``[B, 1, X, Y, Z]`` to logits of the same shape, or slice stacks ``[B, gop, X, Y]`` to
        ``[B, 1, X, Y]``; float32."""
        x = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if x.ndim == 4:
            return self._forward(x, network, *args, **kwargs)
        return torch.stack([self._volume(volume[0], network, *args, **kwargs)[None] for volume in x])

    def _volume(self, volume: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any):
        stacks = adjacent_slices(volume, self.gop)
        x, y = stacks.shape[-2:]
        pad = (0, -y % self.divisor, 0, -x % self.divisor)
        out = [
            self._forward(F.pad(chunk, pad), network, *args, **kwargs)[:, 0, :x, :y]
            for chunk in stacks.split(self.batch_size)
        ]
        return torch.cat(out).permute(1, 2, 0)

    def _forward(self, x: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any):
        x = x.contiguous(memory_format=torch.channels_last)
        if x.device.type != "cpu":  # the engine's amp flag decides
            return network(x, *args, **kwargs).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return network(x, *args, **kwargs).float()


def adjacent_slices(volume: torch.Tensor, gop: int) -> torch.Tensor:
    """``[X, Y, Z]`` to ``[Z, gop, X, Y]``: each slice with its neighbours, end slices repeated beyond the ends."""
    index = torch.arange(volume.shape[-1])[:, None] + torch.arange(-(gop // 2), gop // 2 + 1)
    return volume.permute(2, 0, 1)[index.clamp(0, volume.shape[-1] - 1)]
