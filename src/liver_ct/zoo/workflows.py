"""What MONAI makes of a bundle: schema, shapes, TorchScript export and workflow properties."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from liver_ct.zoo.bundle import INFERENCE, METADATA, TRAIN, WEIGHTS, read_config

SCHEMAS = Path(__file__).resolve().parent
FIX_CONFIG = "Fix the config, whose ids are those of monai.bundle.properties."


def check_with_monai(root: Path) -> list[str]:
    """Schema, shapes, TorchScript export and workflow properties, each by the function of monai.bundle."""
    checks: list[tuple[str, Callable[[Path], None], str]] = [
        (METADATA, verify_schema, "Fix the metadata."),
        (f"{METADATA} with {INFERENCE}", verify_shapes, "Make network_data_format and network_def agree."),
        (WEIGHTS, verify_torchscript, "Make the weights fit network_def and network_def fit TorchScript."),
        (INFERENCE, verify_inference, FIX_CONFIG),
    ]
    if (root / TRAIN).is_file():
        checks.append((TRAIN, verify_train, FIX_CONFIG))
    problems = []
    for name, check, fix in checks:
        with _alone(root):
            try:
                check(root)
            except (Exception, SystemExit) as e:
                problems.append(f"{name}: {_first_words(e)}. {fix}")
    return problems


def verify_schema(root: Path) -> None:
    """Raise where the metadata are not as their schema says."""
    from monai.bundle import verify_metadata

    schema = root / "eval" / "schema.json"  # where the zoo has it; a file that is there is not downloaded
    schema.parent.mkdir(exist_ok=True)
    url = read_config(root, METADATA).get("schema", "")
    local = SCHEMAS / url.rpartition("/")[2]
    if not url or not local.is_file():
        raise ValueError(f"schema {url} is not {next(SCHEMAS.glob('meta_schema_*')).name}")
    shutil.copyfile(local, schema)
    verify_metadata(meta_file=str(root / METADATA), filepath=schema)


def verify_shapes(root: Path) -> None:
    """Raise where the network takes or gives other shapes than network_data_format says."""
    from monai.bundle import verify_net_in_out

    meta, config = str(root / METADATA), str(root / INFERENCE)
    verify_net_in_out("network_def", meta_file=meta, config_file=config, device="cpu", bundle_root=str(root))


def verify_torchscript(root: Path) -> None:
    """Raise where the weights do not fit the network, or TorchScript cannot take it."""
    from monai.bundle import ckpt_export

    exported = root / "eval" / "model.ts"
    exported.parent.mkdir(exist_ok=True)
    ckpt_export(
        "network_def",
        str(exported),
        str(root / WEIGHTS),
        meta_file=str(root / METADATA),
        config_file=str(root / INFERENCE),
        bundle_root=str(root),
    )


def verify_inference(root: Path) -> None:
    """Raise where inference.json lacks a property that MONAI asks for."""
    _verify_properties(root, INFERENCE, "inference")


def verify_train(root: Path) -> None:
    """Raise where train.json lacks a property that MONAI asks for."""
    _verify_properties(root, TRAIN, "train")


def _verify_properties(root: Path, config: str, kind: str) -> None:
    from monai.bundle import create_workflow

    files = {"config_file": str(root / config), "meta_file": str(root / METADATA), "bundle_root": str(root)}
    workflow = create_workflow(workflow_type=kind, logging_file=False, **files)
    if lacking := workflow.check_properties():
        raise ValueError(f"lacks the properties {', '.join(lacking)}")


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """The bundle's ``scripts`` and no other's, as in a process of its own; and none of MONAI's messages."""
    before, path = _scripts(), list(sys.path)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        for name in _scripts():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path


def _scripts() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "scripts"}


def _first_words(error: BaseException) -> str:
    """What an exception's first cause says, in one line and without a full stop."""
    while error.__cause__:
        error = error.__cause__
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines() or [type(error).__name__])
    return re.split(r"\s*Failed validating", " ".join(line for line in lines if line))[0][:200].rstrip(".: ")
