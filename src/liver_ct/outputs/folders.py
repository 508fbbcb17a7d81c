"""A study's folder of results: made anew beside its place, and put there whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from liver_ct.errors import StudyError
from liver_ct.files import replace_folder
from liver_ct.outputs.names import OUTPUTS

PARTIAL = ".partial"  # unfinished studies, hidden beside the finished ones


def check_target(target: Path) -> None:
    """Raise StudyError when ``target`` is anything but a folder of earlier results: nothing else is replaced."""
    if not target.exists():
        return
    if not target.is_dir() or any(entry.name not in OUTPUTS for entry in target.iterdir()):
        raise StudyError(f"{target}: is in the way and not a result of this program. Choose another --output.")


def fresh_folder(folder: Path) -> Path:
    """Make ``folder`` anew; what a killed run left in it goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(work: Path, target: Path) -> None:
    """Move the finished folder ``work`` to ``target``, in place of earlier results: whole or not at all."""
    check_target(target)
    replace_folder(work, target)
