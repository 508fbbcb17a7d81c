"""Errors that a user can do something about, and how any error is put into one line."""

from __future__ import annotations

from pathlib import Path


class StudyError(ValueError):
    """Input that cannot be used, or work that cannot be done; the message is ``<file>: <cause>. <fix>``."""


def is_study_error(error: BaseException) -> bool:
    """Whether an error is a StudyError, the package's own or a bundle's.

    A bundle cannot import this package, so each raises a class of its own; they share the name only.
    """
    return any(kind.__name__ == StudyError.__name__ for kind in type(error).__mro__)


def describe(error: BaseException, path: Path) -> str:
    """What went wrong with the study at ``path`` in one line, ``<file>: <cause>. <fix>``.

    MONAI wraps what its transforms raise, so the causes of the error are looked through as well.
    """
    causes = [error]
    while causes[-1].__cause__:
        causes.append(causes[-1].__cause__)
    own = next((e for e in causes if is_study_error(e)), None)
    system = next((e for e in causes if isinstance(e, OSError)), None)
    if own:
        line = str(own)
    elif system:
        fix = "Check that it can be read." if system.filename == str(path) else "Free space or choose another --output."
        line = f"{system.filename or path}: {system.strerror or system}. {fix}"
    elif isinstance(error, MemoryError) or "memory" in str(error):
        line = f"{path}: not enough memory for this study. Close other programs or take another --device."
    else:
        line = f"{path}: {type(causes[-1]).__name__}: {str(causes[-1])[:200]}. This is unexpected; please report it."
    return " ".join(line.split())
