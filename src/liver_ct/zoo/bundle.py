"""A bundle's folder: what the files in it are called, and which of them are shipped."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from liver_ct.files import read_json

METADATA, INFERENCE, TRAIN = (f"configs/{name}.json" for name in ("metadata", "inference", "train"))
WEIGHTS = "models/model.pt"
LEFTOVERS = ("__pycache__", "eval", "runs")  # what running a bundle in its own folder leaves there


def bundle_files(root: Path) -> dict[str, Path]:
    """What is shipped of a bundle's folder, by relative name, sorted; what running it leaves behind is not."""
    paths = {path.relative_to(root): path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
    return {name.as_posix(): path for name, path in sorted(paths.items()) if not set(name.parts) & {*LEFTOVERS}}


def read_config(root: Path, name: str) -> dict[str, Any]:
    """A JSON config of a bundle, by its name below ``root``."""
    config: dict[str, Any] = read_json(root / name)
    return config


def installed(name: str) -> Any:
    """The distribution of that name, or None."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
