"""The command ``liver-ct``: all programs by name."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import NoReturn

import liver_ct
from liver_ct.cli.help import list_help
from liver_ct.cli.program import COMMON_HELP, Program, refuse

NAMES = ("cascade", "demo", "lits", "prob_masks", "cross_validate", "train", "study", "phantom", "package", "pacs")
CALLED = "liver-ct"


def main() -> NoReturn:
    """Run the program that the first word of the command line names, and exit."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        abouts = {each: program(each).about for each in NAMES}
        print(list_help(CALLED, liver_ct.__doc__ or "", "program", abouts, COMMON_HELP))
        sys.exit(0)
    if name == "--version":
        print(f"{CALLED} {liver_ct.__version__}")
        sys.exit(0)
    known = name.replace("-", "_")
    if known not in NAMES:
        close = difflib.get_close_matches(known, NAMES, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        sys.exit(refuse(f"{name}: no such program.{hint} See {CALLED} --help."))
    program(known).run(words, f"{CALLED} {name}")


def program(name: str) -> Program:
    """The program of that name."""
    found: Program = importlib.import_module(f"liver_ct.cli.{name}").PROGRAM
    return found
