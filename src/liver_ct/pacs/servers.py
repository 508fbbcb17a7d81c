"""What a worker asks of a DICOM server, whichever it is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol


class AwayError(Exception):
    """The server cannot do what it is asked for now; the message is one line.

    Args:
        line: ``<server>: <cause>``.
        wholly: it will not do it for another series either.
    """

    def __init__(self, line: str, wholly: bool = False) -> None:
        super().__init__(line)
        self.wholly = wholly


class GoneError(Exception):
    """What was asked for is not on the server, or no longer."""


class Instance(NamedTuple):
    """One object of a series: its SOPInstanceUID, where the server has it, and what changes when it is replaced."""

    uid: str
    place: str
    version: str = ""


class Series(NamedTuple):
    """A series as the server has it now.

    Args:
        uid: SeriesInstanceUID.
        modality: as in DICOM; empty where the server does not say.
        instances: what is in it.
        arriving: whether more is likely to come; None where the server does not know.
    """

    uid: str
    modality: str
    instances: tuple[Instance, ...]
    arriving: bool | None = None

    @property
    def listing(self) -> str:
        """Checksum of what is in it, without having read it."""
        lines = sorted(f"{instance.uid} {instance.version}\n" for instance in self.instances)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class News(NamedTuple):
    """What a server tells of its series.

    Args:
        changed: keys of series in which something is new.
        counts: instances by key of series that are there, whether new or not; None where the server does not say.
        position: where to go on, with `Server.news`.
        more: whether there is more to tell at once.
    """

    changed: Collection[str]
    counts: Mapping[str, int | None]
    position: str
    more: bool = False


class Server(Protocol):
    """A DICOM server; a series has a key that it is asked for by.

    Each call raises AwayError, or StudyError where the server refuses; those for a series also GoneError.
    """

    name: str

    def check(self) -> str:
        """What the server is, in a few words; raises where it does not answer as such a server."""

    def news(self, position: str) -> News:
        """What is new since a position; empty at the beginning."""

    def series(self, key: str) -> Series:
        """What is in a series."""

    def fetch(self, instance: Instance, file: Path) -> None:
        """Write an instance to a file."""

    def store(self, file: Path) -> None:
        """Send a DICOM file; one that is there already is no error."""
