"""What workers know together of the series on a server: a small database in the folder that they share.

SQLite, since each step must be there wholly or not at all, whenever a worker is killed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from liver_ct.errors import StudyError
from liver_ct.pacs.servers import AwayError, News

TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY,
    key TEXT UNIQUE NOT NULL,          -- the server's
    uid TEXT NOT NULL DEFAULT '',      -- SeriesInstanceUID
    touches INTEGER NOT NULL DEFAULT 1,  -- how many times the server told of something new in it
    seen INTEGER NOT NULL DEFAULT 0,     -- how many of them the outcome knows of; less: it waits
    told INTEGER,                      -- how many slices the server told of last; -1: it is gone
    slices INTEGER,                    -- of the outcome
    outcome TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    listing TEXT NOT NULL DEFAULT '',  -- what was in it, as the server listed it
    content TEXT NOT NULL DEFAULT '',  -- what was in it, by its bytes
    rules TEXT NOT NULL DEFAULT '',    -- that it did not fit
    arriving TEXT NOT NULL DEFAULT '', -- listing that may still grow
    since REAL NOT NULL DEFAULT 0,     -- when that was first seen
    made TEXT NOT NULL DEFAULT '',     -- folder of results that are not all stored
    tries INTEGER NOT NULL DEFAULT 0,
    later REAL NOT NULL DEFAULT 0      -- when to try again
);
"""


class WorkerError(StudyError):
    """A worker cannot go on; no series is to blame for it."""


class Outcome:
    """How a series ended."""

    DONE, REFUSED, UNFIT, GONE, NO_CT, OLD = "done", "refused", "unfit", "gone", "no CT", "old"


class Row(NamedTuple):
    """A series, as it is in the database."""

    id: int
    key: str
    uid: str
    touches: int
    seen: int
    slices: int | None
    outcome: str
    reason: str
    listing: str
    content: str
    rules: str
    arriving: str
    since: float
    made: str
    tries: int
    later: float

    @property
    def name(self) -> str:
        """What to call it in a line: its UID, once that is known."""
        return self.uid or self.key

    @property
    def waits(self) -> bool:
        """Whether something is to be done for it."""
        return self.touches > self.seen


class State:
    """The database; several processes may have it open.

    Args:
        file: made if missing.

    Raises:
        WorkerError: a file that is none, or cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._told():
            self.base = sqlite3.connect(file, timeout=60, isolation_level=None)
            self.base.executescript(TABLES)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            if "full" in str(e) or "locked" in str(e):  # a disk, or another program that has it open
                raise AwayError(f"{self.file}: {e}", wholly=True) from None
            raise WorkerError(f"{self.file}: cannot be used ({e}). Check --state and the space on its disk.") from None

    def _do(self, order: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement; whole or not at all."""
        with self._told():
            return self.base.execute(order, values).fetchall()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Statements that are run all or none."""
        self._do("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._do("ROLLBACK")
            raise
        self._do("COMMIT")

    def belongs_to(self, server: str) -> None:
        """Raise StudyError where the state is that of another server."""
        self._do("INSERT OR IGNORE INTO about VALUES ('server', ?)", server)
        ((known,),) = self._do("SELECT value FROM about WHERE name = 'server'")
        if known != server:
            raise StudyError(f"{self.file.parent}: the state of another server, {known}. Choose another --state.")

    @property
    def position(self) -> str:
        """How far the server's news are known."""
        found = self._do("SELECT value FROM about WHERE name = 'position'")
        return str(found[0][0]) if found else ""

    def note(self, news: News) -> None:
        """Have series wait that are new or changed, and keep the position."""
        with self._together():
            for key in news.changed:
                self._do(
                    "INSERT INTO series (key) VALUES (?) ON CONFLICT (key) DO UPDATE SET touches = touches + 1", key
                )
            for key, count in news.counts.items():
                self._do("INSERT OR IGNORE INTO series (key, told) VALUES (?, ?)", key, count)
                again = "UPDATE series SET touches = touches + 1, told = ? WHERE key = ? AND told IS NOT ?"
                self._do(again, count, key, count)
            for (key,) in self._do("SELECT key FROM series WHERE outcome = ? AND told IS NOT -1", Outcome.GONE):
                if key not in news.counts:  # when it comes again it is new, also with as many slices
                    self._do("UPDATE series SET told = -1 WHERE key = ?", key)
            self._do("INSERT OR REPLACE INTO about VALUES ('position', ?)", news.position)

    def is_new(self) -> bool:
        """Whether no worker has started with this state."""
        return not self._do("SELECT 1 FROM about WHERE name = 'begun'")

    def pass_over(self) -> None:
        """Take all series that are known now for old: they wait no more. This is done once."""
        with self._together():
            self._do("UPDATE series SET seen = touches, outcome = ? WHERE touches > seen", Outcome.OLD)
            self.begin()

    def begin(self) -> None:
        """Note that a worker has started: the state is no longer new."""
        self._do("INSERT OR IGNORE INTO about VALUES ('begun', '')")

    def look_again(self, rules: str, refused: bool) -> None:
        """Let series wait again that did not fit when the rules were others, and with ``refused`` the refused ones."""
        again = "UPDATE series SET touches = touches + 1, outcome = '', listing = '', content = '', tries = 0"
        self._do(f"{again} WHERE seen = touches AND outcome = ? AND rules IS NOT ?", Outcome.UNFIT, rules)
        if refused:
            self._do(f"{again} WHERE seen = touches AND outcome = ?", Outcome.REFUSED)

    def waiting(self) -> list[int]:
        """Series for which something is to be done now, those that failed least first."""
        order = "SELECT id FROM series WHERE touches > seen AND later <= ? ORDER BY tries, id"
        return [number for (number,) in self._do(order, time.time())]

    def is_waiting(self) -> bool:
        """Whether there is something left to do, be it now or later, here or by another worker."""
        return bool(self._do("SELECT 1 FROM series WHERE touches > seen LIMIT 1"))

    def row(self, number: int) -> Row:
        """A series."""
        (found,) = self._do(f"SELECT {', '.join(Row._fields)} FROM series WHERE id = ?", number)  # noqa: S608
        return Row(*found)

    def change(self, row: Row, **values: Any) -> Row:
        """Set columns of a series; returns ``row`` with these set, without what others wrote since it was read."""
        columns = ", ".join(f"{name} = ?" for name in values)
        self._do(f"UPDATE series SET {columns} WHERE id = ?", *values.values(), row.id)  # noqa: S608
        return row._replace(**values)

    def finish(self, row: Row, outcome: str, reason: str = "", **values: Any) -> None:
        """Set the outcome of a series; it waits no more, unless the server told of a change since ``row`` was read."""
        values = {"made": "", "tries": 0, "later": 0, "arriving": "", **values}
        self.change(row, seen=row.touches, outcome=outcome, reason=reason, **values)

    def counts(self) -> dict[str, int]:
        """How many series ended how, and how many wait."""
        ended = dict(self._do("SELECT outcome, COUNT(*) FROM series WHERE touches = seen GROUP BY outcome"))
        ((waiting,),) = self._do("SELECT COUNT(*) FROM series WHERE touches > seen")
        return {**ended, "waiting": waiting}

    def reasons(self) -> list[tuple[str, str, str]]:
        """UID, outcome and reason of the series that were not taken."""
        wanted = "SELECT uid, outcome, reason FROM series WHERE touches = seen AND outcome IN (?, ?) ORDER BY id"
        return self._do(wanted, Outcome.REFUSED, Outcome.UNFIT)
