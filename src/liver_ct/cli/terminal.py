"""Where a program's output goes: the terminal, a log file, or nowhere; with it that of the processes it starts."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from liver_ct.cli.options import UsageError

STDIN, STDOUT, STDERR = 0, 1, 2
NO_BARS = "TQDM_DISABLE"  # tqdm of the processes started from here knows it, too


def bars_are_off() -> bool:
    """Whether no progress bars are wanted."""
    return bool(os.environ.get(NO_BARS))


class Terminal:
    """Standard output and error of this process, between ``open`` and ``close``."""

    def __init__(self) -> None:
        self.kept: dict[int, int] = {}
        self.copying: list[threading.Thread] = []

    def open(self, quiet: bool, log_file: str | None) -> None:
        """Send both where they are wanted.

        Args:
            quiet: only errors go to the terminal.
            log_file: gets everything as well, appended; None for no log. There are no progress bars then.

        Raises:
            UsageError: the log file cannot be written.
        """
        if quiet:
            os.environ[NO_BARS] = "1"
        if log_file:
            log = open_log(log_file)
            self._copy(STDOUT, log, shown=not quiet)
            self._copy(STDERR, log, shown=True)
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        elif quiet:
            self._replace(STDOUT, os.open(os.devnull, os.O_WRONLY))

    def close(self) -> None:
        """Write out what is left and give both back."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(RuntimeError), read_or_silent(stream):  # an interrupt came in the middle of a line
                stream.flush()
        for number, kept in self.kept.items():
            os.dup2(kept, number)
        for thread in self.copying:
            thread.join(timeout=5)  # a process that was left behind may hold the other end
        self.kept.clear()
        self.copying.clear()

    def _replace(self, number: int, by: int) -> int:
        """Have ``number`` mean what ``by`` does; returns what it meant before."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.kept[number] = os.dup(number)
        os.dup2(by, number)
        os.close(by)
        return self.kept[number]

    def _copy(self, number: int, log: BinaryIO, shown: bool) -> None:
        """Copy what is written to ``number`` to the log, and to where it went before if it is to be shown."""
        reading, writing = os.pipe()
        before = self._replace(number, writing)
        thread = threading.Thread(target=copy, args=(reading, before if shown else None, log), daemon=True)
        thread.start()
        self.copying.append(thread)


def copy(reading: int, shown: int | None, log: BinaryIO) -> None:
    """Copy all that comes from a pipe to a log and, if there is one, to a terminal.

    To the end, also where one of them takes no more, as on a full disk: who writes to the pipe would wait forever.
    """
    targets: list[Callable[[bytes], object]] = [log.write]
    if shown is not None:
        targets.append(partial(os.write, shown))
    while part := os.read(reading, 2**16):
        for target in [*targets]:
            try:
                target(part)
            except OSError:
                targets.remove(target)
    os.close(reading)


@contextmanager
def read_or_silent(stream: TextIO) -> Iterator[None]:
    """Have an output that nobody reads any more, as after ``| head``, lead nowhere; the work goes on."""
    try:
        yield
    except BrokenPipeError:
        _point(stream.fileno(), os.devnull)


def open_closed() -> None:
    """Have standard input, output and error lead nowhere where they are closed, as a daemon may start a program.

    The next files that are opened would get their numbers, and with them what is printed.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            _point(number, os.devnull)
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)


def _point(number: int, path: str) -> None:
    """Have a number of an open file mean another one."""
    found = os.open(path, os.O_RDWR)
    if found != number:
        os.dup2(found, number)
        os.close(found)


def open_log(log_file: str) -> BinaryIO:
    """The log file, open to append to; its folder is made."""
    try:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        return Path(log_file).open("ab", buffering=0)
    except OSError as e:
        raise UsageError(f"--log_file {log_file}: {e.strerror}. Choose another file.") from None
