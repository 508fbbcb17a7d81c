# A copy of files.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.seg_errors import StudyError


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
        cause = e.strerror or e
        raise StudyError(f"{path}: cannot be written ({cause}). Choose another output folder or free space.") from e
