"""Ctrl-C: one line, whatever the program is doing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from liver_ct.errors import INTERRUPTED

IMPORTING = "<frozen importlib._bootstrap>"


def handle_interrupts(leave: Callable[[], None]) -> None:
    """Have Ctrl-C raise KeyboardInterrupt, but ``leave`` and exit at once while importing and when it comes again.

    Libraries catch what is raised in an import and take it for a missing package; nothing is lost there.
    """

    def stop(_number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, stop_at_once)
        if is_importing(frame):
            stop_at_once()
        raise KeyboardInterrupt

    def stop_at_once(*_: object) -> None:
        leave()
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, stop)


def is_importing(frame: FrameType | None) -> bool:
    """Whether an import is under way in a stack of calls."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False
