"""Both stages trained as one, from the tumour loss back through the Prob-Mask: what ``end_to_end.json`` refers to.

python -m monai.bundle run --config_file "['bundles/liver_cls/configs/train.json','scripts/end_to_end.json']" \
    --bundle_root bundles/liver_cls --datalist_file DATALIST --ckpt_dir RUNS
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Compose
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.loss import _Loss

from liver_ct.chain.stages import Stage, load_weights
from liver_ct.files import PACKAGE, read_json, sha256, shipped, write_json
from liver_ct.training.datalists import Entry
from liver_ct.training.running import run_bundle, save_weights

OVERLAY = shipped("scripts/end_to_end.json")
Item = dict[str, Any]


def first_stage(bundle: str, device: torch.device, weights: str, knobs: str | None = None) -> Stage:
    """Stage 1 with weights other than its bundle's.

    Args:
        bundle: its folder.
        device: where its network runs.
        weights: state dict.
        knobs: JSON file of what else of its inference.json the weights were made with; a file, since MONAI would make
            what it finds within its own config.

    Raises:
        StudyError: a config or weights that cannot be used.
    """
    return Stage(bundle, device, **{"ckpt_path": weights, **(read_json(Path(knobs)) if knobs else {})})


def checksum(weights: str) -> str:
    """By what a training knows the weights it was begun with, wherever they lie; "" where there are none."""
    return sha256(Path(weights)) if Path(weights).is_file() else ""


class TwoStages(nn.Module):
    """The networks of both stages, ``seg`` and ``cls``, with their trained weights.

    Batch norm keeps its trained statistics: a batch is one study here, which is no fair sample of people.

    Args:
        seg: stage 1's network, with weights.
        cls: stage 2's network.
        cls_ckpt: weights of ``cls``.
        device: where they are loaded to.
        frozen: train ``cls`` alone; the control of what the segmenter's part is worth.

    Raises:
        StudyError: weights that are missing, damaged or of another network.
    """

    def __init__(
        self, seg: nn.Module, cls: nn.Module, cls_ckpt: str, device: torch.device, frozen: bool = False
    ) -> None:
        super().__init__()
        seg.requires_grad_(not frozen)
        self.seg, self.cls = seg, load_weights(cls, Path(cls_ckpt), device)

    def forward(self, groups: torch.Tensor) -> torch.Tensor:
        """Stage 2's answer to groups ``[N, C * gop, X, Y]``."""
        answer: torch.Tensor = self.cls(groups)
        return answer

    def train(self, mode: bool = True) -> TwoStages:
        """As of any module, except that batch norm stays as in evaluation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


class TwoStageInferer(Inferer):
    """Segment a study, and judge groups of its slices through the Prob-Mask, with the gradient kept throughout.

    MONAI's inferers run one network on one tensor; here a mask goes back to the CT's grid and on to another network.

    Args:
        first_stage: stage 1, by the ids of its bundle.
        transform: stage 2's deterministic transforms, from ``image``, ``label`` and ``prob`` on the CT's grid.
        random_transform: stage 2's random ones, which draw groups of slices.
        inferer: stage 2's inferer.
    """

    def __init__(self, first_stage: Stage, transform: Compose, random_transform: Compose, inferer: Inferer) -> None:
        self.first_stage, self.transform, self.random_transform = first_stage, transform, random_transform
        self.inferer = inferer

    def __call__(self, inputs: Item, network: TwoStages, *_: Any, **__: Any) -> dict[str, torch.Tensor]:  # type: ignore[override] # a study, not a tensor
        """A study's ``image`` and ``label`` [1, X, Y, Z] to ``lesions`` [N, 1, X', Y'] and ``tumour`` [N, 2, X', Y'],
        logits and target of the drawn groups, and ``prob`` and ``liver`` [1, X', Y', Z'], the Prob-Mask and its
        target."""
        device = next(network.parameters()).device
        item = self.first_stage["transform"]({"image": inputs["image"]})
        logits = self.first_stage["inferer"](item["image"][None].to(device), network.seg)[0].cpu()
        study = self.transform({**inputs, "prob": self._restore(logits, item["image"])})
        groups = self.random_transform(study)
        images, tumour = (torch.stack([torch.as_tensor(g[k]) for g in groups]) for k in ("image", "label"))
        lesions = self.inferer(images.to(device), network.cls)
        masks = {"prob": study["mask"].to(device), "liver": study["liver"].to(device)}
        return {"lesions": lesions, "tumour": tumour.to(device), **masks}

    def _restore(self, logits: torch.Tensor, image: MetaTensor) -> MetaTensor:
        """Logits on the grid of ``image`` to the Prob-Mask on the CT's, as the bundle's ``restore``, whose Invertd cuts
        the gradient."""
        prob = torch.sigmoid(logits / self.first_stage["temperature"])
        prob = MetaTensor(prob, meta=image.meta, applied_operations=image.applied_operations)
        restored: MetaTensor = self.first_stage["transform"].inverse({"image": prob})["image"]
        return restored


class AnchoredLoss(_Loss):
    """Stage 2's loss, plus BCE of the Prob-Mask against the liver, so that the mask remains one.

    Args:
        tumour: loss of lesion maps.
        anchor_weight: weight of the BCE.
    """

    def __init__(self, tumour: Callable[..., torch.Tensor], anchor_weight: float) -> None:
        super().__init__()
        self.tumour, self.anchor_weight = tumour, anchor_weight

    def forward(self, input: Mapping[str, torch.Tensor], target: None = None) -> torch.Tensor:  # noqa: ARG002 (MONAI gives it)
        """Output of TwoStageInferer, which holds its targets, to a scalar."""
        prob = input["prob"].float().clamp(1e-4, 1 - 1e-4)
        anchor = F.binary_cross_entropy(prob, input["liver"].float())
        return self.tumour(input["lesions"], input["tumour"]) + self.anchor_weight * anchor


def train(
    bundles: tuple[Path, Path],
    weights: tuple[Path, Path],
    work: Path,
    cases: Sequence[Entry],
    knobs: Mapping[str, Any],
    seg_knobs: Mapping[str, Any],
) -> None:
    """Fine-tune both stages to ``work/seg.pt`` and ``work/model.pt`` (stage 2's); nothing to do when they are there.

    Args:
        bundles: of stage 1 and stage 2.
        weights: of stage 1 and stage 2, where it starts.
        work: gets ``runs/`` with the checkpoints from which a killed training goes on, too.
        cases: training cases with ``image`` and ``label``.
        knobs: of stage 2's train.json and of ``end_to_end.json``.
        seg_knobs: of stage 1's inference.json, that its weights were made with.
    """
    if (work / "model.pt").exists():
        return
    seg, cls = bundles
    write_json(work / "datalist.json", {"training": list(cases)})
    write_json(work / "seg_knobs.json", dict(seg_knobs))
    run_bundle(cls, config_file=[str(cls / "configs" / "train.json"), str(OVERLAY)], package_dir=PACKAGE.parent,
               seg_bundle=seg, seg_ckpt=weights[0], ckpt_path=weights[1], datalist_file=work / "datalist.json",
               seg_knobs=work / "seg_knobs.json", ckpt_dir=work / "runs", **knobs)  # fmt: skip
    split_weights(work / "runs" / "model_final.pt", work / "seg.pt", work / "model.pt")


def split_weights(checkpoint: Path, seg: Path, cls: Path) -> None:
    """Write the two networks of a TwoStages checkpoint as the state dicts that the bundles load."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, path in (("seg", seg), ("cls", cls)):
        own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        save_weights(own, path)
