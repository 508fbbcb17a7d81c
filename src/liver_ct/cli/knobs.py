"""Further options that a command passes on: the knobs of a bundle's config, checked before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from liver_ct.cli.options import UsageError, check_names
from liver_ct.cli.printing import print_note
from liver_ct.errors import StudyError
from liver_ct.files import read_json

Command = TypeVar("Command", bound=Callable[..., Any])
CONFIG = "_config_of_knobs"
OWN = (  # what a command that takes knobs says to the bundle itself
    "bundle_root", "config_file", "datalist", "datalist_file", "dataset_dir", "prob_dir", "section",
    "ckpt_dir", "ckpt_path", "output_dir",
)  # fmt: skip


def takes_knobs(config: str) -> Callable[[Command], Command]:
    """Mark a command whose further options are knobs of this config of the bundle in its option ``bundle``."""

    def mark(command: Command) -> Command:
        setattr(command, CONFIG, config)
        return command

    return mark


def config_of(command: Callable[..., Any]) -> str | None:
    """Name of the config whose knobs a command takes; None if it takes none."""
    return getattr(command, CONFIG, None)


def check_knobs(given: Mapping[str, Any], bundle: Path, config: str, options: list[str]) -> None:
    """Raise UsageError for a knob that the bundle's config does not have, or has another type there, or is in OWN.

    Args:
        given: values by id, such as ``batch_size`` or ``network_def#filters``.
        bundle: the bundle's folder.
        config: file in its ``configs``.
        options: names that the command takes besides, for the hint at the closest one.

    Raises:
        StudyError: the config cannot be read.
    """
    file = bundle / "configs" / config
    try:
        content = read_json(file)
    except (OSError, ValueError):
        raise StudyError(f"{bundle}: no bundle here (configs/{config} cannot be read). Check --bundle.") from None
    known = dict(_ids(content))
    for name, value in given.items():
        if name in OWN:
            raise UsageError(f"--{name}: this command sets it itself.")
        if name not in known and not _may_be_added(name, known):
            check_names([name], [*options, *known])
        is_number = isinstance(known.get(name), (int, float)) and not isinstance(known[name], bool)
        if is_number and isinstance(value, str) and not value.startswith(("$", "@")):
            raise UsageError(f"--{name} {value}: not a number.")


def note_start(knobs: Mapping[str, Any]) -> None:
    """Say what weights to start from must be, where every fold starts from them."""
    if knobs.get("init_path"):
        print_note("--init_path: every fold starts from it. Whom its weights have learned from is not judged unseen.")


def _ids(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each id of a config with its value: ``network_def``, ``network_def#filters`` ..."""
    for key, value in content.items():
        yield above + key, value
        if isinstance(value, dict):
            yield from _ids(value, f"{above}{key}#")
        elif isinstance(value, list):
            yield from _ids({str(place): item for place, item in enumerate(value)}, f"{above}{key}#")


def _may_be_added(name: str, known: Mapping[str, Any]) -> bool:
    """Whether an id is a new argument of something that the config makes."""
    parent, _, _ = name.rpartition("#")
    return isinstance(known.get(parent), dict) and "_target_" in known[parent]
