"""Files: written whole or not at all, JSON, checksums, and where what is shipped with the package lies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]


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
    old = finished.with_name(f"{finished.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(finished, target)
    shutil.rmtree(old, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with written_whole(target) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Content of a JSON file; raises OSError or ValueError."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(target: Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all; without spaces where ``indent`` is None."""
    separators = (",", ":") if indent is None else None
    write_text(target, json.dumps(content, indent=indent, separators=separators) + "\n")


def sha256(file: Path) -> str:
    """Checksum of a file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sha256_of_all(files: Iterable[Path]) -> str:
    """One checksum of several files, in the order of their names."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()
