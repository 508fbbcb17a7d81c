"""Errors that a user can do something about, and how any error is put into one line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

INTERRUPTED = 130  # exit status of a program that Ctrl-C ended
# what NumPy, PyTorch, ITK and the system say, each in its own words
MEMORY = re.compile(r"(out of|not enough|allocate) memory|to allocate|bad_alloc|alloc_failed", re.IGNORECASE)
FREE_SPACE = "Free space or choose another --output."
FEWER_FILES = "Use --jobs 1, or allow more open files (ulimit -n)."
FIXES = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: "Allow larger files (ulimit -f) or choose another --output.",
    errno.ENAMETOOLONG: "Shorten its name, or choose an --output with a shorter path.",
    errno.EMFILE: FEWER_FILES,
    errno.ENFILE: FEWER_FILES,
    errno.EIO: "Check the disk.",
}


class StudyError(ValueError):
    """Input that cannot be used, or work that cannot be done; the message is ``<file>: <cause>. <fix>``."""


def is_study_error(error: BaseException) -> bool:
    """Whether an error is a StudyError, the package's own or a bundle's.

    A bundle cannot import this package, so each raises a class of its own; they share the name only.
    """
    return any(kind.__name__ == StudyError.__name__ for kind in type(error).__mro__)


def printable(text: str) -> str:
    """A text on one line of any terminal: whatever in it is no printable character is escaped, as Python writes it."""
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    """Of a byte of a file name that is no text, which Python keeps as a lone surrogate, the byte."""
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode("ascii")


def describe(error: BaseException, path: Path) -> str:
    """What went wrong with the study at ``path`` in one line, ``<file>: <cause>. <fix>``."""
    causes = list(causes_of(error))
    own = find_study_error(error)
    system = next((e for e in causes if isinstance(e, OSError) and e.errno), None)
    short = any(is_memory_error(e) for e in causes)
    if own and not (short and "memory" not in str(own)):
        line = str(own)
    elif short:
        line = f"{path}: not enough memory for this study. {_more_memory(causes)}"
    elif system:
        line = describe_system_error(system, path)
    else:
        line = f"{path}: {_describe_other(causes[-1])}"
    return printable(line)


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out, of whichever library's making the error is."""
    if isinstance(error, MemoryError) or is_study_error(error):
        return isinstance(error, MemoryError)
    return MEMORY.search(str(error)) is not None


def _more_memory(causes: list[BaseException]) -> str:
    if any("CUDA" in str(cause) for cause in causes):
        return "Close other programs on the GPU or use --device cpu."
    return "Close other programs or use --jobs 1."


def _describe_other(error: BaseException) -> str:
    """Cause and fix of what is neither bad input nor the system's refusal."""
    text = " ".join(str(error).split())[:200]
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name} is not installed. Install it with pip."
    if "CUDA error" in text or "CUDA driver" in text:
        return f"the GPU cannot be used ({text}). Check its driver or use --device cpu."
    return f"{type(error).__name__}: {text}. This is unexpected; please report it."


def find_study_error(error: BaseException) -> BaseException | None:
    """The StudyError behind an error, the package's own or a bundle's; None for any other error."""
    return next((cause for cause in causes_of(error) if is_study_error(cause)), None)


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, down to the first cause; MONAI wraps what its transforms raise."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def describe_system_error(error: OSError, path: Path) -> str:
    """What the system refused: to read the study's own file, or else to write."""
    own = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(path)
    fix = FIXES.get(error.errno or 0, "Check that it can be read." if own else "Choose another --output.")
    name = path if error.filename is None else os.fsdecode(error.filename)
    return f"{name}: {error.strerror or error}. {fix}"
