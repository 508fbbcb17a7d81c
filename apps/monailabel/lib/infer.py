"""What a viewer can ask for: the liver's mask or Prob-Mask, the tumour classification, and both stages as one."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.transform.writer import write_itk
from monailabel.utils.others.generic import device_list, name_to_device

from lib.chain import Bundle, Chain
from lib.uncertainty import mean_entropy
from liver_ct.chain.stages import save_masks
from liver_ct.errors import StudyError
from liver_ct.outputs.names import LIVER_MASK, PROB_MASK
from liver_ct.outputs.results import Item, volume_ml

Answer = tuple[str | None, dict[str, Any]]
LIVER = {"liver": 1}
BANDS = {"liver 10 to 50 %": 1, "liver 50 to 90 %": 2, "liver over 90 %": 3}
BAND_EDGES = (0.1, 0.5, 0.9)
RESULTS = ("mask", "prob_mask", "bands")


class ChainTask(InferTask):
    """A question to the chain: checks the request, times the answer.

    Args:
        chain: both bundles.
        bundle: whose version and weights `/info` and `/model` tell.
        kind: as viewers sort models; they offer those of type segmentation.
        labels: names and values in the mask.
        description: for the viewer's list.
    """

    def __init__(self, chain: Chain, bundle: Bundle, kind: InferType, labels: dict, description: str) -> None:
        super().__init__(kind, labels, 3, description, {"device": device_list()})
        self.chain, self.bundle = chain, bundle

    def info(self) -> dict[str, Any]:
        """As MONAI Label's own, with the bundle's version."""
        return {**super().info(), "version": self.bundle.metadata["version"]}

    def is_valid(self) -> bool:
        """Whether there are weights."""
        return self.bundle.newest.is_file()

    def get_path(self, validate: bool = True) -> str:
        """The weights in use, or where new ones go."""
        return str(self.bundle.newest if validate else self.bundle.weights[-1])

    def __call__(self, request: dict[str, Any]) -> Answer:
        """Answer a request.

        Returns:
            a file that MONAI Label sends and removes, or None, and what goes into ``params``.

        Raises:
            StudyError: of the app or of a bundle, for a request or a study that cannot be used.
        """
        start = time.perf_counter()
        file, params = self.answer(request, name_to_device(request.get("device")))
        about = {"label_names": self.labels, "weights": self.bundle.newest.name}
        return file, {**about, **params, "latencies": {"total": round(time.perf_counter() - start, 2)}}

    def answer(self, request: dict[str, Any], device: str) -> Answer:
        """File and params."""
        raise NotImplementedError


class Segmentation(ChainTask):
    """Stage 1. ``request["result"]`` is ``mask``, ``prob_mask`` or ``bands``: the Prob-Mask as viewers can show it, in
    the ranges BANDS of probability, since they take the values of a result for labels.

    Args:
        result: when the request does not say.
    """

    def __init__(self, chain: Chain, description: str, result: str = "mask") -> None:
        labels = BANDS if result == "bands" else LIVER
        super().__init__(chain, chain.seg, InferType.SEGMENTATION, labels, description)
        self.result = result

    def answer(self, request: dict[str, Any], device: str) -> Answer:
        """The file asked for, with volume and uncertainty as params."""
        result = request.get("result", self.result)
        if result not in RESULTS:
            raise StudyError(f"{result}: no such result. Use {', '.join(RESULTS)}.")
        masks = self.chain.segment(request["image"], device)
        params = {
            "result": result,
            "label_names": {"mask": LIVER, "prob_mask": {}, "bands": BANDS}[result],
            "liver_volume_ml": volume_ml(masks["pred"].numpy(), masks["pred"].affine.numpy()),
            "uncertainty": round(mean_entropy(masks["prob"]), 6),
            "notes": masks["notes"],
            **self.findings(masks, device),
        }
        return write_result(masks, result, request, self.chain), params

    def findings(self, masks: Item, device: str) -> Item:
        """What else is found."""
        return {}


class TwoStage(Segmentation):
    """Both stages: stage 1's file, with stage 2's findings among the params."""

    def findings(self, masks: Item, device: str) -> Item:
        """Tumour probability of the slices, and the highest of them."""
        return self.chain.classify(masks, device)


class Classification(ChainTask):
    """Stage 2, within the mask sent along as ``label``, else through stage 1's Prob-Mask. Answers with params only."""

    def __init__(self, chain: Chain, description: str) -> None:
        super().__init__(chain, chain.cls, InferType.CLASSIFICATION, {"tumour": 0}, description)

    def answer(self, request: dict[str, Any], device: str) -> Answer:
        """MONAI Label's ``prediction``, and the findings slice by slice."""
        image, label = request["image"], request.get("label")
        if label:
            found = self.chain.classify_in(image, label, device)
        else:
            masks = self.chain.segment(image, device)
            found = {**self.chain.classify(masks, device), "notes": masks["notes"]}
        score = {"idx": 0, "label": "tumour", "score": found["study_tumour_probability"]}
        return None, {"prediction": [score], "mask_source": "label" if label else "prob_mask", **found}


def write_result(masks: Item, result: str, request: dict[str, Any], chain: Chain) -> str:
    """Write ``prob_mask`` (uint8: NIfTI with slope 1/255, any other format 0 to 255), ``mask`` or ``bands`` on the CT's
    grid, as ``request["result_extension"]`` wants it (Slicer and OHIF: .nrrd); returns the file."""
    extension = request.get("result_extension") or ".nii.gz"
    # not where clients put theirs under the same name: MONAI Label removes this file once it is sent
    folder = Path(chain.outbox.name, uuid.uuid4().hex)
    file = f"{folder}{extension}"
    if extension == ".nii.gz" and result != "bands":  # MONAI Label's writer knows no slope, and deflates slowly
        save_masks(masks, folder, chain.seg.root)
        shutil.move(folder / (PROB_MASK if result == "prob_mask" else LIVER_MASK), file)
        shutil.rmtree(folder)
        return file
    volume = masks["pred" if result == "mask" else "prob"][0]
    values = volume.numpy()
    if result == "prob_mask":
        values = np.rint(values * 255)
    elif result == "bands":
        values = sum((values > edge).astype(np.uint8) for edge in BAND_EDGES)
    write_itk(values, file, volume.affine.numpy(), np.uint8, request.get("result_compress", False))
    return file
