# A copy of knobs.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""The knobs of a config: those that it does not have, and values that make no sense."""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from fire.parser import DefaultParseValue
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from scripts.cls_errors import printable

logger = logging.getLogger(__name__)


def require_known_knobs() -> None:
    """End ``python -m monai.bundle run`` with one line for an option that its configs do not have.

    MONAI adds it to the config, where nothing looks at it, and has no check of its own. The words of the command line
    are looked at since they are in no config; a workflow that Python code makes is left alone.

    Raises:
        SystemExit: such an option, with the one that it is most like.
    """
    given = given_options()
    if given is None or "config_file" not in given:
        return
    parser = monai.bundle.ConfigParser()
    parser.read_config(given["config_file"])
    allowed = {*inspect.signature(monai.bundle.run).parameters, "_meta_"}
    if given.get("tracking"):
        allowed |= {*DEFAULT_MLFLOW_SETTINGS["configs"]}
    unknown = [name for name in given if name.split("#")[0] not in allowed and not is_known(name, parser)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*known_ids(parser.get())], 1)
        fix = f"Did you mean --{near[0]}?" if near else "See the ids in it."
        raise SystemExit(printable(f"ERROR --{unknown[0]}: no such id in {config_names(given)}. {fix}"))


def given_options() -> dict[str, Any] | None:
    """The options of ``python -m monai.bundle run``, those of its args_file too; None in any other program."""
    program, *words = sys.argv
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or words[:1] != ["run"]:
        return None
    given = dict(options(words[1:]))
    if isinstance(given.get("args_file"), str):
        given = monai.bundle.ConfigParser.load_config_file(given["args_file"]) | given
    return given


def config_names(given: Mapping[str, Any]) -> str:
    """The config files of `given_options`, for a message."""
    files = given.get("config_file", "config_file")
    return files if isinstance(files, str) else ", ".join(files)


def options(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Names and values of options, as Fire reads them for a function that takes any."""
    for word, following in zip(words, [*words[1:], "--"]):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("--") and name[:1].isalpha() | name.startswith("_"):
            value = value if equals else "True" if following.startswith("--") else following
            yield name.replace("-", "_").replace("::", "#"), DefaultParseValue(value)


def is_known(name: str, parser: monai.bundle.ConfigParser) -> bool:
    """Whether the config has an id, or makes something that the id is a new argument of."""
    parent = name.rpartition("#")[0]
    made = parser[parent] if parent and parent in parser else None
    return name in parser or (isinstance(made, Mapping) and "_target_" in made)


def known_ids(content: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Each id of a config, such as ``network_def`` and ``network_def#filters``."""
    for key, value in content.items():
        yield above + key
        if isinstance(value, Mapping):
            yield from known_ids(value, f"{above}{key}#")


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a finite number from ``low`` to ``high``, no truth value nor text."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high


def is_whole(value: Any, low: float) -> bool:
    """Whether a value is a whole number from ``low`` on."""
    return isinstance(value, Integral) and is_number(value, low)


def is_list(value: Any, fits: Callable[[Any], bool], length: int | None = None) -> bool:
    """Whether a value is a list of so many members, one at least, that all fit."""
    return isinstance(value, (list, tuple)) and len(value) == (length or len(value) or -1) and all(map(fits, value))


def is_offsets(value: Any) -> bool:
    """Whether a value is a list of whole numbers whose middle is 0: the slice that the others lie around."""
    return is_list(value, lambda n: is_whole(n, -math.inf)) and value[len(value) // 2] == 0


def is_grid(value: Any) -> bool:
    """Whether a value is three whole numbers from 1, of which some may be None."""
    return is_list(value, lambda n: n is None or is_whole(n, 1), 3)


def is_device(value: Any) -> bool:
    """Whether PyTorch can compute there."""
    try:
        torch.empty(0, device=value)
    except Exception:
        return False
    return True


# what `require_knobs` can ask of a knob: the words for it, and the question
CONDITIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "count": ("a whole number from 1", lambda x: is_whole(x, 1)),
    "whole": ("a whole number from 0", lambda x: is_whole(x, 0)),
    "number": ("a number", is_number),
    "odd": ("an odd whole number from 1", lambda x: is_whole(x, 1) and x % 2 == 1),
    "positive": ("a number above 0", lambda x: is_number(x, 0) and x > 0),
    "not_negative": ("a number from 0", lambda x: is_number(x, 0)),
    "part": ("a number above 0, up to 1", lambda x: is_number(x, 0, 1) and x > 0),
    "share": ("a number from 0 to 1", lambda x: is_number(x, 0, 1)),
    "flag": ("True or False", lambda x: x in (True, False)),
    "size": ("two whole numbers from 1", lambda x: is_list(x, lambda n: is_whole(n, 1), 2)),
    "spacing": ("three numbers above 0", lambda x: is_list(x, lambda mm: is_number(mm, 0) and mm > 0, 3)),
    "window": ("two numbers, the lower first", lambda x: is_list(x, is_number, 2) and x[0] < x[1]),
    "line": ("two numbers, the first above 0", lambda x: is_list(x, is_number, 2) and x[0] > 0),
    "grid": ("three whole numbers from 1 or None", is_grid),
    "slices": ("a list of whole numbers, 0 in its middle", is_offsets),
    "device": ("a device that PyTorch has here, such as cpu", is_device),
}


def require_knobs(**knobs: Mapping[str, Any]) -> None:
    """Raise SystemExit with one line for a knob whose value makes no sense; MONAI would fail late, or take it.

    Args:
        knobs: names and values of knobs, by the name of what is asked of them in `CONDITIONS`; with ``_or_none`` at its
            end they may also be None.
    """
    for condition, values in knobs.items():
        known = condition.removesuffix("_or_none")
        words, fits = CONDITIONS[known]
        words += "" if known == condition else ", or None"
        for name, value in values.items():
            if not (fits(value) or (value is None and known != condition)):
                raise SystemExit(printable(f"ERROR --{name} {value}: makes no sense. Give {words}."))


def require_schedule(
    epochs: int, schedule_epochs: int, val_interval: int, validation: Sequence[Any], patience: int = 0
) -> None:
    """Raise SystemExit with one line where the learning rate has come down before a training's end.

    Polynomial decay ends at 0, and MONAI's cosine would go up again. Where no epoch is validated, the log says so, also
    where that leaves ``patience`` without use.

    Args:
        epochs: to train now.
        schedule_epochs: to train in all.
        val_interval: epochs from one validation to the next.
        validation: studies to validate with.
        patience: validations without gain after which training stops; 0 never stops it.
    """
    if patience and not validation:
        logger.warning(f"--patience {patience}: the datalist has no validation, so nothing stops early. Give it some.")
    if schedule_epochs < epochs:
        cause = f"fewer than --epochs {epochs}, whose last would learn nothing"
        raise SystemExit(f"ERROR --schedule_epochs {schedule_epochs}: {cause}. Give as many or more.")
    if validation and val_interval > schedule_epochs:
        cause = f"more than the {schedule_epochs} epochs: none is validated, and no model.pt kept"
        logger.warning(f"--val_interval {val_interval}: {cause}. Give {schedule_epochs} or less.")
