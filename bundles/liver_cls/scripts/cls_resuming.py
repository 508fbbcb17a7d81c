# A copy of resuming.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Going on with a training that was stopped: only with the settings that it was begun with."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scripts.cls_datalist import read_lists
from scripts.cls_errors import printable

logger = logging.getLogger(__name__)
LEARNED_FROM = ("training", "training_slices", "validation")


class Settings:
    """What decides what a training learns, as its checkpoints record it.

    Of a file its content counts, not its place: a folder may be moved between two runs.

    Args:
        knobs: names and values.
        datalist_file: of whose sections those for training and validation count.
        init_path: weights to start from, "" for none.
        network: the text of the network's parts.
    """

    def __init__(self, knobs: Mapping[str, Any], datalist_file: str, init_path: str, network: str) -> None:
        contents = {"datalist_file": _lists(datalist_file), "network_def": network.encode()}
        contents["init_path"] = Path(init_path).read_bytes() if init_path and Path(init_path).is_file() else b""
        digests = {key: f"content {hashlib.sha256(value).hexdigest()[:8]}" for key, value in contents.items() if value}
        plain = {key: value for key, value in knobs.items() if key != "datalist_file"}
        self.values: dict[str, Any] = json.loads(json.dumps(plain, default=str))
        self.values |= {key: digests.get(key, "none") for key in contents}

    def state_dict(self) -> dict[str, Any]:
        """The record, of plain values."""
        return dict(self.values)


def _lists(datalist_file: str) -> bytes:
    """Those sections of a datalist that a training sees, empty where the file is not there."""
    if not Path(datalist_file).is_file():
        return b""
    content = read_lists(Path(datalist_file))
    return json.dumps([content.get(section, []) for section in LEARNED_FROM], sort_keys=True).encode()


def epochs_done(path: str) -> int:
    """Epochs of training that lie behind a checkpoint, by its name; 0 for "", where nothing is gone on with.

    Added to the seed they let a training that goes on draw anew; it would repeat the draws of its first epochs.

    Args:
        path: of a file ``last_checkpoint_epoch=<epochs>.pt``, which is not opened.
    """
    number = Path(path).stem.rpartition("=")[2]
    return int(number) if number.isdecimal() else 0


def require_same_settings(path: str, settings: Settings, epochs: int) -> None:
    """Raise SystemExit with one line where a checkpoint cannot be gone on with as asked; MONAI would go on, or crash.

    Its optimizer and schedule are taken up, so that another learning rate would be ignored, and epochs beyond the end
    of the schedule would learn nothing. Settings that the checkpoint does not record are not compared.

    Args:
        path: the checkpoint, "" for none.
        settings: of this run.
        epochs: to train in all.
    """
    if not path:
        return
    state, folder = torch.load(path, map_location="cpu", weights_only=True), Path(path).parent
    done = state["trainer"]["iteration"] // state["trainer"]["epoch_length"]
    problem = None
    if done > epochs:
        problem = f"holds {done} epochs of training, more than --epochs {epochs}. Ask for {done} or more"
    begun, now = state.get("settings", {}), settings.state_dict()
    changed = [key for key in now if begun.get(key, now[key]) != now[key]]
    if changed and not problem:
        pairs = [f"{key} {_text(begun[key])}, now {_text(now[key])}" for key in changed]
        note = " (schedule_epochs is --epochs where not given)" if "schedule_epochs" in changed else ""
        problem = f"its training was begun with other settings: {'; '.join(pairs)}{note}. Give the same"
    if problem:
        raise SystemExit(printable(f"ERROR {folder}: {problem}, or another --ckpt_dir."))


def note_other_knobs(path: str, knobs: Mapping[str, Any]) -> None:
    """Say in the log which knobs weights were trained with that are others now: they would answer, but wrongly.

    The weights themselves hold no settings; the training's last checkpoint, if it lies beside them, does.

    Args:
        path: the weights.
        knobs: names and values of those that make the network's input.
    """
    last = max(Path(path).parent.glob("last_checkpoint_epoch=*.pt"), key=os.path.getmtime, default=None)
    if last is None or not zipfile.is_zipfile(last):
        return
    begun = torch.load(last, map_location="cpu", weights_only=True, mmap=True).get("settings", {})
    for key, now in json.loads(json.dumps(knobs)).items():
        if begun.get(key, now) != now:
            logger.warning(f"{path}: trained with {key} {_text(begun[key])}, now {_text(now)}. Give --{key} as it was.")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
