"""A bundle's workflow, run in a process of its own, and the weights that it leaves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liver_ct.errors import INTERRUPTED, StudyError
from liver_ct.files import read_json, replace_folder, write_json, written_whole
from liver_ct.training.claims import is_made_with, mark, recipe_of
from liver_ct.training.datalists import Entry

if TYPE_CHECKING:
    import torch

# monai.bundle without a word on Ctrl-C, which reaches it as well as this process, whose part it is to say something
WORKFLOW = f"""
import os, runpy, signal
signal.signal(signal.SIGINT, lambda *_: os._exit({INTERRUPTED}))
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def inference_knobs(bundle: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the knobs of a training that inference.json has too, such as the window and the network."""
    return known_knobs(bundle, "inference.json", overrides)


def known_knobs(bundle: Path, config: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the knobs that one of a bundle's configs has."""
    content = read_json(bundle / "configs" / config)
    return {k: v for k, v in overrides.items() if k.split("#")[0] in content}


def go_on(weights: Path, epochs: int, bundle: Path, overrides: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Length and knobs of a training that goes on from a fold's weights with everybody.

    A quarter of the fold's epochs at half its learning rate: it has all but its last people behind it.

    Args:
        weights: of the fold.
        epochs: of the fold.
        bundle: whose ``learning_rate`` counts where the knobs have none.
        overrides: knobs of the fold.

    Raises:
        StudyError: the fold's weights are not there.
    """
    if not weights.exists():
        raise StudyError(f"{weights}: no such file, from which everybody's training goes on. Train that fold first.")
    rate = overrides.get("learning_rate", read_json(bundle / "configs" / "train.json")["learning_rate"])
    halved = rate if isinstance(rate, str) else rate / 2  # an expression stays as it is given
    return max(1, epochs // 4), {**overrides, "init_path": str(weights.resolve()), "learning_rate": halved}


def run_bundle(bundle: Path, **knobs: Any) -> None:
    """``python -m monai.bundle run`` in a process of its own, whose memory goes back when it ends.

    Raises:
        StudyError: it failed; its own output says why.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    knobs = {"bundle_root": bundle, "logging_file": bundle / "configs" / "logging.conf", **knobs}
    words = [w for k, v in knobs.items() for w in (f"--{k}", str(v) if isinstance(v, (str, Path)) else repr(v))]
    code = run_workflow(words)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        place = knobs.get("ckpt_dir") or knobs.get("output_dir") or bundle
        raise StudyError(f"{place}: monai.bundle run ended with {code}. Its output above says why.")


def run_workflow(words: Sequence[str]) -> int:
    """The exit status of ``monai.bundle run`` with these words."""
    return subprocess.run([sys.executable, "-c", WORKFLOW, "run", *words], close_fds=False).returncode


def evaluate(bundle: Path, weights: Path, output: Path, cases: Sequence[Entry], **knobs: Any) -> None:
    """Metrics of ``weights`` on ``cases`` by evaluate.json, ``output/*.csv``, all or none; not done twice."""
    made_with = recipe_of(bundle, cases, ckpt_path=weights, **knobs)
    if is_made_with(output, made_with):
        return
    part = output.with_name(f".part-{output.name}")
    shutil.rmtree(part, ignore_errors=True)
    configs = [str(bundle / "configs" / name) for name in ("train.json", "evaluate.json")]
    write_json(part / "held_out.json", {"validation": list(cases)})
    run_bundle(bundle, config_file=configs, datalist_file=part / "held_out.json", ckpt_path=weights,
               output_dir=part, **knobs)  # fmt: skip
    mark(part, made_with)
    replace_folder(part, output)


def save_weights(state: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write a state dict, whole or not at all."""
    import torch

    with written_whole(target) as part:
        torch.save(dict(state), part)
