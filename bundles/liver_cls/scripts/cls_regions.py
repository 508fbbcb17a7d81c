"""Where in a slice its tumour probability comes from."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.visualize import GradCAM
from scripts.cls_groups import slice_groups
from scripts.cls_inferer import SliceGroupInferer
from scripts.cls_slices import SmoothAlongZd


class TumourRegionsd(Transform):
    """Add ``regions`` [1, X, Y, Z], 0..1, on the network's grid with its affine.

    MONAI's GradCAM of every slice's logit, counted as far as the mask takes a pixel for liver and smoothed along z, as
    the score is, and brought to the slice's tumour probability at its highest.

    The logit is the largest of a lesion map, so that at the last layer before it GradCAM is that map above its bias.

    ``image`` [C, X, Y, Z], ``pred`` [Z] (probabilities), ``slice_z`` [Z] in mm and ``affine`` come from preprocessing
    and score.

    Args:
        network: with the weights that gave ``pred``; it is copied, as MONAI's hooks cannot be taken off again.
        inferer: the one that gave ``pred``.
        target_layer: module of ``network`` whose features are weighed, at the resolution of ``image``.
        smooth_mm: as for the score.
        lowest: slices of a lower tumour probability get no regions, which takes a forward pass each.
        batch_size: groups per pass.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        inferer: SliceGroupInferer,
        target_layer: str,
        smooth_mm: float,
        lowest: float = 0.1,
        batch_size: int = 16,
    ) -> None:
        self.network, self.inferer, self.target_layer = network, inferer, target_layer
        self.smooth, self.lowest, self.batch_size = SmoothAlongZd("regions", smooth_mm), lowest, batch_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``regions``."""
        image, probs = torch.as_tensor(data["image"]), torch.as_tensor(data["pred"]).flatten()
        regions = torch.zeros(image.shape[3], *image.shape[1:3])
        chosen = (probs >= self.lowest).nonzero().flatten()
        if len(chosen):
            maps = self._maps(image, chosen).flatten(1)
            maps = self.smooth({"regions": maps, "slice_z": torch.as_tensor(data["slice_z"])[chosen]})["regions"]
            maps = maps / maps.amax(1, keepdim=True).clamp(min=1e-12) * probs[chosen, None]
            regions[chosen] = maps.unflatten(1, regions.shape[1:]).as_subclass(torch.Tensor)
        return {**data, "regions": MetaTensor(regions.permute(1, 2, 0)[None], affine=data["affine"])}

    def _maps(self, image: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """GradCAM of the slices ``chosen`` [N] of ``[C, X, Y, Z]``, times the mask: ``[N, X, Y]`` >= 0."""
        slices = image.as_subclass(torch.Tensor).permute(3, 0, 1, 2).to(next(self.network.parameters()).device)
        maps = []
        for part in chosen.to(slices.device).split(self.batch_size):
            with torch.inference_mode(False), torch.enable_grad():
                groups = slice_groups(slices, part, self.inferer.gop).clone()
                cam = self.cam.compute_map(groups, class_idx=0).detach().float()[:, 0]
            maps.append(cam * slices[part, 1] if slices.shape[1] == 2 else cam)
        return torch.cat(maps).cpu()

    @cached_property
    def cam(self) -> GradCAM:
        """Of a copy of the network in which gradients go no further back than the target layer."""
        with torch.inference_mode(False):
            network = copy.deepcopy(self.network).requires_grad_(False)
        layer = network.get_submodule(self.target_layer)
        layer.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_())
        return GradCAM(SliceLogit(network, self.inferer), target_layers=f"network.{self.target_layer}")


class SliceLogit(torch.nn.Module):
    """A group's logit as a network's only class: ``[N, C * gop, X, Y]`` to ``[N, 1]``, as the inferer has it."""

    def __init__(self, network: torch.nn.Module, inferer: SliceGroupInferer) -> None:
        super().__init__()
        self.network, self.inferer = network, inferer

    def forward(self, groups: torch.Tensor) -> torch.Tensor:
        """Largest logit of each group's lesion map."""
        return self.inferer.judge(groups, self.network).flatten(1).amax(1, keepdim=True)
