# A copy of knobs.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""The knobs of a command line, held against the configs that they are for."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
from fire.parser import DefaultParseValue
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from scripts.cls_errors import printable


def require_known_knobs() -> None:
    """End ``python -m monai.bundle run`` with one line for an option that its configs do not have.

    MONAI adds it to the config, where nothing looks at it, and has no check of its own. The words of the command line
    are looked at since they are in no config; a workflow that Python code makes is left alone.

    Raises:
        SystemExit: such an option, with the one that it is most like.
    """
    program, *words = sys.argv
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or words[:1] != ["run"]:
        return
    given = dict(options(words[1:]))
    if isinstance(given.get("args_file"), str):
        given = monai.bundle.ConfigParser.load_config_file(given["args_file"]) | given
    if "config_file" not in given:
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
        where = given["config_file"] if isinstance(given["config_file"], str) else ", ".join(given["config_file"])
        raise SystemExit(printable(f"ERROR --{unknown[0]}: no such id in {where}. {fix}"))


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
