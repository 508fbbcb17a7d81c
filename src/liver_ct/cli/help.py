"""Help as plain text, from a command's signature and its docstring."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from liver_ct.cli.options import REQUIRED, SHORT, Option
from liver_ct.files import CHECKOUT, PACKAGE

INDENT = " " * 6


def command_help(called: str, command: Callable[..., Any], options: Mapping[str, Option], common: str) -> str:
    """Usage, what the command does, and each option with its type, unit and default.

    Args:
        called: what the user types to call the command.
        command: the function.
        options: its options.
        common: on the options that all commands have.
    """
    text, meanings = split_docstring(command)
    required = " ".join(f"--{o.name} {o.shape}" for o in options.values() if o.default is REQUIRED)
    lines = [f"Usage: {called} {required} [options]".replace("  ", " "), "", *_paragraphs(text), "Options:"]
    for option in options.values():
        lines += _option(option, meanings.get(option.name, ""))
    further = next((p.name for p in inspect.signature(command).parameters.values() if p.kind == p.VAR_KEYWORD), None)
    if further:
        lines += ["  --KNOB VALUE", _wrapped(meanings.get(further, ""), INDENT)]
    return "\n".join([*lines, "", common])


def list_help(called: str, about: str, what: str, names: Mapping[str, str], common: str) -> str:
    """Usage of a program of several, and a line on each.

    Args:
        called: what the user types to call it.
        about: its description.
        what: what the several are: commands or programs.
        names: name to description.
        common: on the options that all have.
    """
    width = max(map(len, names)) + 2
    lines = [f"  {name:{width}}{first_line(text)}" for name, text in names.items()]
    usage = f"Usage: {called} {what.upper()} [options]"
    more = f"The options of one: {called} {what.upper()} --help"
    return "\n".join([usage, "", *_paragraphs(plain(about)), f"{what.capitalize()}s:", *lines, "", more, "", common])


def first_line(text: str) -> str:
    """The first paragraph of a docstring in one line, as plain text."""
    return " ".join(plain(text).split("\n\n")[0].split())


def plain(text: str) -> str:
    """A docstring without its markup."""
    return inspect.cleandoc(text).replace("``", "")


def split_docstring(command: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What stands before the sections of a Google docstring, and its arguments' meanings by name."""
    text, _, rest = plain(command.__doc__ or "").partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", rest)[0]
    text = re.split(r"\n(?:Returns|Raises|Yields):\n", text)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", section, re.MULTILINE)
    return text.strip(), {name: " ".join(meaning.split()) for name, meaning in entries}


def _option(option: Option, meaning: str) -> Iterator[str]:
    short = "".join(f"-{letter}, " for letter, name in SHORT.items() if name == option.name)
    yield f"  {short}--{option.name} {option.shape}"
    yield _wrapped(meaning + _default(option, meaning), INDENT)


def _default(option: Option, meaning: str) -> str:
    if option.default is REQUIRED:
        return " (required)"
    if option.default in (None, "") or "default" in meaning:
        return ""
    return f" (default: {_shown(option.default)})"


def _shown(value: Any) -> str:
    """A default as one would type it; what is shipped, by its path from the repository's root."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    for root in (PACKAGE, CHECKOUT):
        if isinstance(value, str) and Path(value).is_relative_to(root):
            return str(Path(value).relative_to(root))
    return str(value)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield _wrapped(paragraph)
        yield ""


def _wrapped(text: str, indent: str = "") -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
