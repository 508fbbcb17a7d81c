"""Where in a slice its tumour probability comes from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.visualize import GradCAM
from scripts.cls_errors import StudyError
from scripts.cls_groups import slice_groups
from scripts.cls_inferer import SliceGroupInferer
from scripts.cls_slices import SmoothAlongZd


class TumourRegionsd(Transform):
    """Add ``regions`` [1, X, Y, Z], 0..1, on the network's grid with its affine.

    Where the network draws a lesion map, whose largest value is the score, the map itself tells: ``lesions``
    [Z, X, Y] of the score. MONAI's GradCAM of the network's last layer gives that map again, for another pass.

    Of a network that gives one logit alone: MONAI's GradCAM of every slice's logit, counted as far as the mask takes a
    pixel for liver and smoothed along z, as the score is. It is as coarse as the network's last feature maps.

    Either is brought to the slice's tumour probability at its highest.

    ``image`` [C, X, Y, Z], ``pred`` [Z] (probabilities), ``slice_z`` [Z] in mm and ``affine`` come from preprocessing
    and score.

    Args:
        network: with the weights that gave ``pred``; it is copied, as MONAI's hooks cannot be taken off again.
        inferer: the one that gave ``pred``.
        target_layer: module of ``network`` whose features are weighed; None takes the last one that gives maps.
        smooth_mm: as for the score.
        lowest: slices of a lower tumour probability get no regions.
        batch_size: groups per pass.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        inferer: SliceGroupInferer,
        target_layer: str | None,
        smooth_mm: float,
        lowest: float = 0.1,
        batch_size: int = 16,
    ) -> None:
        self.network, self.inferer, self.target_layer = network, inferer, target_layer
        self.smooth, self.lowest, self.batch_size = SmoothAlongZd("regions", smooth_mm), lowest, batch_size
        self.cam: GradCAM | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``regions``."""
        image, probs = torch.as_tensor(data["image"]), torch.as_tensor(data["pred"]).flatten()
        regions = torch.zeros(image.shape[3], *image.shape[1:3])
        chosen = (probs >= self.lowest).nonzero().flatten()
        if len(chosen):
            maps = torch.as_tensor(data["lesions"])[chosen] if "lesions" in data else self._smooth_maps(data, chosen)
            maps = maps.as_subclass(torch.Tensor).flatten(1)
            maps = maps / maps.amax(1, keepdim=True).clamp(min=1e-12) * probs[chosen, None]
            regions[chosen] = maps.unflatten(1, regions.shape[1:])
        return {**data, "regions": MetaTensor(regions.permute(1, 2, 0)[None], affine=data["affine"])}

    def _smooth_maps(self, data: Mapping[Hashable, Any], chosen: torch.Tensor) -> torch.Tensor:
        """GradCAM as `_maps` has it, averaged with that of the slices nearby."""
        maps = self._maps(torch.as_tensor(data["image"]), chosen)
        heights = torch.as_tensor(data["slice_z"])[chosen]
        smoothed: torch.Tensor = self.smooth({"regions": maps, "slice_z": heights})["regions"]
        return smoothed

    def _maps(self, image: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """GradCAM of the slices ``chosen`` [N] of ``[C, X, Y, Z]``, times the mask: ``[N, X, Y]`` >= 0."""
        slices = image.as_subclass(torch.Tensor).permute(3, 0, 1, 2).to(next(self.network.parameters()).device)
        maps = []
        for part in chosen.to(slices.device).split(self.batch_size):
            with torch.inference_mode(False), torch.enable_grad():
                groups = slice_groups(slices, part, self.inferer.gop).clone()
                cam = self.make_cam(groups).compute_map(groups, class_idx=0).detach().float()
            cam = self._to_input(cam, groups.shape[2:])[:, 0]
            maps.append(cam * slices[part, 1] if slices.shape[1] == 2 else cam)
        return torch.cat(maps).cpu()

    def make_cam(self, groups: torch.Tensor) -> GradCAM:
        """Of a copy of the network in which gradients go no further back than the target layer; made once."""
        if self.cam is None:
            with torch.inference_mode(False):
                network = copy.deepcopy(self.network).requires_grad_(False)
            name = self.target_layer or last_maps(network, self.inferer, groups[:1])
            layer = network.get_submodule(name)
            layer.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_())
            self.cam = GradCAM(SliceLogit(network, self.inferer), target_layers=f"network.{name}")
        return self.cam

    def _to_input(self, cam: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """``[N, 1, x, y]``, over the input as it was padded for the network, to ``[N, 1, X, Y]`` over the input."""
        padded = [n + -n % self.inferer.divisor for n in size]
        if list(cam.shape[2:]) != padded:
            cam = F.interpolate(cam, size=padded, mode="bilinear")
        return cam[..., : size[0], : size[1]]


def last_maps(network: torch.nn.Module, inferer: SliceGroupInferer, groups: torch.Tensor) -> str:
    """Name of the module that is the last to give several maps ``[N, C, x, y]``: what the answer is made of.

    Args:
        network: it is called once.
        inferer: which calls it.
        groups: ``[N, C * gop, X, Y]``.

    Raises:
        StudyError: the network has no such module.
    """
    found: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[1:]) > 1:
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    with torch.no_grad():
        inferer.judge(groups, network)
    for hook in hooks:
        hook.remove()
    if not found:
        raise StudyError("network_def: this network has no feature maps to show regions from. Leave out the report.")
    return found[-1]


class SliceLogit(torch.nn.Module):
    """A group's logit as a network's only class: ``[N, C * gop, X, Y]`` to ``[N, 1]``, as the inferer has it."""

    def __init__(self, network: torch.nn.Module, inferer: SliceGroupInferer) -> None:
        super().__init__()
        self.network, self.inferer = network, inferer

    def forward(self, groups: torch.Tensor) -> torch.Tensor:
        """Largest logit of each group's lesion map, or its only one."""
        return self.inferer.judge(groups, self.network).flatten(1).amax(1, keepdim=True)
