"""Active learning: the study whose Prob-Mask is least certain comes next."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.others.generic import name_to_device

from lib.chain import Chain, describe_request
from liver_ct.files import read_json, written_whole

logger = logging.getLogger(__name__)
POSSIBLE = 0.05  # from this probability on a voxel counts as possible liver
Scores = dict[str, dict[str, Any]]


def mean_entropy(prob: torch.Tensor) -> float:
    """Mean over all voxels with p >= 0.05 of the entropy in bits, -p log2 p - (1 - p) log2 (1 - p): 0 where the
    network is sure of every voxel, 1 where it knows nothing; 1 also where nothing is liver."""
    p = prob.numpy()[prob.numpy() >= POSSIBLE].clip(max=1 - 1e-7)
    return float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p), dtype=np.float64)) if p.size else 1.0


class ScoreFile:
    """The uncertainty of studies by image id, each with the weights it was found with, in a file.

    MONAI Label scores in a process of its own, and its datastore's file, where scores usually go, is written whole by
    each process: a label saved meanwhile could be forgotten.
    """

    def __init__(self, folder: Path, studies: str) -> None:
        name = hashlib.sha256(studies.encode()).hexdigest()[:12]
        self.path = folder / f"uncertainty-{name}.json"

    def read(self) -> Scores:
        """All scores so far."""
        try:
            return read_json(self.path)
        except (OSError, ValueError):
            return {}

    def add(self, image_id: str, score: dict[str, Any]) -> None:
        """Add a score, through a temporary name."""
        scores = json.dumps({**self.read(), image_id: score})
        with written_whole(self.path, shared=True) as part:
            part.write_text(scores)


def unlabelled(datastore: Datastore) -> list[str]:
    """Studies without a submitted label, sorted; a DICOMweb datastore takes two hours to notice one by itself."""
    images = datastore.get_unlabeled_images()
    return sorted(i for i in images if DefaultLabelTag.FINAL not in datastore.get_labels_by_image_id(i))


class UncertaintyScoring(ScoringMethod):
    """Find the uncertainty of every unlabelled study that the newest weights have not seen yet."""

    def __init__(self, chain: Chain, scores: ScoreFile) -> None:
        super().__init__("Mean entropy of the Prob-Mask where liver is possible, in bits")
        self.chain, self.scores = chain, scores

    def waiting(self, datastore: Datastore) -> list[str]:
        """Unlabelled studies without a score by the newest weights, sorted."""
        known, stamp = self.scores.read(), self.chain.seg.stamp
        return [i for i in unlabelled(datastore) if known.get(i, {}).get("weights") != stamp]

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        device, stamp, start = name_to_device(request.get("device")), self.chain.seg.stamp, time.time()
        waiting = self.waiting(datastore)
        for image_id in waiting:
            found: dict[str, Any] = {"uncertainty": None}
            try:
                found = {"uncertainty": self.uncertainty(datastore.get_image_uri(image_id), device)}
            except Exception as e:  # a study that cannot be read is never proposed, and stops no other
                found["error"] = describe_request(e, image_id)[1]
                logger.error(f"ERROR {found['error']}")
            self.scores.add(image_id, {**found, "weights": stamp})
        return {"executed": len(waiting), "seconds": round(time.time() - start, 1)}

    def uncertainty(self, image: str, device: str) -> float:
        """Mean entropy of a study; 1 where stage 1 runs but finds no liver."""
        _, item = self.chain.logits(image, device)
        try:
            with torch.inference_mode():
                prob = self.chain.segmenter(device)["restore"](item)["prob"]
        except Exception as e:
            if not describe_request(e, image)[0]:
                raise
            return 1.0
        return mean_entropy(prob)


class LeastCertain(Strategy):
    """Propose the unlabelled study of the highest mean entropy, the same until it is labelled; it only looks scores up.

    Studies without a score come after all others, by name; those that cannot be read last.
    """

    def __init__(self, scores: ScoreFile) -> None:
        super().__init__("The study whose Prob-Mask is least certain")
        self.scores = scores

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        known = self.scores.read()
        candidates = unlabelled(datastore)
        if not candidates:
            return None
        best = max(candidates, key=lambda i: rank(known.get(i)))
        return {"id": best, "uncertainty": known.get(best, {}).get("uncertainty")}


def rank(score: dict[str, Any] | None) -> float:
    """Order of a study: its uncertainty; -1 without a score; -2 when it cannot be read."""
    if score is None:
        return -1.0
    return -2.0 if score["uncertainty"] is None else score["uncertainty"]
