"""What the Model Zoo's CI asks of a bundle, each check a list of lines ``<file>: <cause>. <fix>``.

The zoo's own scripts (ci/verify_bundle.py, runtests.sh) work inside its repository and stop at the first problem.
MONAI's functions do here what they do there; around them stands what the zoo asks in words only (CONTRIBUTING.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from liver_ct.zoo.bundle import INFERENCE, METADATA, TRAIN, WEIGHTS, bundle_files, read_config
from liver_ct.zoo.metadata import check_metadata
from liver_ct.zoo.style import check_style
from liver_ct.zoo.workflows import check_with_monai

REQUIRED = ("LICENSE", METADATA, INFERENCE, "configs/logging.conf", WEIGHTS, "docs/README.md", "docs/data_license.txt")
ALLOWED = re.compile(
    r"LICENSE|configs/\w+\.(json|ya?ml|conf)|models/(model|imagenet)\.pt|docs/[\w.-]+\.(md|txt|png)|scripts/\w+\.py"
)
MAX_BYTES = 25_000_000
KEYS = {
    INFERENCE: ("bundle_root", "device", "dataset_dir", "output_dir", "network_def", "inferer", "evaluator"),
    TRAIN: (
        "bundle_root", "device", "dataset_dir", "output_dir", "network_def", "val_interval",
        "train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers",
        "validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data",
    ),
}  # fmt: skip


def check_bundle(root: Path) -> list[str]:
    """All problems of the first kind that shows any: files, then what is written in them, then what MONAI makes of it.

    Args:
        root: a copy of the bundle that may be written to, in a folder with its zoo name.
    """
    return (
        check_files(bundle_files(root))
        or check_metadata(root) + check_keys(root) + check_style(root)
        or check_with_monai(root)
    )


def check_files(files: Mapping[str, Path]) -> list[str]:
    """Required files are there, no others, none empty, damaged or too large."""
    if not files:
        return [".: holds no bundle. Check the path."]
    problems = [f"{name}: is missing. The zoo requires it." for name in REQUIRED if name not in files]
    for name, path in files.items():
        if path.is_symlink():
            problems.append(f"{name}: a link leads out of the archive. Put the file itself there.")
        elif not ALLOWED.fullmatch(name):
            problems.append(f"{name}: does not belong into an archive for others. Remove it.")
        elif path.stat().st_size == 0:
            problems.append(f"{name}: is empty. Fill it.")
        elif path.stat().st_size > MAX_BYTES:
            size = path.stat().st_size / 1e6
            problems.append(f"{name}: {size:.1f} MB, and the zoo takes no file above 25 MB. Use a smaller network.")
        elif path.suffix == ".json":
            problems += _check_json(name, path)
    return problems


def _check_json(name: str, path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if not isinstance(json.loads(text), dict):
            return [f"{name}: is no JSON object. Fix it."]
    except ValueError as e:
        return [f"{name}: not JSON ({e}). Fix it."]
    personal = re.search(r"(/home|/root|/Users|/mnt|/tmp)/[^\s'\"]*", text)
    return [f"{name}: names {personal[0]}, a path of one machine. Start from @bundle_root."] if personal else []


def check_keys(root: Path) -> list[str]:
    """The ids that the zoo's CONTRIBUTING.md asks for are in the configs, found as MONAI finds them."""
    from monai.bundle import ConfigParser

    problems = []
    for name, keys in KEYS.items():
        if (root / name).is_file():
            parser = ConfigParser(read_config(root, name))
            problems += [f"{name}: has no {key}. Add it under this id." for key in keys if key not in parser]
    return problems
