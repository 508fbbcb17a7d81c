"""The two bundles as a server holds them: loaded at the first request, and again when there are newer weights."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import torch

from liver_ct.chain.devices import pick_device
from liver_ct.chain.notes import all_notes, notes_on_mask
from liver_ct.chain.stages import SMALLEST_ML, Stage
from liver_ct.errors import StudyError, causes_of, find_study_error
from liver_ct.files import read_json
from liver_ct.outputs.results import Item, slice_rows, summarise


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
            self.metadata = read_json(root / "configs" / "metadata.json")
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
        self.outbox = tempfile.TemporaryDirectory(prefix="liver-ct-")  # for files that MONAI Label sends and removes
        self.lock = threading.RLock()
        self.stages: dict[tuple, tuple[str, Stage]] = {}

    def stage(self, bundle: Bundle, device: str, **knobs: Any) -> Stage:
        """The bundle on a device, with the newest weights."""
        key = (bundle.root, device, *knobs.items())
        with self.lock:
            stamp = bundle.stamp
            if key not in self.stages or self.stages[key][0] != stamp:
                stage = Stage(bundle.root, pick_device(device), ckpt_path=str(bundle.newest), **knobs)
                self.stages[key] = stamp, stage
            return self.stages[key][1]

    def segmenter(self, device: str) -> Stage:
        """Stage 1."""
        return self.stage(self.seg, device, smallest_ml=SMALLEST_ML)

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
        """``image``, ``prob`` and ``pred`` on the CT's grid, each ``[1, X, Y, Z]``, and ``notes``, sentences.

        Raises the bundle's StudyError.
        """
        with self.lock:
            ct, item = self.logits(image, device)
            stage = self.segmenter(device)
            masks = stage["restore"](item)
            notes = [note.text for note in all_notes(stage, ct, item, masks)]
            return {**masks, "image": ct, "notes": notes}

    @torch.inference_mode()
    def classify(self, masks: Item, device: str) -> Item:
        """The classifier's answer through the Prob-Mask of ``masks``."""
        with self.lock:
            stage = self.stage(self.cls, device)
            found = stage["transform"]({"image": masks["image"], "prob": masks["prob"]})
            return findings(stage["score"](stage.infer(found)), masks["pred"], stage["threshold"])

    @torch.inference_mode()
    def classify_in(self, image: str, label: str, device: str) -> Item:
        """The classifier's answer within a mask made by hand, a file on the CT's grid, above 0 in the liver, and
        ``notes``, sentences."""
        with self.lock:
            stage = self.stage(self.cls, device, mask_source="manual")
            item = stage["load"]({"image": self.source(image), "label": label})
            ct, mask = item["image"], item["label"] > 0
            found = findings(stage["score"](stage.infer(stage["transform"](item))), mask, stage["threshold"])
            return {**found, "notes": [note.text for note in notes_on_mask(ct, mask)]}


def findings(scores: Item, mask: torch.Tensor, threshold: float) -> Item:
    """The highest tumour probability, those of all slices from foot to head, and which are flagged.

    Args:
        scores: the classifier's.
        mask: of the liver, ``[1, X, Y, Z]``, on the CT's grid.
        threshold: tumour probability from which a slice is flagged.
    """
    liver, affine = mask[0].numpy(), mask.affine.numpy()
    rows = slice_rows(liver, affine, scores)
    figures = summarise(rows, liver, affine, float(scores["study_probability"]), threshold)
    considered = [row for row in rows if row.tumour_probability is not None]
    return {
        "study_tumour_probability": figures.study_tumour_probability,
        "flag_threshold": threshold,
        "flagged_slices": list(figures.flagged_slices),
        "slices": [
            {"slice": row.slice, "z_mm": round(row.z_mm, 3), "tumour_probability": round(row.tumour_probability, 6)}
            for row in sorted(considered, key=lambda row: row.z_mm)
        ],
    }


def describe_request(error: BaseException, image: str) -> tuple[bool, str]:
    """Whether the request is to blame, and what is wrong with it in one line."""
    own, last = find_study_error(error), list(causes_of(error))[-1]
    line = f"{image}: {type(last).__name__}: {str(last)[:200]}. This is unexpected; the server's log says more."
    return own is not None, " ".join(str(own or line).split())
