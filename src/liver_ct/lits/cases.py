"""What cases are called, what errors reading them gives, and the error for a case that cannot be used."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from liver_ct import files
from liver_ct.errors import StudyError

SPLITS = ("training", "validation", "test")
SLICE_SPLITS = ("training_slices", "validation_slices")
READ_ERRORS = (OSError, ValueError, EOFError, zlib.error, ImageFileError, HeaderDataError, zipfile.BadZipFile)


class BrokenPair(StudyError):
    """A case that cannot be used; the message reads `<file>: <cause>. <fix>`."""


def brief(error: Exception) -> str:
    """First line of an error, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(".")


def read_json(path: Path) -> Any:
    """Read JSON; raises BrokenPair naming the file."""
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise BrokenPair(f"{path}: cannot be read as JSON ({brief(error)}). Check path and syntax.") from None


def case_number(case: Any, path: Any = "case") -> int:
    """7 from 7, "7", "volume-7", "liver_7" or "volume-7.nii.gz"; raises BrokenPair."""
    if match := re.fullmatch(r"(?:(?:volume|segmentation)-|liver_)?(\d+)(?:\.nii(?:\.gz)?)?", str(case).strip()):
        return int(match[1])
    raise BrokenPair(f"{path}: {case!r} names no case. Write it as volume-7 or 7.")
