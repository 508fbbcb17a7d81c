"""A study's folder of results: made anew beside its place, and put there whole, also where several runs share it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from liver_ct.errors import StudyError
from liver_ct.files import EARLIER, replace_folder
from liver_ct.outputs.names import ALWAYS, OUTPUTS

LEFT_BY_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")  # where somebody has looked into a folder
PARTIAL = ".partial"  # unfinished studies, hidden beside the finished ones


def check_target(target: Path) -> None:
    """Raise StudyError when ``target`` is anything but a folder of earlier results: nothing else is replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise StudyError(f"{target}: is in the way and not a result of this program. Choose another --output.")
    names = {entry.name for entry in target.iterdir() if not entry.name.startswith("._")}
    if others := names.difference(OUTPUTS, LEFT_BY_SYSTEMS):
        cause = f"in the way of a new result, as it holds {min(others)}, which is none of this program's"
        raise StudyError(f"{target}: {cause}. Take that away, or choose another --output.")


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a study's result."""
    return all((folder / name).is_file() for name in ALWAYS)


def fresh_folder(folder: Path) -> Path:
    """Make ``folder`` anew; what a killed run left in it goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def work_folder(output: Path, case: str) -> Iterator[Path]:
    """An empty folder for one study in ``output/.partial``, in which no other run works.

    It is gone at the end: published, or removed with what is in it, also where an earlier run was killed.

    Raises:
        StudyError: ``output`` is no longer there; OSError: it cannot be written to.
    """
    names = (case if number == 1 else f"{case}.{number}" for number in count(1))
    held = next(found for name in names if (found := _hold(output / PARTIAL / name)))
    with _emptied(*held) as folder:
        yield folder


@contextmanager
def claimed_folder(folder: Path) -> Iterator[Path | None]:
    """``folder``, made and empty, as long as no other run may have it; None where another has it.

    It is gone at the end, and no longer another's when that was killed.

    Raises:
        StudyError: the folder above it is no longer there; OSError: it cannot be written to.
    """
    held = _hold(folder)
    if held is None:
        yield None
        return
    with _emptied(*held):
        yield folder


def has_locks(folder: Path) -> bool:
    """Whether the file system of a folder tells runs apart; some network folders do not."""
    with claimed_folder(folder / PARTIAL / "locks"), claimed_folder(folder / PARTIAL / "locks") as twice:
        return twice is None


@contextmanager
def _emptied(folder: Path, lock: int) -> Iterator[Path]:
    """A folder of `_hold`, emptied of what a killed run left in it, and removed at the end."""
    try:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield folder
    finally:
        if _is_same(folder, lock):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        with suppress(OSError):  # others may be at work there
            folder.parent.rmdir()


def publish(work: Path, target: Path, place: Callable[[Path], Path] = lambda target: target) -> Path:
    """Move the finished folder ``work`` to ``target``, in place of earlier results: whole or not at all.

    Args:
        work: of `work_folder`.
        target: where to.
        place: says whether it is another place after all, since another run may have taken ``target``.

    Returns:
        Where it went.

    Raises:
        StudyError: something else is in the way, or the folder of results vanished.
    """
    try:
        with alone(work.parent):
            for left in work.parent.glob(f"{EARLIER}*"):  # by a run that was killed here
                shutil.rmtree(left, ignore_errors=True)
            target = place(target)
            check_target(target)
            replace_folder(work, target)
    except FileNotFoundError:
        raise vanished(target.parent) from None
    return target


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, for which other runs wait; raises OSError where there is no folder."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        _take(lock, wait=True)
        yield
    finally:
        os.close(lock)


def vanished(folder: Path) -> StudyError:
    """The error for results that somebody took away during the run."""
    return StudyError(f"{folder}: vanished during the run, with what was in it. Run again, and leave it where it is.")


def _hold(folder: Path) -> tuple[Path, int] | None:
    """Make a folder where it is missing and lock it; None where another run has it. A killed run's lock is gone."""
    while True:
        try:
            folder.parent.mkdir(exist_ok=True)
        except FileNotFoundError:
            raise vanished(folder.parents[1]) from None
        try:
            folder.mkdir(exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another run has just tidied up
            continue
        if not _take(lock, wait=False):
            os.close(lock)
            return None
        if _is_same(folder, lock):
            return folder, lock
        os.close(lock)  # another run published it in between


def _take(lock: int, wait: bool) -> bool:
    """Lock an open folder; False where another run has it. Where the system has no locks, nobody else is there."""
    with suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:  # such as a network folder without locks
            return True
    return True


def _is_same(folder: Path, lock: int) -> bool:
    """Whether an open folder still lies at this path."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(lock))
    except OSError:
        return False
