"""Group-of-pictures inference: every axial slice is judged from itself and its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from scripts.cls_groups import slice_groups
from scripts.cls_precision import CpuBf16Inferer

FEW = 4  # slices, too few to stand for each other


class SliceGroupInferer(CpuBf16Inferer):
    """Judge every slice of a study by its group of pictures (GOP): its logit is the largest of a lesion map.

    Or the network's only one: the form of its answer decides.

    Where the mask is a channel, a pixel of the map counts as far as the mask takes it for liver.

    An Ensemble of two takes turns where ``mirrored`` asks for two answers: its first network sees the study as it is,
    its second the mirror image, so that two networks cost what one does. Elsewhere the mean of its answers counts.

    MONAI's SliceInferer feeds one slice at a time, and its engines autocast on CUDA only; here the neighbours come
    along, and a capable CPU computes in bfloat16. Differentiable.

    Args:
        gop: number of adjacent slices, odd; the network's input channels are ``C * gop``, channel by channel.
        batch_size: groups per network call; 32 no longer fit in a CPU's cache.
        bf16: autocast on the CPU; None asks the CPU, and tries it on a pattern before a network's first study.
        mirrored: average a study's logits with those of its mirror image, front to back, which training saw as often.
        alternate_mm: slices no further apart are judged in turn as they are and mirrored: half the work, where logits
            are averaged along the body afterwards. A MetaTensor's affine says how far that is; in plain tensors, and
            where a study has fewer than four slices, each is judged both ways. Which of two neighbours is mirrored
            depends on where the study begins.
    """

    def __init__(
        self,
        gop: int,
        batch_size: int = 16,
        bf16: bool | None = None,
        mirrored: bool = False,
        alternate_mm: float = 0.0,
    ) -> None:
        super().__init__(bf16, padding="replicate", one_logit=True)  # 0 is the liver's level, not air
        self.gop, self.batch_size, self.mirrored, self.alternate_mm = gop, batch_size, mirrored, alternate_mm

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Studies ``[B, C, X, Y, Z]`` to one logit per slice ``[B, Z]``, float32.

        Groups ``[B, C * gop, X, Y]``, as in training, become what the network gives: lesion maps ``[B, 1, X, Y]`` of
        logits, or one logit each, ``[B, 1]``.
        """
        if inputs.ndim == 4:
            return self._forward(as_plain(inputs), network, *args, **kwargs)
        answers = self.answers(inputs, network, *args, **kwargs)
        return answers.reshape(*answers.shape[:3], -1).amax(3).mean(2)

    def answers(self, x: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Studies ``[B, C, X, Y, Z]`` to what the network says of each slice and, with ``mirrored``, of its mirror
        image, turned back: lesion maps ``[B, Z, n, X, Y]`` of logits, or logits ``[B, Z, n]``, n being 1 or 2."""
        self.try_bf16(network, x.shape[1] * self.gop, x.device)
        in_turn = self._in_turn(x)
        return torch.stack([self._study(study, in_turn, network, *args, **kwargs) for study in as_plain(x)])

    def _in_turn(self, x: torch.Tensor) -> bool:
        """Whether slices lie so close that every second one is judged mirrored instead of each both ways."""
        if not self.mirrored or not isinstance(x, MetaTensor) or x.shape[-1] < FEW:
            return False
        return bool(x.affine.reshape(-1, 4, 4)[:, :3, 2].norm(dim=1).max() <= self.alternate_mm)

    def _study(
        self, study: torch.Tensor, in_turn: bool, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Answers ``[Z, n, X, Y]`` or ``[Z, n]`` of a study ``[C, X, Y, Z]``."""
        slices = study.permute(3, 0, 1, 2).contiguous()
        centres, step = torch.arange(len(slices), device=slices.device), 2 if in_turn else 1
        if not self.mirrored:
            return self._slices(slices, centres, network, *args, **kwargs)
        first, second = two_of(network)
        plain = self._slices(slices, centres[::step], first, *args, **kwargs)
        mirrored = self._slices(slices.flip(-1), centres[step - 1 :: step], second, *args, **kwargs).flip(-1)
        if not in_turn:
            return torch.cat([plain, mirrored], dim=1)
        answers = plain.new_empty(len(slices), *plain.shape[1:])
        answers[::2], answers[1::2] = plain, mirrored
        return answers

    def _slices(
        self,
        slices: torch.Tensor,
        centres: torch.Tensor,
        network: Callable[..., torch.Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Answers ``[N, 1, X, Y]`` or ``[N, 1]`` of the slices ``centres`` [N] of ``[Z, C, X, Y]``."""
        parts = centres.split(self.batch_size)
        return torch.cat([self.judge(slice_groups(slices, c, self.gop), network, *args, **kwargs) for c in parts])

    def judge(
        self, groups: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Groups ``[N, C * gop, X, Y]`` to lesion maps ``[N, 1, X, Y]``, whose largest logit is the group's, or to
        logits ``[N, 1]``."""
        lesions = self._forward(groups, network, *args, **kwargs)
        with_mask = groups.shape[1] == 2 * self.gop
        if with_mask and lesions.ndim == 4:  # what lies outside the liver is no tumour of the liver
            lesions = lesions + groups[:, self.gop + self.gop // 2, None].clamp(1e-3, 1).log()
        return lesions


class LesionMapInferer(Inferer):
    """What a SliceGroupInferer takes the largest logit of: the lesion maps themselves.

    Args:
        inferer: whose maps they are.
    """

    def __init__(self, inferer: SliceGroupInferer) -> None:
        self.inferer = inferer

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Studies ``[B, C, X, Y, Z]`` to ``[B, Z, n, X, Y]``, or ``[B, Z, n]`` of a network without maps; see
        SliceGroupInferer.answers."""
        return self.inferer.answers(inputs, network, *args, **kwargs)


def two_of(network: Callable[..., torch.Tensor]) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """The members of an Ensemble of two; any other network twice."""
    members = getattr(network, "members", ())
    return (members[0], members[1]) if len(members) == 2 else (network, network)


def as_plain(x: torch.Tensor) -> torch.Tensor:
    """Without MONAI's metadata, which costs time at every step."""
    return x.as_tensor() if isinstance(x, MetaTensor) else x
