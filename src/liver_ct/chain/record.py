"""What a result says of how it was made, beyond what it depends on: when, on what, with which settings and versions."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from liver_ct import __version__
from liver_ct.chain.stages import Stage
from liver_ct.files import sha256
from liver_ct.outputs.names import RECORD_FORM
from liver_ct.outputs.provenance import library_versions, now
from liver_ct.outputs.results import Item

LIBRARIES = ("torch", "monai", "numpy", "scipy", "nibabel", "itk-io", "pydicom")
# Ids of an inference config that name files, or that do something; the record says device and series for both bundles.
NO_SETTINGS = (
    "bundle_root", "dataset_dir", "prob_dir", "output_dir", "ckpt_path", "encoder_path", "pattern", "imports",
    "initialize", "run", "finalize", "device", "series",
)  # fmt: skip


def begin(seg: Stage, cls: Stage) -> Item:
    """What is known when a study is begun; see docs/record.md."""
    stages = {"liver_seg": seg, "liver_cls": cls}
    return {
        "form": RECORD_FORM,
        "begun": now(),
        "device": device_name(seg.device),
        "device_type": seg.device.type,
        "versions": {"liver-ct": __version__, "python": platform.python_version(), **library_versions(*LIBRARIES)},
        "settings": {name: settings_of(stage) for name, stage in stages.items()},
    }


def precision_of(*stages: Stage) -> str:
    """In what the networks compute: float32, bfloat16 or float16; of each, in their order, where they differ."""
    return ", ".join(dict.fromkeys(map(_precision_of, stages)))


def _precision_of(stage: Stage) -> str:
    """As a stage's device and its inferer have it."""
    dtype = torch.float32
    if stage.device.type == "cuda":
        dtype = torch.get_autocast_dtype("cuda")
    elif stage.device.type == "cpu" and getattr(stage["inferer"], "bf16", False):
        dtype = torch.bfloat16
    return str(dtype).removeprefix("torch.")


def settings_of(stage: Stage) -> Item:
    """The knobs of a bundle's inference config, as they are set: plain values, no files."""
    found = {}
    for name, value in stage.parser.get().items():
        if name in NO_SETTINGS or name.startswith("_"):
            continue
        if isinstance(value, str) and value.startswith(("$", "@")):
            value = stage[name]  # an expression
        if _is_plain(value):
            found[name] = value
    return found


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a value as it is; a dictionary makes something."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) and not isinstance(each, str) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))


@functools.lru_cache(maxsize=8)
def device_name(device: torch.device) -> str:
    """What a GPU or CPU calls itself. Python's platform.processor() is empty or the architecture on Linux."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def inputs(files: Iterable[Path], checksum: Callable[[Path], str] = sha256) -> Item:
    """Checksum and number of the files that a CT was read from; None and 0 without any, as for one in memory.

    A single file's is its SHA-256; that of several, such as a series' slices, is the SHA-256 of their hexadecimal
    SHA-256, sorted and written one after the other: whatever the files are called, and in whichever order they come.
    """
    each = sorted(map(checksum, {*files}))
    of_all = hashlib.sha256("".join(each).encode()).hexdigest() if len(each) > 1 else next(iter(each), None)
    return {"input_sha256": of_all, "input_files": len(each)}
