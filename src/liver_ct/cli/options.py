"""A command's options, as its signature has them, and the words of a command line checked against them."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

REQUIRED = inspect.Parameter.empty
SHORT = {"i": "input", "o": "output"}


class UsageError(Exception):
    """Words that a command cannot take; the message is one line, ``<words>: <cause>. <fix>``."""


class Option(NamedTuple):
    """One option of a command.

    Args:
        name: of the parameter, with underscores.
        shape: of its value, for the help, such as ``N``.
        wanted: what its value has to be, for the refusal of another.
        parse: text to value; raises ValueError.
        default: its value where it is not given; REQUIRED if it must be.
    """

    name: str
    shape: str
    wanted: str
    parse: Callable[[str], Any]
    default: Any = None

    @property
    def is_switch(self) -> bool:
        """Whether it may stand without a value."""
        return self.parse is true_or_false


def true_or_false(text: str) -> bool:
    """A yes or no."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def items(of: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Parser of a list, with commas and with or without brackets."""

    def parse(text: str) -> list[Any]:
        return [of(item.strip(" '\"")) for item in text.strip("()[] ").split(",") if item.strip()]

    return parse


def listed(given: Sequence[str] | str) -> list[str]:
    """Several values; who calls a command from Python may give them with commas between, as on the command line."""
    return given.split(",") if isinstance(given, str) else list(given)


def options_of(command: Callable[..., Any]) -> dict[str, Option]:
    """The options of a command by name, from its signature and annotations."""
    hints = typing.get_type_hints(command)
    named = [p for p in inspect.signature(command).parameters.values() if p.kind != p.VAR_KEYWORD]
    return {p.name: Option(p.name, *_kind(hints[p.name]), p.default) for p in named}


def _kind(hint: Any) -> tuple[str, str, Callable[[str], Any]]:
    """Shape, wanted value and parser for an annotation; of a union, for its first member."""
    if not _is_list(hint):
        hint = next((part for part in typing.get_args(hint) if part is not type(None)), hint)
    if _is_list(hint):
        shape, wanted, parse = _kind(typing.get_args(hint)[0])
        return f"{shape},{shape},...", f"{wanted.removeprefix('a ')}s with commas between", items(parse)
    if hint is bool:
        return "true|false", "true or false", true_or_false
    if hint is int:
        return "N", "a whole number", int
    if hint is float:
        return "X", "a number", float
    return "TEXT", "a text", str


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) not in (None, typing.Union) and len(typing.get_args(hint)) == 1


def is_option(word: str) -> bool:
    """Whether a word of the command line names an option, rather than being a value such as -1."""
    return re.match(r"--\w|-[A-Za-z](=|$)", word) is not None


def read_words(
    words: Sequence[str], options: Mapping[str, Option], unnamed: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Values by option, and values by names that are no option, all as text.

    Takes ``--option value``, ``--option=value``, dashes for underscores, ``-i`` and ``-o``, another letter where one
    option alone begins with it, ``--option`` and ``--nooption`` for true and false, and values without a name.

    Args:
        words: of the command line.
        options: of the command, by name.
        unnamed: those of them that values without a name are for, in this order.

    Raises:
        UsageError: a value is missing, or there is one too many, or an option is there twice.
    """
    left = deque(words)
    named: dict[str, str] = {}
    unknown: dict[str, str] = {}
    values: list[str] = []
    while left:
        word = left.popleft()
        if not is_option(word):
            values.append(word)
            continue
        name, value = _read_option(word, left, options)
        if name in named or name in unknown:
            raise UsageError(f"{word.partition('=')[0]}: given twice. Give it once; lists need commas.")
        (named if name in options else unknown)[name] = value
    _assign(values, named, unnamed)
    return named, unknown


def _read_option(word: str, left: deque[str], options: Mapping[str, Option]) -> tuple[str, str]:
    """Name and value of the option in ``word``; the value may be the first of the words that are left, and is taken."""
    flag, equals, value = word.partition("=")
    name = _full_name(flag, options)
    if not equals and left and not is_option(left[0]):
        value = left.popleft()
    elif not equals:
        if name in options and not options[name].is_switch:
            raise UsageError(f"{flag}: a value is missing. Give {options[name].wanted}.")
        value = "true"
    negated = name.removeprefix("no")
    if name not in options and negated in options and options[negated].is_switch and value == "true":
        return negated, "false"
    return name, value


def _full_name(flag: str, options: Mapping[str, Option]) -> str:
    """The option that a flag names, dashes and letters written out."""
    name = flag.lstrip("-").replace("-", "_")
    if flag.startswith("--") or name in options:
        return name
    if name in SHORT:
        return SHORT[name]
    alike = [option for option in options if option.startswith(name)]
    return alike[0] if len(alike) == 1 else name


def _assign(values: Iterable[str], named: dict[str, str], names: Iterable[str]) -> None:
    """Give values without a name to the options that have none yet."""
    free = [name for name in names if name not in named]
    for value in values:
        if not free:
            raise UsageError(f"{value}: one word too many. Options begin with --; a text with spaces needs quotes.")
        named[free.pop(0)] = value


def check_values(named: Mapping[str, str], options: Mapping[str, Option]) -> None:
    """Raise UsageError for an option that is missing or empty, or whose value is of the wrong type."""
    for name, text in named.items():
        if not text.strip() and options[name].default is REQUIRED:  # a path would be the working directory
            raise UsageError(f"--{name}: its value is empty, as that of a variable that is not set.")
        try:
            options[name].parse(text)
        except ValueError:
            raise UsageError(f"--{name} {text}: not {options[name].wanted}.") from None
    missing = [f"--{name}" for name, option in options.items() if option.default is REQUIRED and name not in named]
    if missing:
        raise UsageError(f"{', '.join(missing)}: missing.")


def check_names(unknown: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError for the first of the unknown names, with the closest of the known ones."""
    name = next(iter(unknown), None)
    if name is None:
        return
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f" Did you mean --{close[0]}?" if close else ""
    raise UsageError(f"{'--' if len(name) > 1 else '-'}{name}: no such option.{hint}")
