"""What cases are called, what errors reading them gives, and the error for a case that cannot be used."""

from __future__ import annotations

import csv
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from liver_ct import files
from liver_ct.errors import StudyError

CASE = r"[A-Za-z]*\d+"  # LiTS counts its volumes; other sets put letters before the number
Entry = dict[str, Any]  # of a datalist: image, label, case_id, group, source and what is known of tumours
Track = Callable[[Iterable[Any]], Iterable[Any]]  # wraps what is worked off, to show progress
TUMOUR = 2  # LiTS: 0 background, 1 liver, 2 tumour
SPLITS = ("training", "validation", "test")
NAMED = ("image", "label", "case_id", "group")  # of an entry, always
SLICE_SPLITS = ("training_slices", "validation_slices")
READ_ERRORS = (
    OSError, ValueError, EOFError, zlib.error, lzma.LZMAError,
    ImageFileError, HeaderDataError, zipfile.BadZipFile,
)  # fmt: skip


class BrokenPair(StudyError):  # noqa: N818 (it says what is broken)
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


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises BrokenPair naming the file."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise BrokenPair(f"{path}: holds no JSON object, but {type(content).__name__}. Write it as {{...}}.")
    return content


def read_csv(path: Path) -> list[list[str]]:
    """Rows of a CSV that are not empty, its columns between commas or, as spreadsheets of many countries write them,
    semicolons; raises BrokenPair.

    In UTF-8 alone: by a guessed code page one name could become two, and so one person two.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets put a mark first
        heading = text.partition("\n")[0]
        delimiter = ";" if ";" in heading and "," not in heading else ","
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except UnicodeDecodeError:
        raise BrokenPair(f"{path}: is no text in UTF-8. Save it as CSV UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise BrokenPair(f"{path}: cannot be read ({brief(error)}). Check the path.") from None


def read_datalist(path: Path) -> dict[str, list[Entry]]:
    """The lists of a datalist.json, each entry with the names of its files, case and person; raises BrokenPair."""
    content = read_object(path)
    for section in (*SPLITS, *SLICE_SPLITS):
        entries = content.get(section, [])
        whole = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        if not whole or any(not isinstance(entry.get(key), str) for entry in entries for key in NAMED):
            raise BrokenPair(f"{path}: {section} is no list of cases with {', '.join(NAMED)}. Prepare the data again.")
    return content


def case_name(case: Any, path: Any = "case") -> str:
    """Case 7, "07", "volume-7", "liver_7" or "volume-7.nii.gz" as "7", "volume-b05" as "b05"; raises BrokenPair."""
    pattern = rf"(?:(?:volume|segmentation)-|liver_)?({CASE})(?:\.nii(?:\.gz)?)?"
    if match := re.fullmatch(pattern, str(case).strip()):
        return plain_name(match[1])
    raise BrokenPair(f"{path}: {case!r} names no case. Write it as volume-7 or 7.")


def plain_name(case: str) -> str:
    """A case's name without leading zeros where it is a number, so that "007" and "7" are one case."""
    return str(int(case)) if case.isdecimal() else case


def natural_order(case: str) -> tuple[str, int]:
    """Sort key that puts "2" before "10", and numbers before names such as "b05"."""
    letters = case.rstrip("0123456789")
    return letters, int(case[len(letters) :])
