"""A program: its commands, and what all of them have in common around Fire, which calls them."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from liver_ct import __version__
from liver_ct.cli.help import command_help, list_help
from liver_ct.cli.interrupts import handle_interrupts
from liver_ct.cli.knobs import check_knobs, config_of
from liver_ct.cli.options import Option, UsageError, check_names, check_values, options_of, read_words, true_or_false
from liver_ct.cli.terminal import STDERR, Terminal, open_closed
from liver_ct.errors import INTERRUPTED, StudyError, describe, is_memory_error, printable

Command = Callable[..., None]
GOES_ON = "stopped; the same command goes on with what is left"
AGAIN = "stopped; the same command begins again"
REFUSED = 2  # exit status where nothing was begun
COMMON = {
    "quiet": Option("quiet", "true|false", "true or false", true_or_false, False),
    "log_file": Option("log_file", "TEXT", "a text", str, None),
}
COMMON_HELP = """\
Options of every command:
  --quiet
      no progress bars and no result lines; errors stay
  --log_file FILE
      append all lines to this file, too, also those that --quiet leaves out; no progress bars then
  --version, --help

An option is written --option value or --option=value, with underscores or dashes."""


class Program(NamedTuple):
    """A program of one command, or of several by name.

    Args:
        name: of the program, as in ``liver-ct NAME`` and ``scripts/NAME.py``.
        about: what it is for.
        commands: the command, or name to command.
        stopped: what to say after Ctrl-C.
        begin: is called before a command, with its values as text, since no other program shares the process.
    """

    name: str
    about: str
    commands: Command | Mapping[str, Command]
    stopped: str = GOES_ON
    begin: Callable[[Mapping[str, str]], None] | None = None

    def run(self, words: Sequence[str] | None = None, called: str | None = None) -> NoReturn:
        """Do what the words of the command line ask for, and exit.

        Args:
            words: default those that this process was started with.
            called: what the user types to call it; default the name of the script.
        """
        open_closed()
        terminal = Terminal()
        take_any_text()

        def leave() -> None:
            os.write(STDERR, f"{self.stopped}\n".encode())
            terminal.close()

        handle_interrupts(leave)
        try:
            status = self._run(list(sys.argv[1:] if words is None else words), called or sys.argv[0], terminal)
        except KeyboardInterrupt:
            leave()
            status = INTERRUPTED
        sys.exit(status)

    def _run(self, words: list[str], called: str, terminal: Terminal) -> int:
        """Exit status of the command that the words ask for."""
        if "--version" in words:
            print(f"liver-ct {__version__}")
            return 0
        try:
            called, command, words = self._choose(words, called)
            if command is None or {"--help", "-h"} & {*words}:
                print(self._help(called, command))
                return 0
            values, common = parse(command, words)
            terminal.open(common.get("quiet", False), common.get("log_file"))
        except UsageError as e:
            return refuse(f"{e} See {called} --help.")
        except StudyError as e:
            return fail(str(e))
        try:
            if self.begin:
                self.begin(values)
            return status_of(command, values, called)
        except StudyError as e:
            return fail(str(e))
        finally:
            terminal.close()

    def _choose(self, words: list[str], called: str) -> tuple[str, Command | None, list[str]]:
        """The command that the words begin with, None where they ask for help on all, and the words after it."""
        if not isinstance(self.commands, Mapping):
            return called, self.commands, words
        if not words:
            raise UsageError(f"{called}: a command is missing. Use {' or '.join(self.commands)}.")
        name, *rest = words
        if name in ("--help", "-h"):
            return called, None, rest
        if name not in self.commands:
            raise UsageError(f"{name}: no such command. Use {' or '.join(self.commands)}.")
        return f"{called} {name}", self.commands[name], rest

    def _help(self, called: str, command: Command | None) -> str:
        if command is None:
            assert isinstance(self.commands, Mapping)
            names = {name: each.__doc__ or "" for name, each in self.commands.items()}
            return list_help(called, self.about, "command", names, COMMON_HELP)
        return command_help(called, command, options_of(command), COMMON_HELP)


def take_any_text() -> None:
    """Have a terminal that knows few characters get the others escaped; names hold any, and none is an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def refuse(line: str) -> int:
    """Say why nothing is done; returns the exit status."""
    fail(line)
    return REFUSED


def fail(line: str) -> int:
    """Say what went wrong; returns the exit status."""
    print(f"ERROR {printable(line)}", file=sys.stderr)
    return 1


def parse(command: Command, words: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Values for the command's own options and knobs, as text, and those for COMMON, read.

    Raises:
        UsageError: an option that it does not have, a value that it cannot take, or one that is missing.
        StudyError: the bundle whose knobs are asked for cannot be read.
    """
    own = options_of(command)
    options = {**own, **COMMON}
    named, unknown = read_words(words, options, unnamed=list(own))
    config = config_of(command)
    if config is None:
        check_names(unknown, options)
    check_values(named, options)
    if config and unknown:
        import fire.parser

        given = {name: fire.parser.DefaultParseValue(text) for name, text in unknown.items()}
        check_knobs(given, Path(named.get("bundle", own["bundle"].default)), config, list(options))
    common = {name: COMMON[name].parse(text) for name, text in named.items() if name in COMMON}
    return {name: text for name, text in {**named, **unknown}.items() if name not in COMMON}, common


def status_of(command: Command, values: Mapping[str, str], called: str) -> int:
    """Have Fire call a command with values that were checked; its exit status."""
    try:
        import fire
        from fire.decorators import SetParseFns

        parsers = {name: option.parse for name, option in options_of(command).items()}
        fire.Fire(SetParseFns(**parsers)(command), [f"--{name}={text}" for name, text in values.items()], called)
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int):
            return e.code or 0
        print(e.code, file=sys.stderr)
        return 1
    except Exception as e:
        if not isinstance(e, OSError) and not is_memory_error(e):
            traceback.print_exc()
            return 1
        return fail(describe(e, Path(called)))
    return 0
