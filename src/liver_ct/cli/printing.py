"""How commands print what they are told, and how they end."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liver_ct.chain.progress import Progress
from liver_ct.cli.terminal import bars_are_off, read_or_silent
from liver_ct.errors import StudyError, describe, printable

if TYPE_CHECKING:
    from tqdm import tqdm

TRAIN = ("sklearn", "tensorboard")  # what the extra `train` installs


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the program with ``ERROR <file>: <cause>. <fix>`` and exit status 1 where the block raises a StudyError, the
    system refuses a file, or what only the extra ``train`` installs is imported."""
    try:
        yield
    except StudyError as e:
        raise SystemExit(f"ERROR {printable(str(e))}") from None
    except ModuleNotFoundError as e:
        if e.name not in TRAIN:
            raise
        raise SystemExit(f"ERROR {e.name}: not installed. pip install 'liver-ct[train]'") from None
    except OSError as e:
        if not e.errno:
            raise
        raise SystemExit(f"ERROR {describe(e, Path(os.fsdecode(e.filename or 'output')))}") from None


def hush_readers() -> None:
    """Have libraries say nothing of a CT's contents, patient and all, which they warn about."""
    warnings.simplefilter("ignore")
    for reader in ("pydicom", "highdicom", "matplotlib", "monai"):
        logging.getLogger(reader).setLevel(logging.CRITICAL)


def print_error(line: str, word: str = "ERROR") -> None:
    """An error on stderr, above any progress bar."""
    from tqdm import tqdm

    with read_or_silent(sys.stderr):
        tqdm.write(f"{word} {printable(line)}", file=sys.stderr)


def print_note(line: str) -> None:
    """What is no error, and to be known, on stderr as an error is."""
    print_error(line, "NOTE")


def print_json(content: Any) -> None:
    """Figures on stdout."""
    with read_or_silent(sys.stdout):
        print(json.dumps(content, indent=1), flush=True)


def progress_bar(*args: Any, shown: bool = True, **knobs: Any) -> tqdm:
    """A bar of tqdm's on stderr, where that is a terminal and bars are wanted."""
    from tqdm import tqdm  # takes a moment to import

    return tqdm(*args, disable=None if shown and not bars_are_off() else True, **knobs)


class ProgressBar(Progress):
    """A bar on stderr where that is a terminal, a line on stdout for each study, and one on stderr for each failure."""

    def start(self, studies: int, shown: bool) -> None:
        """Show an empty bar of so many studies."""
        self.bar = progress_bar(total=studies, unit="study", shown=shown)

    def done(self, line: str) -> None:
        """Print the line above the bar."""
        with read_or_silent(sys.stdout):
            self.bar.write(printable(line))

    def failed(self, line: str) -> None:
        """Print the line on stderr, above the bar."""
        print_error(line)

    def advance(self) -> None:
        """The bar is one study further."""
        self.bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
