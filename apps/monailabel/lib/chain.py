"""The two bundles, reached through the ids of their inference configs only, with the newest weights."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

Item = dict[str, Any]


class StudyError(ValueError):
    """A request that cannot be answered; the message is ``<file>: <cause>. <fix>``."""


class Bundle:
    """A bundle's folder and its weights: those of the bundle, or the server's own once there are any.

    Args:
        root: the bundle's folder.
        trained: where training and uploads leave weights.

    Raises:
        StudyError: no bundle there.
    """

    def __init__(self, root: Path, trained: Path) -> None:
        self.root = root
        self.weights = [root / "models" / "model.pt", trained]
        try:
            self.metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
        except OSError as e:
            raise StudyError(f"{root}: no bundle here ({e.strerror}). Copy or link it there.") from e

    @property
    def newest(self) -> Path:
        """The weights in use."""
        return next((file for file in reversed(self.weights) if file.is_file()), self.weights[0])

    @property
    def stamp(self) -> str:
        """Changes when the weights in use do."""
        file = self.newest
        return f"{file.name} {file.stat().st_mtime_ns if file.exists() else 0}"


class Stage:
    """What a request needs of a bundle, made from its config once, with weights on a device.

    Args:
        bundle: where config and weights are.
        device: where the network runs.
        knobs: values that replace those of the config.

    Raises:
        StudyError: weights that are missing, damaged or of another network.
    """

    def __init__(self, bundle: Bundle, device: str, **knobs: Any) -> None:
        if str(bundle.root) not in sys.path:
            sys.path.append(str(bundle.root))
        self.device, self.stamp, weights = torch.device(device), bundle.stamp, bundle.newest
        self.parser = ConfigParser()
        self.parser.read_config(str(bundle.root / "configs" / "inference.json"))
        self.parser.read_meta(str(bundle.root / "configs" / "metadata.json"))
        self.parser.update({"bundle_root": str(bundle.root), "device": self.device, **knobs})
        self.network = self["network"]
        try:
            state = torch.load(weights, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state.get("model", state))
        except Exception as e:
            raise StudyError(f"{weights}: missing, damaged or of another network. Fetch or train them again.") from e
        self.network.eval()

    def __getitem__(self, config_id: str) -> Any:
        return self.parser.get_parsed_content(config_id)

    def infer(self, item: Item) -> Item:
        """Add the network's logits for ``item["image"]`` as ``item["pred"]``, both without the batch dimension."""
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):  # as the bundles' evaluators do
            logits = self["inferer"](item["image"][None].to(self.device), self.network)
        return {**item, "pred": logits[0].float().cpu()}


class Chain:
    """Both bundles, loaded at the first request and again when their weights change; one request at a time.

    MONAI Label's BundleInferTask imports the bundles' shared package `scripts` anew for every request, builds the
    network from `network_def` alone (without the bundle's float32 input block), and writes no key but `pred`.

    Args:
        seg: stage 1.
        cls: stage 2.
        dicomweb: whether the studies come from a DICOMweb server.
    """

    def __init__(self, seg: Bundle, cls: Bundle, dicomweb: bool) -> None:
        self.seg, self.cls, self.dicomweb = seg, cls, dicomweb
        self.outbox = tempfile.TemporaryDirectory(prefix="liver-ct-")  # for what the segmenter's `save` writes
        self.lock = threading.RLock()
        self.stages: dict[tuple, Stage] = {}

    def stage(self, bundle: Bundle, device: str, **knobs: Any) -> Stage:
        """The bundle on a device, with the newest weights."""
        key = (bundle.root, device, *knobs.items())
        with self.lock:
            if key not in self.stages or self.stages[key].stamp != bundle.stamp:
                self.stages[key] = Stage(bundle, device, **knobs)
            return self.stages[key]

    def segmenter(self, device: str) -> Stage:
        """Stage 1."""
        return self.stage(self.seg, device, output_dir=self.outbox.name)

    def source(self, image: str) -> str:
        """A file, or the DICOM series that MONAI Label made it from, which the bundle checks slice by slice."""
        series = Path(image.removesuffix(".nii.gz"))
        return str(series) if self.dicomweb and image.endswith(".nii.gz") and series.is_dir() else image

    @torch.inference_mode()
    def logits(self, image: str, device: str) -> tuple[torch.Tensor, Item]:
        """The CT ``[1, X, Y, Z]`` and what stage 1 makes of it on its working grid."""
        with self.lock:
            stage = self.segmenter(device)
            ct = stage["load"]({"image": self.source(image)})["image"]
            return ct, stage.infer(stage["transform"]({"image": ct}))

    @torch.inference_mode()
    def segment(self, image: str, device: str) -> Item:
        """``image``, ``prob`` and ``pred`` on the CT's grid, each ``[1, X, Y, Z]``; raises the bundle's StudyError."""
        with self.lock:
            ct, item = self.logits(image, device)
            return {**self.segmenter(device)["restore"](item), "image": ct}

    @torch.inference_mode()
    def classify(self, masks: Item, device: str) -> Item:
        """The classifier's answer through the Prob-Mask of ``masks``."""
        with self.lock:
            stage = self.stage(self.cls, device)
            found = stage["transform"]({"image": masks["image"], "prob": masks["prob"]})
            return findings(stage["score"](stage.infer(found)), stage["threshold"])

    @torch.inference_mode()
    def classify_in(self, image: str, label: str, device: str) -> Item:
        """The classifier's answer within a mask made by hand, a file on the CT's grid, above 0 in the liver."""
        with self.lock:
            stage = self.stage(self.cls, device, mask_source="manual")
            item = stage["load"]({"image": self.source(image), "label": label})
            return findings(stage["score"](stage.infer(stage["transform"](item))), stage["threshold"])


def findings(scores: Item, threshold: float) -> Item:
    """The study's tumour probability, those of its slices from foot to head, and which are flagged."""
    columns = (scores[key].flatten().tolist() for key in ("slices", "slice_z", "pred"))
    rows = [{"slice": i, "z_mm": round(z, 3), "tumour_probability": round(p, 6)} for i, z, p in zip(*columns)]
    return {
        "study_tumour_probability": round(float(scores["study_probability"]), 6),
        "flag_threshold": threshold,
        "flagged_slices": sorted(row["slice"] for row in rows if row["tumour_probability"] >= threshold),
        "slices": rows,
    }


def describe(error: BaseException, image: str) -> tuple[bool, str]:
    """Whether the request is to blame, and what is wrong with it in one line; MONAI wraps what transforms raise."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ == "StudyError":  # each bundle has a class of its own
            return True, " ".join(str(cause).split())
        last, cause = cause, cause.__cause__
    line = f"{image}: {type(last).__name__}: {str(last)[:200]}. This is unexpected; the server's log says more."
    return False, " ".join(line.split())
