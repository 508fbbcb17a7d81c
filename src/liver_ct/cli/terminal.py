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
        for descriptor, kept in self.kept.items():
            os.dup2(kept, descriptor)
        for thread in self.copying:
            thread.join(timeout=5)  # a process that was left behind may hold the other end
        self.kept.clear()
        self.copying.clear()

    def _replace(self, descriptor: int, by: int) -> int:
        """Let a file descriptor lead where ``by`` does, which is closed; returns one that leads where it did before."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.kept[descriptor] = os.dup(descriptor)
        os.dup2(by, descriptor)
        os.close(by)
        return self.kept[descriptor]

    def _copy(self, descriptor: int, log: BinaryIO, shown: bool) -> None:
        """Copy what is written to a file descriptor to the log and, if it is to be shown, to where it went before."""
        reading, writing = os.pipe()
        before = self._replace(descriptor, writing)
        thread = threading.Thread(target=copy, args=(reading, before if shown else None, log), daemon=True)
        thread.start()
        self.copying.append(thread)


def copy(reading: int, shown: int | None, log: BinaryIO) -> None:
    """Copy all that comes from the pipe ``reading`` to a log and, if there is one, to a terminal.

    It goes on where one of them takes no more, as on a full disk: otherwise who writes to the pipe would wait forever.
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
    """Let an output that nobody reads any more, as after ``| head``, lead nowhere; the work goes on."""
    try:
        yield
    except BrokenPipeError:
        _point(stream.fileno(), os.devnull)


def open_closed() -> None:
    """Let standard input, output and error lead nowhere where they are closed, as a daemon may start a program.

    Otherwise the next files that are opened would get their file descriptors, and with them what is printed.
    """
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            _point(descriptor, os.devnull)
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)


def _point(descriptor: int, path: str) -> None:
    """Let a file descriptor lead to a file."""
    found = os.open(path, os.O_RDWR)
    if found != descriptor:
        os.dup2(found, descriptor)
        os.close(found)


def open_log(log_file: str) -> BinaryIO:
    """The log file, open to append to; its folder is made."""
    try:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        return Path(log_file).open("ab", buffering=0)
    except OSError as e:
        raise UsageError(f"--log_file {log_file}: {e.strerror}. Choose another file.") from None
