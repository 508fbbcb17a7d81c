"""Files: written whole or not at all, JSON, checksums, and where what is shipped with the package lies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]
EARLIER = ".old-"  # begins the name of a folder that holds what is being replaced


def shipped(name: str) -> Path:
    """Where a file or folder of the repository lies, such as ``bundles``: inside the installed package if it was
    installed from a wheel, else in the checkout that this source belongs to."""
    inside = PACKAGE / name
    return inside if inside.exists() else CHECKOUT / name


@contextmanager
def written_whole(target: Path, shared: bool = False) -> Iterator[Path]:
    """A temporary path to write to, renamed to ``target`` when the block ends well and removed when it does not.

    A killed run so never leaves half a file under the name. The folder of ``target`` is made.

    Args:
        target: file to write.
        shared: several processes may write it at the same time; the last one's stays.

    Yields:
        A path beside ``target`` of the same ending, since some writers go by that.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{os.getpid()}-" if shared else ""
    temporary = target.with_name(f".part-{owner}{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(finished: Path, target: Path) -> None:
    """Move a finished folder to ``target``, in place of an earlier one: whole or not at all."""
    with TemporaryDirectory(prefix=EARLIER, dir=finished.parent, ignore_cleanup_errors=True) as old:
        earlier = Path(old, "folder")
        if target.exists():
            os.replace(target, earlier)
        try:
            os.replace(finished, target)
        except OSError:
            if earlier.exists():
                os.replace(earlier, target)
            raise


def walk(root: Path, report: Callable[[OSError], None]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders below ``root``, each once, with the names of what is in them, sorted; links are followed.

    os.walk lists what is behind two loops of links without an end, and pipes and devices as files; this neither returns
    to a folder, nor climbs to one above ``root``, nor names anything but files and links that lead nowhere.

    Args:
        root: folder to begin with.
        report: is told of each folder that cannot be read.

    Yields:
        A folder, the names of the folders in it, of which the caller may remove some, and the names of the files.
    """
    seen, left = {str(folder) for folder in Path(os.path.realpath(root)).parents}, [root]
    while left:
        folder = left.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(folder.iterdir())
        except OSError as e:
            report(e)
            continue
        folders = [entry.name for entry in entries if os.path.isdir(entry)]  # noqa: PTH112 (raises nothing)
        yield folder, folders, [entry.name for entry in entries if is_file_or_lost(entry)]
        left += [folder / name for name in reversed(folders)]


def spelled_out(path: str | os.PathLike[str]) -> Path:
    """A path from the root on, without ``.`` and ``..``; a link keeps its name, unless what is above it is meant."""
    plain = Path(os.path.normpath(Path.cwd() / path))
    meant = Path(os.path.realpath(path))
    return plain if os.path.realpath(plain) == str(meant) else meant


def is_file_or_lost(path: Path) -> bool:
    """Whether something is a file or cannot be known, as a link that leads nowhere: no folder, pipe, socket, device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


class TemporaryFolder:
    """A folder that is there until it is removed, or nothing holds this any more.

    A killed run leaves it, in a folder ``liver-ct-*`` where the system has such. It is alone in that, as a series is
    looked for in the folders beside it, too, and those of the system are many, and of others.

    Attributes:
        path: where it lies.
        remove: removes it.
    """

    def __init__(self) -> None:
        around = Path(mkdtemp(prefix="liver-ct-"))
        self.path = around / "series"
        self.path.mkdir()
        self.remove: Callable[[], object] = weakref.finalize(self, shutil.rmtree, around, ignore_errors=True)


def is_zip(path: Path) -> bool:
    """Whether a file is named as a zip, and not as a single zipped image."""
    name = path.name.lower()
    return name.endswith(".zip") and not name.endswith((".nii.zip", ".dcm.zip")) and path.is_file()


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with written_whole(target) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Content of a JSON file; raises OSError or ValueError."""
    return json.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors put a mark first


def write_json(target: Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all; without spaces where ``indent`` is None."""
    separators = (",", ":") if indent is None else None
    write_text(target, json.dumps(content, indent=indent, separators=separators) + "\n")


def sha256(file: Path) -> str:
    """Checksum of a file, hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


class Checksums:
    """SHA-256 of files, each computed once as long as the file stays as it is.

    Told by place, number, size and both times of change, so that a file that was replaced is read again.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str | int, ...], str] = {}

    def __call__(self, file: Path) -> str:
        """Checksum of a file, hexadecimal; raises OSError."""
        found = file.stat()
        key = (os.path.realpath(file), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key not in self._known:
            self._known[key] = sha256(file)
        return self._known[key]


def sha256_of_all(files: Iterable[Path]) -> str:
    """One checksum of several files, in the order of their names."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()
