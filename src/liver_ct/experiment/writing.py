"""Markdown tables, and the blocks of a page that are made from files of numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liver_ct.errors import StudyError
from liver_ct.files import write_text

END = "<!-- end -->"
TITLE = "# The experiment\n"


def write_block(text: Path, start: str, parts: Sequence[str], plots: Path, begin: bool = False) -> None:
    """Put parts of Markdown between a page's marks; a page that is not there is begun, the rest of one stays.

    Args:
        text: the page.
        start: the mark the block begins with; ``END`` ends it.
        parts: those that are not empty, with an empty line between them.
        plots: folder of the plots, which they call ``PLOT``.
        begin: put the marks at the end of a page that lacks them.

    Raises:
        StudyError: the page lacks a mark.
    """
    folder = os.path.relpath(plots, text.parent)
    at = "" if folder == "." else f"{folder}/"
    block = "\n\n".join([start, *(part.replace("PLOT/", at) for part in parts if part), END])
    old = text.read_text(encoding="utf-8") if text.exists() else f"{TITLE}\n{start}\n{END}\n"
    if begin and start not in old:
        old = f"{old.rstrip()}\n\n{start}\n{END}\n"
    if start not in old or END not in old.split(start, 1)[1]:
        raise StudyError(f"{text}: the marks {start} and {END} are missing. Put them where the tables belong.")
    before, rest = old.split(start, 1)
    write_text(text, before + block + rest.split(END, 1)[1])


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def spread(low_high: Sequence[float] | None, sign: bool = False) -> str:
    """``0.80 to 0.90``; ``-`` for no interval."""
    if low_high is None:
        return "-"
    return " to ".join(f"{v:+.3f}" if sign else f"{v:.3f}" for v in low_high)
