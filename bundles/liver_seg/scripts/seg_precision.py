# A copy of precision.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""bfloat16 on the CPU: whether it is there, whether it gives the right answer, and inference with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from scripts.seg_networks import answer_of


def cpu_has_bf16() -> bool:
    """True when this CPU multiplies bfloat16 faster than float32: by AMX, or by AVX512-BF16 if it is none of Intel's.

    One of Intel's without AMX, as where a virtual machine hides it, took twice as long for it as for float32.
    """
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    of_intel = str(able.get("cpu_name")).startswith("Intel")
    return bool(able.get("amx_bf16") or (able.get("avx512_bf16") and not of_intel))


def bf16_agrees(network: Callable[..., torch.Tensor], channels: int) -> bool:
    """Whether a network's probabilities of a fixed pattern in bfloat16 and in float32 differ by less than 0.1.

    They differ by 0.02 to 0.07 where all is well.

    Args:
        network: takes ``[1, channels, 64, 64]`` and gives logits.
        channels: of its input.
    """
    x = torch.linspace(-3, 3, 64)
    pattern = torch.stack([(x[:, None] * (1 + c / 8)).sin() * (x - c / 4).cos() for c in range(channels)])[None]
    probs = []
    for bf16 in (True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            probs.append(network(pattern.contiguous(memory_format=torch.channels_last)).float().sigmoid())
    return bool((probs[0] - probs[1]).abs().max() < 0.1)  # NaN compares false


class CpuBf16Inferer(Inferer):
    """Base of the inferers: calls any 2D network, in bfloat16 on a CPU that can, and as the engine says elsewhere.

    MONAI's engines autocast on CUDA only.

    Args:
        bf16: autocast on the CPU; None asks the CPU, and `try_bf16` then tries it on a pattern once.
        divisor: X and Y are padded to a multiple of this for the call, and of more where the network needs it.
        padding: what with, as for torch's pad.
        one_logit: whether a network may give one logit for all of its input.
    """

    def __init__(
        self, bf16: bool | None = None, divisor: int = 1, padding: str = "constant", one_logit: bool = False
    ) -> None:
        self.bf16 = cpu_has_bf16() if bf16 is None else bf16
        self.untried = self.bf16 and bf16 is None
        self.divisor, self.padding, self.one_logit = divisor, padding, one_logit

    def try_bf16(self, network: Callable[..., torch.Tensor], channels: int, device: torch.device) -> None:
        """Before a network's first study on a CPU: go back to float32, with a warning, where bfloat16 goes wrong.

        Args:
            network: see `bf16_agrees`.
            channels: of its input.
            device: where it computes.
        """
        if not self.untried or device.type != "cpu":
            return
        self.untried, self.bf16 = False, bf16_agrees(lambda x: self._answer(x, network), channels)
        if not self.bf16:
            warnings.warn("bfloat16 gives another answer on this CPU: float32 is used, which takes longer")

    def _forward(
        self, x: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Float32 logits for ``[N, C, X, Y]``: ``[N, 1, X, Y]`` or, with ``one_logit``, ``[N, 1]``.

        Raises:
            StudyError: the network does not fit.
        """
        return self._answer(x, lambda padded: self._compute(padded, network, *args, **kwargs)).float()

    def _answer(self, x: torch.Tensor, network: Callable[[torch.Tensor], Any]) -> torch.Tensor:
        answer, self.divisor = answer_of(network, x, self.divisor, self.padding, self.one_logit)
        return answer

    def _compute(self, x: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        x = x.contiguous(memory_format=torch.channels_last)
        if x.device.type != "cpu":  # the engine's amp flag decides
            return network(x, *args, **kwargs)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return network(x, *args, **kwargs)
