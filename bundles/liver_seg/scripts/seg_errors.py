# A copy of errors.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""The error of a study that cannot be used, and the one line that any error becomes."""

from __future__ import annotations

EXPORT_AGAIN = "Export or copy it again."


class StudyError(ValueError):
    """A study that cannot be processed; the message is ``<file>: <cause>. <fix>``, one line."""


def describe(error: BaseException, path: str) -> str:
    """One line for an exception: its StudyError, which MONAI wraps where a transform raises it, or one for any other.

    Args:
        error: what was caught.
        path: the study's file, named where the error is no StudyError.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StudyError):
            return str(cause)
        cause = cause.__cause__
    last_line = (str(error).splitlines() or [""])[-1]
    return f"{path}: {type(error).__name__}: {last_line}. Report this with the file's header."
