"""MONAI Label app of the two-stage pipeline: the liver's mask and Prob-Mask, tumour probabilities, active learning.

monailabel start_server --app apps/monailabel --studies FOLDER --host 127.0.0.1
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import requests
import torch
from fastapi import HTTPException
from filelock import FileLock
from lib.chain import Bundle, Chain, describe_request
from lib.guard import protect, token
from lib.infer import Classification, Segmentation, TwoStage
from lib.names import check_name
from lib.studies import Studies
from lib.train import SegmentationTraining
from lib.uncertainty import LeastCertain, ScoreFile, UncertaintyScoring
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelException
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from liver_ct.errors import StudyError

logger = logging.getLogger(__name__)
SEG, CLS = "liver_ct_segmentation", "liver_tumor_ct_classification"  # the bundles' names in the Model Zoo
FOLDERS = {SEG: "liver_seg", CLS: "liver_cls"}  # and in this repository


class LiverApp(MONAILabelApp):
    """The app as MONAI Label finds it: takes no option, reaches no network.

    Args:
        app_dir: this folder, or a copy of it with the bundles in ``model/`` under their zoo names.
        studies: a folder of CTs, or the address of a DICOMweb server.
        conf: options of the command line; none is needed.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.model_dir = Path(app_dir, "model")
        places = {name: find_bundle(Path(app_dir), name) for name in FOLDERS}
        seg, cls = (Bundle(places[name], self.model_dir / f"{name}.pt") for name in (SEG, CLS))
        self.chain = Chain(seg, cls, dicomweb=studies.startswith("http"))
        self.scores = ScoreFile(self.model_dir, studies)
        about = "Liver in CT, how sure of it the network is, and in which slices a tumour is likely. Not for diagnosis."
        version = seg.metadata["version"]
        super().__init__(app_dir, studies, conf, "Liver CT in two stages", about, version, labels=["liver"])

    def init_infers(self) -> dict[str, Any]:
        return {
            SEG: Segmentation(self.chain, "The liver; result=prob_mask gives the Prob-Mask as file instead"),
            "liver_ct_prob_mask": Segmentation(self.chain, "The Prob-Mask in three ranges, to look at", "bands"),
            "liver_ct_two_stage": TwoStage(self.chain, "The liver, and tumour probabilities among the params"),
            CLS: Classification(self.chain, "Tumour probabilities of the study and its slices"),
        }

    def init_trainers(self) -> dict[str, Any]:
        return {SEG: SegmentationTraining(self.chain.seg, self.model_dir / "runs")}

    def init_strategies(self) -> dict[str, Any]:
        return {"least_certain": LeastCertain(self.scores), "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, Any]:
        return {"uncertainty": UncertaintyScoring(self.chain, self.scores)}

    def on_init_complete(self) -> None:
        """What a server calls as it starts, before the first request."""
        from monailabel.app import app  # there in a server only, which has made it by now

        protect(app)
        super().on_init_complete()

    def init_datastore(self) -> Any:
        """As MONAI Label, but a folder of studies is all that the server reaches."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        extensions, reload = settings.MONAI_LABEL_DATASTORE_FILE_EXT, settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD
        read_only = settings.MONAI_LABEL_DATASTORE_READ_ONLY
        return Studies(self.studies, extensions=extensions, auto_reload=reload, read_only=read_only)

    def check_weights(self, model: str, delete: bool) -> None:
        """Weights are replaced for the models there are, and only those that a training or an upload left are deleted.

        Raises:
            HTTPException: 404, for other models, and where the bundle's own weights would be deleted.
        """
        task = self._infers.get(model)
        if task is None or (delete and not task.bundle.weights[-1].is_file()):
            raise HTTPException(404, f"{model}: no such model with weights of its own. /info lists the models.")

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """As MONAI Label, but what goes wrong reaches the client as one line, not as "Internal Server Error"."""
        path = image = str(request.get("image"))
        try:
            for name in filter(None, (image, request.get("label"))):  # MONAI Label would take such a file for the study
                if os.path.exists(name) and not os.path.isabs(name):
                    raise StudyError(f"{name}: a file where the server was started has this name. Start it elsewhere.")
            if not os.path.exists(image):
                path = (datastore or self.datastore()).get_image_uri(image)
            if not path:
                raise StudyError(f"{image}: no such image among the studies. Choose one of those that are listed.")
            return super().infer(request, datastore)
        except MONAILabelException as e:
            raise HTTPException(404, e.msg) from e
        except Exception as e:
            its_fault, line = describe_request(e, image)
            logger.error(f"ERROR {line}", exc_info=not its_fault)
            for place in filter(None, (path, self.chain.source(path or ""))):
                line = line.replace(place, image)
            raise HTTPException(400 if its_fault else 500, line) from e

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """As MONAI Label, which divides by the number of GPUs, and stops at a bad study unless two are worked at."""
        defaults = {"multi_gpu": torch.cuda.device_count() > 1, "max_workers": 2}
        return super().batch_infer({**defaults, **request}, datastore)

    def async_scoring(self, method: str | None, params: dict | None = None) -> dict[str, Any]:
        """As MONAI Label, which asks after every sample, but no process is started for nothing."""
        waiting = self._scoring_methods["uncertainty"].waiting(self.datastore())
        return super().async_scoring(method, params) if method or waiting else {}

    def _local_request(self, url: str, params: dict | None, action: str) -> Any:
        """As MONAI Label, which asks itself for a scoring after a training, but with the token; a server that speaks
        HTTPS does not hear it, and scores at the next sample."""
        address = f"http://127.0.0.1:{settings.MONAI_LABEL_SERVER_PORT}{url}"
        headers = {"Authorization": f"Bearer {token()}"}
        try:
            answer = requests.post(address, json=params or {}, headers=headers, timeout=60)
            answer.raise_for_status()
            return answer.json()
        except requests.RequestException as e:
            logger.warning(f"{action} was not started: {e}")
            return None

    def _init_dicomweb_datastore(self) -> Any:
        """As MONAI Label, but server and scoring do not fetch a series at the same time (one would read half of it),
        and a series just fetched is named by its place in the cache, not by a temporary file."""
        store = super()._init_dicomweb_datastore()
        fetch, lock = store.get_image_uri, FileLock(f"{store._lock_file}-fetch")

        def get_image_uri(image_id: str) -> str:
            check_name(image_id, "image")
            with lock:
                first, cached = fetch(image_id), fetch(image_id)
            if first != cached:
                os.unlink(first)
            return cached

        store.get_image_uri = get_image_uri
        return store

    def _download_dcmqi_tools(self) -> None:
        """Labels become DICOM SEG by dcmqi; MONAI Label would download it, here it comes with the requirements."""
        os.environ["PATH"] += os.pathsep + os.path.dirname(sys.executable)
        if not shutil.which("itkimage2segimage"):
            logger.warning("dcmqi is not installed: labels cannot be saved to the DICOM server (pip install dcmqi)")


def find_bundle(app_dir: Path, name: str) -> Path:
    """A bundle's folder: ``model/<zoo name>`` of the app, else that of the repository the app lies in."""
    own = app_dir / "model" / name
    return (own if own.exists() else app_dir / ".." / ".." / "bundles" / FOLDERS[name]).resolve()
