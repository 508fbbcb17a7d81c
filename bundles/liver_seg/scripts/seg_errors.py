# A copy of errors.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""The error of a study that cannot be used, and the one line that any error becomes."""

from __future__ import annotations

import re

MEMORY = re.compile(r"(out of|not enough|allocate) memory|to allocate|bad_alloc|alloc_failed", re.IGNORECASE)
IN_WORKER = re.compile(r"^(?:\w+\.)*StudyError: (.+)$", re.MULTILINE)  # all that a DataLoader's process leaves of one
EXPORT_AGAIN = "Export or copy it again."
CLOSE_OTHERS = "Close other programs, or use --device cpu instead of a GPU."


class StudyError(ValueError):
    """A study that cannot be processed; the message is ``<file>: <cause>. <fix>``, one line."""


def printable(text: str) -> str:
    """A text on one line of any terminal: whatever in it is no printable character is escaped, as Python writes it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out, in NumPy's, PyTorch's, ITK's or the system's words."""
    if isinstance(error, (MemoryError, StudyError)):
        return isinstance(error, MemoryError)
    return MEMORY.search(str(error)) is not None


def describe(
    error: BaseException,
    path: str,
    work: str = "this study",
    memory: str = CLOSE_OTHERS,
    unknown: str = "Report this with the file's header.",
) -> str:
    """One line for an exception: its StudyError, which MONAI wraps where a transform raises it, or one for any other.

    Args:
        error: what was caught.
        path: the study's file, named where the error is no StudyError.
        work: what there is not enough memory for.
        memory: what to do where memory ran out.
        unknown: what to do about any other error.
    """
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    own = next((each for each in causes if isinstance(each, StudyError)), None)
    system = next((each for each in causes if isinstance(each, OSError) and each.errno), None)
    short = any(is_memory_error(each) for each in causes)
    if own and not (short and "memory" not in str(own)):
        line = str(own)
    elif short:
        line = f"{path}: not enough memory for {work}. {memory}"
    elif system:
        line = f"{system.filename or path}: {system.strerror}. Check that it can be read, or written."
    elif found := IN_WORKER.search(str(causes[-1])):
        line = found[1]
    else:
        line = f"{path}: {type(causes[-1]).__name__}: {_short(causes[-1])}. {unknown}"
    return printable(line)


def _short(error: BaseException) -> str:
    """What an error says, in 200 characters of one line; of one in a DataLoader's process its last line."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    text = lines[-1] if "Original Traceback" in str(error) else " ".join(lines)
    return " ".join(text.split())[:200].rstrip(". ")
