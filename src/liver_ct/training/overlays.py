"""A bundle whose configs have an overlay of their own folder for good, for whatever takes a bundle's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from liver_ct.errors import StudyError
from liver_ct.files import read_json, replace_folder, write_json

CONFIGS = ("train.json", "inference.json")
LEFT_OUT = shutil.ignore_patterns("model.*", "eval", "runs", "__pycache__")


def with_overlay(bundle: Path, overlay: str, target: Path) -> None:
    """Copy a bundle, without its trained weights, and lay a config over its train.json and inference.json.

    Args:
        bundle: its folder.
        overlay: a file of its ``configs``, such as ``original.json``.
        target: the copy's folder.

    Raises:
        StudyError: no such bundle or overlay, or the target is there.
    """
    file = bundle / "configs" / overlay
    if not file.is_file():
        raise StudyError(f"{file}: no such overlay. Check --bundle and --overlay.")
    if target.exists():
        raise StudyError(f"{target}: is there already. Choose another --output.")
    part = target.resolve().with_name(f".part-{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(bundle, part, ignore=LEFT_OUT)
    for name in CONFIGS:
        config = part / "configs" / name
        write_json(config, {**read_json(config), **read_json(file)}, indent=4)
    replace_folder(part, target.resolve())
