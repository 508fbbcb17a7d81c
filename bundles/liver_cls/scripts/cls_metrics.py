"""Scores over the slices of all studies, and the table behind them."""

from __future__ import annotations

import csv
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.handlers import ROCAUC
from scripts.cls_files import whole_file

logger = logging.getLogger(__name__)


class PooledSlices:
    """Output transform for MONAI's metric handlers: all slices of known label of a batch of studies, ``[N, 1]``.

    Stock handlers expect one value per image; here an image has as many as it has slices.

    Args:
        threshold: make the prediction 0 or 1 at this probability; None leaves it.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold

    def __call__(self, output: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions (probabilities, or 0 and 1) and labels of all slices, each ``[N, 1]``."""
        pred, label = (torch.cat([torch.as_tensor(o[k]).flatten() for o in output])[:, None] for k in ("pred", "label"))
        pred, label = pred[label[:, 0] >= 0], label[label[:, 0] >= 0]
        return (pred if self.threshold is None else (pred >= self.threshold).float()), label


class SliceAUC(ROCAUC):
    """MONAI's ROCAUC over pooled slices, as a plain float; nan with a line in the log when all are of one class.

    MONAI's is a NumPy scalar, which a checkpoint that remembers its score would not load again (weights only).
    """

    def __init__(self) -> None:
        super().__init__(output_transform=PooledSlices())

    def compute(self) -> float:
        """The area under the ROC curve, 0..1 or nan."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="y values can not be all", category=UserWarning)
            auc = float(super().compute())
        if math.isnan(auc):
            logger.warning("AUC is nan: the slices are all with tumour, or all without. List cases of both kinds.")
        return auc


class SaveSliceScores:
    """Handler that writes ``case, slice, label, probability`` of every evaluated slice of known label to one CSV.

    MONAI's MetricsSaver writes one row per image. Rank 0 writes the rows of all processes.

    Args:
        path: the file; replaced as a whole.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.rows: list[tuple] = []

    def attach(self, engine: Engine) -> None:
        """Collect at every study, write at the end of the epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def collect(self, engine: Engine) -> None:
        """Take the rows of the studies just evaluated."""
        for item, out in zip(engine.state.batch, engine.state.output):
            values = zip(item["slices"].tolist(), out["label"].tolist(), out["pred"].tolist())
            self.rows += [(item["case"], s, int(label), f"{p:.9g}") for s, label, p in values if label >= 0]

    def write(self, engine: Engine) -> None:
        """Gather the rows of all processes and write them, through a temporary name."""
        parts: list[list[tuple]] = [self.rows]
        if dist.is_available() and dist.is_initialized():
            parts = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(parts, self.rows)
            if dist.get_rank() > 0:
                return
        write_csv(self.path, ("case", "slice", "label", "probability"), [row for part in parts for row in part])


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table so that ``path`` is either whole or not there; raises StudyError.

    Of names that are no UTF-8, such as those of old Windows, what is none is escaped.
    """
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([header, *rows])
