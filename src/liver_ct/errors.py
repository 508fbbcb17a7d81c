"""Errors that a user can do something about, and how any error is put into one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

INTERRUPTED = 130  # exit status of a program that Ctrl-C ended


class StudyError(ValueError):
    """Input that cannot be used, or work that cannot be done; the message is ``<file>: <cause>. <fix>``."""


def is_study_error(error: BaseException) -> bool:
    """Whether an error is a StudyError, the package's own or a bundle's.

    A bundle cannot import this package, so each raises a class of its own; they share the name only.
    """
    return any(kind.__name__ == StudyError.__name__ for kind in type(error).__mro__)


def describe(error: BaseException, path: Path) -> str:
    """What went wrong with the study at ``path`` in one line, ``<file>: <cause>. <fix>``."""
    causes = list(causes_of(error))
    own = find_study_error(error)
    system = next((e for e in causes if isinstance(e, OSError)), None)
    if own:
        line = str(own)
    elif system:
        line = describe_system_error(system, path)
    elif isinstance(error, MemoryError) or "memory" in str(error):
        line = f"{path}: not enough memory for this study. Close other programs or take another --device."
    else:
        root = causes[-1]
        line = f"{path}: {type(root).__name__}: {str(root)[:200]}. This is unexpected; please report it."
    return " ".join(line.split())


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
    """A file that cannot be read, if it is the study's own, or else cannot be written."""
    fix = "Free space or choose another --output."
    if error.filename == str(path):
        fix = "Check that it can be read."
    return f"{error.filename or path}: {error.strerror or error}. {fix}"
