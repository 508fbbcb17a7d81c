"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import StudyError, printable

FREE_SPACE = "Free space or choose another output folder."
FIXES = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: "Allow larger files (ulimit -f) or choose another output folder.",
    errno.ENAMETOOLONG: "Shorten the study's name.",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to, which becomes ``path`` when the block ends without an error.

    The folder is made where it is missing.

    Raises:
        StudyError: the file cannot be written; the temporary one is removed.
    """
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as e:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
        fix = FIXES.get(e.errno or 0, "Choose another output folder.")
        raise StudyError(f"{path}: cannot be written ({e.strerror or e}). {fix}") from e


def require_folder(path: str, knob: str) -> None:
    """Make a folder that is missing, and raise SystemExit with one line where nothing can be written into it.

    Args:
        path: the folder.
        knob: that names it, for the message.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        fix = f"Choose another --{knob}."
        raise SystemExit(printable(f"ERROR {path}: cannot be written to ({e.strerror or e}). {fix}")) from None


def is_special(path: Path) -> bool:
    """Whether something is a pipe, socket or device, which may never answer when it is opened."""
    return path.exists() and not path.is_file() and not path.is_dir()
