"""Several networks that answer as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Ensemble(nn.Module):
    """The mean of several networks' answers; in training each learns from its own share of a batch, by itself.

    MONAI's EnsembleEvaluator runs whole networks one after the other and leaves the mean to a transform. One module has
    one file of weights, one training and one TorchScript, and the inferer may ask its members in turn.

    Args:
        members: networks that take and give the same.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, ...]`` to the mean of the members' answers.

        In training to the answers of each to its share, since members that learn as one err as one: of two, the first
        answers every second input, so that each sees all of a batch's studies.
        """
        count = len(self.members)
        shared = self.training and len(x) >= count
        answers: list[torch.Tensor] = []
        for place, member in enumerate(self.members):  # in a form that TorchScript takes
            answers.append(member(x[place::count] if shared else x))
        if not shared:
            return torch.stack(answers).mean(0)
        out = torch.empty_like(torch.cat(answers))
        for place, answer in enumerate(answers):
            out[place::count] = answer
        return out
