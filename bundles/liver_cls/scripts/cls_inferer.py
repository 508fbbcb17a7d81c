"""Group-of-pictures inference: every axial slice is judged from itself and its neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer


def cpu_has_bf16() -> bool:
    """True when this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX), where it is faster than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def bf16_agrees(network: Callable[..., torch.Tensor], channels: int) -> bool:
    """Whether the network's probabilities of a fixed pattern in bfloat16 and in float32 differ by less than 0.1 (by
    0.02 to 0.07 where all is well)."""
    x = torch.linspace(-3, 3, 64)
    pattern = torch.stack([(x[:, None] * (1 + c / 8)).sin() * (x - c / 4).cos() for c in range(channels)])[None]
    probs = []
    for bf16 in (True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            probs.append(network(pattern.contiguous(memory_format=torch.channels_last)).float().sigmoid())
    return bool((probs[0] - probs[1]).abs().max() < 0.1)  # NaN compares false


class SliceGroupInferer(Inferer):
    """Judge every slice of a study by its group of pictures (GOP): its logit is the largest of a lesion map.

    Where the mask is a channel, a pixel of the map counts as far as the mask takes it for liver.

    MONAI's SliceInferer feeds one slice at a time, and its engines autocast on CUDA only; here the neighbours come
    along, and a capable CPU computes in bfloat16. Differentiable.

    Args:
        gop: number of adjacent slices, odd; the network's input channels are ``C * gop``, channel by channel.
        batch_size: groups per network call.
        bf16: autocast on the CPU; None asks the CPU, and tries it on a pattern before a network's first study.
    """

    def __init__(self, gop: int, batch_size: int = 32, bf16: bool | None = None) -> None:
        self.gop, self.batch_size = gop, batch_size
        self.bf16 = cpu_has_bf16() if bf16 is None else bf16
        self.untried = self.bf16 and bf16 is None

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any):
        """Studies ``[B, C, X, Y, Z]`` to one logit per slice ``[B, Z]``, or groups ``[B, C * gop, X, Y]``, as in
        training, to lesion maps ``[B, 1, X, Y]`` of logits; float32."""
        x = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if x.ndim == 4:
            return self._forward(x, network, *args, **kwargs)
        if self.untried and x.device.type == "cpu":
            self.untried, self.bf16 = False, bf16_agrees(network, x.shape[1] * self.gop)
            if not self.bf16:
                warnings.warn("bfloat16 gives another answer on this CPU: float32 is used, which takes longer")
        return torch.stack([self._study(study, network, *args, **kwargs) for study in x])

    def _study(self, study: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any):
        slices = study.permute(3, 0, 1, 2).contiguous()
        centres = torch.arange(len(slices), device=study.device).split(self.batch_size)
        lesions = [self.judge(slice_groups(slices, c, self.gop), network, *args, **kwargs) for c in centres]
        return torch.cat(lesions).flatten(1).amax(1)

    def judge(self, groups: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any):
        """Groups ``[N, C * gop, X, Y]`` to lesion maps ``[N, 1, X, Y]``, whose largest logit is the group's."""
        lesions = self._forward(groups, network, *args, **kwargs)
        if groups.shape[1] == 2 * self.gop:  # CT and mask: what lies outside the liver is no tumour of the liver
            lesions = lesions + groups[:, self.gop + self.gop // 2, None].clamp(1e-3, 1).log()
        return lesions

    def _forward(self, x: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any):
        x = x.contiguous(memory_format=torch.channels_last)
        if x.device.type != "cpu":  # the engine's amp flag decides
            return network(x, *args, **kwargs).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return network(x, *args, **kwargs).float()


def slice_groups(slices: torch.Tensor, centres: torch.Tensor, gop: int) -> torch.Tensor:
    """Slices ``[Z, C, X, Y]`` around the indices ``centres`` [N]: ``[N, C * gop, X, Y]``, end slices repeated."""
    offsets = torch.arange(-(gop // 2), gop // 2 + 1, device=centres.device)
    index = (centres[:, None] + offsets).clamp(0, len(slices) - 1)
    return slices[index].transpose(1, 2).flatten(1, 2)
