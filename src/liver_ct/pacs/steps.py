"""One series brought from waiting to done, in steps such that a kill at any moment neither loses nor doubles a result.

What waits is in the database before anything is done for it. Results are published whole, then noted as made, then
sent, then noted as done: until they are noted as made nothing of them was sent, and afterwards the same files are sent.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pydicom

from liver_ct.chain.formats import DICOM, format_of
from liver_ct.chain.progress import Progress
from liver_ct.errors import StudyError, causes_of, describe, find_study_error, is_memory_error, printable
from liver_ct.outputs.names import safe_name
from liver_ct.pacs.content import content_of
from liver_ct.pacs.rules import Rules, text_of, valid
from liver_ct.pacs.servers import AwayError, GoneError, Series, Server
from liver_ct.pacs.state import Outcome, Row, State, WorkerError

TRIES = 10  # for one series, by workers that are killed at it or a server that fails for it alone
LONGEST = 60.0  # seconds between two tries
SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)  # refuses this to every series alike
KNOWN = (Outcome.DONE, Outcome.REFUSED, Outcome.UNFIT)
Chain = Callable[[Path, str], Path]


class Options(NamedTuple):
    """How a worker works.

    Args:
        once: end when nothing is left to do.
        poll: seconds between two looks at the server.
        settle: seconds without a change after which a series is taken for whole, where the server does not say.
        keep: leave results where the chain puts them.
        new_only: at the very first start, leave out what is on the server already.
        retry: try those again that were refused.
    """

    once: bool = False
    poll: float = 5.0
    settle: float = 60.0
    keep: bool = False
    new_only: bool = False
    retry: bool = False


def read_header(file: Path) -> Any:
    """Header of a slice; raises StudyError for a file that is none, or of another modality."""
    header = valid(lambda: pydicom.dcmread(file, stop_before_pixels=True, force=True))
    if not header or format_of(file) != DICOM:
        raise StudyError("what the server gives for a slice is no DICOM. See the server's log.")
    if text_of(header, "Modality") not in ("CT", ""):
        raise StudyError("its slices are no CT, though the series says so. Nothing to be done.")
    return header


class Steps:
    """What is done for a series.

    Args:
        server: that has it.
        state: of all series.
        rules: which series to take.
        chain: takes the folder of a series and a name; returns the folder of its results, with DICOM files in it.
        options: of the worker.
        progress: is told of each series.
    """

    def __init__(
        self, server: Server, state: State, rules: Rules, chain: Chain, options: Options, progress: Progress
    ) -> None:
        self.server, self.state, self.rules, self.chain = server, state, rules, chain
        self.options, self.progress, self.refused = options, progress, 0

    def advance(self, row: Row, folder: Path) -> bool:
        """Bring a series as far as it goes, whatever happens.

        Args:
            row: of the series, read while no other worker has it.
            folder: empty, to fetch it to.

        Returns:
            Whether something was done for it; False where it has to wait, or is as it was.

        Raises:
            AwayError: nothing can be done for any series now.
            WorkerError: nor will it.
        """
        try:
            return self._do(row, folder)
        except WorkerError:
            raise
        except AwayError as e:
            if e.wholly:
                raise
            self._check_server()
            self._try_later(self._as_of(row), str(e))
        except GoneError:
            self._check_server()
            row = self._as_of(row)
            self.state.finish(row, Outcome.GONE)
            self.progress.done(f"{row.name}: no longer on the server")
        except StudyError as e:
            self._check_server()
            row = self._as_of(row)
            self._refuse(row, f"{row.name}: {e}")
        except Exception as e:  # of what the server says; its text may hold a header's values
            self._try_later(self._as_of(row), f"{type(e).__name__}. This is unexpected; please report it")
        return True

    def _check_server(self) -> None:
        """Raise AwayError where the server fails for all series: it is away, or something else answers at its place,
        such as a proxy."""
        try:
            self.server.check()
        except StudyError as e:
            raise AwayError(str(e), wholly=True) from None

    def _as_of(self, row: Row) -> Row:
        """A series as the database has it now, but for ``touches`` and ``tries``, which are those of ``row``."""
        return self.state.row(row.id)._replace(touches=row.touches, tries=row.tries)

    def _do(self, row: Row, folder: Path) -> bool:
        """Take a series from wherever it is to its end."""
        if row.made:
            row = self._send(row)
        series = self.server.series(row.key)
        row = self.state.change(row, uid=printable(series.uid))
        if series.modality not in ("CT", ""):
            self.state.finish(row, Outcome.NO_CT)
            return False
        if not series.instances:
            raise GoneError
        if row.outcome in KNOWN and row.listing == series.listing:
            self._as_before(row)
            return False
        if self._is_arriving(row, series):
            return False
        self._take(row, series, folder)
        return True

    def _is_arriving(self, row: Row, series: Series) -> bool:
        """Whether more of a series is likely to come; it is looked at again later."""
        now, arriving = time.time(), series.arriving
        if arriving is None:
            same = row.arriving == series.listing
            arriving = not same or now - row.since < self.options.settle
            if not same:
                self.state.change(row, arriving=series.listing, since=now)
        if arriving:
            self.state.change(row, later=now + self.options.poll)
        return arriving

    def _take(self, row: Row, series: Series, folder: Path) -> None:
        """Fetch a series that is whole, and do it where it fits and its content is new."""
        source = folder / safe_name(series.uid.replace("/", "_"))
        is_now: dict[str, Any] = {"listing": series.listing, "slices": len(series.instances)}
        try:
            with disk(folder):
                why = self._fetch(series, source)
                content = content_of(source.iterdir())
        except WorkerError:
            raise
        except StudyError as e:
            self._check_server()
            self._refuse(row, f"{row.name}: {e}", **is_now)
            return
        if why:
            self.state.finish(row, Outcome.UNFIT, why, rules=self.rules.text, **is_now)
            self.progress.done(f"{row.name}: passed over, {why}")
        elif row.outcome in KNOWN and row.content == content:
            self._as_before(row, **is_now)
        else:
            self._process(row, source, {**is_now, "content": content})

    def _as_before(self, row: Row, **is_now: Any) -> None:
        """Keep the outcome of a series of which something changed, but not the content."""
        self.state.finish(row, row.outcome, row.reason, **is_now)

    def _fetch(self, series: Series, target: Path) -> str | None:
        """Fetch a series to a new folder, or one of its slices alone where that says why it does not fit."""
        target.mkdir()
        for number, instance in enumerate(series.instances):
            file = target / f"{number:05d}.dcm"
            self.server.fetch(instance, file)
            if number == 0 and (why := self.rules.why_not(read_header(file), len(series.instances))):
                return why
        return None

    def _process(self, row: Row, source: Path, is_now: dict[str, Any]) -> None:
        """Run the chain, and send what it makes."""
        if row.tries >= TRIES:
            reason = f"the worker was stopped at it {TRIES} times. Is there enough memory?"
            self._refuse(row, f"{row.name}: {reason}", **is_now)
            return
        tried = self.state.change(row, tries=row.tries + 1)  # a kill leaves it so
        try:
            with disk(source):
                made = self.chain(source, source.name)
        except (KeyboardInterrupt, AwayError):
            self.state.change(row, tries=row.tries)
            raise
        except Exception as e:
            self._failed(row, e, source, is_now)
        else:
            self._send(self.state.change(tried, made=str(made), tries=0, **is_now))

    def _failed(self, row: Row, error: Exception, source: Path, is_now: dict[str, Any]) -> None:
        """Refuse a series that cannot be used; what may go better another time is tried again."""
        line = describe(error, source).replace(str(source), row.name)
        if any(map(is_memory_error, causes_of(error))):
            self._try_later(row, line)
        elif "CUDA" in str(error) and not find_study_error(error):  # which spoils it for all that follow
            raise WorkerError(f"{line} This worker ends; what waits is done when it is started again.") from error
        else:
            self._refuse(row, line, **is_now)

    def _send(self, row: Row) -> Row:
        """Send the results that were made; returns the series as it is then."""
        files = sorted(Path(row.made).glob("*.dcm"))
        if not files:  # somebody took them away: they are made again
            return self.state.change(row, made="", listing="", content="", outcome="")
        try:
            for file in files:
                self.server.store(file)
        except GoneError:
            raise AwayError(f"{self.server.name}: takes no results at this address") from None
        except StudyError as e:
            self._check_server()
            self._refuse(row, f"{row.name}: {e}")
        else:
            self.state.finish(row, Outcome.DONE)
            self._clear(row)
            self.progress.done(f"{row.name}: {row.slices} slices, {len(files)} results stored")
        return self.state.row(row.id)

    def _clear(self, row: Row) -> None:
        """Remove results that are to be kept on the server alone."""
        if row.made and not self.options.keep:
            shutil.rmtree(row.made, ignore_errors=True)

    def _refuse(self, row: Row, line: str, **is_now: Any) -> None:
        """Remember a series as one that cannot be used, and why."""
        self.refused += 1
        self.state.finish(row, Outcome.REFUSED, line, **is_now)
        self._clear(row)
        self.progress.failed(line)

    def _try_later(self, row: Row, line: str) -> None:
        """Leave a series for a while, or for good where it failed too often."""
        tries = row.tries + 1
        if tries >= TRIES:
            self._refuse(row, f"{row.name}: {line}")
        else:
            self.state.change(row, tries=tries, later=time.time() + min(2.0**tries, LONGEST))
            self.progress.failed(f"{row.name}: {line.rstrip('.')}. Trying again later.")


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """In the block, what the disk refuses is no fault of the series: raises AwayError. Where a bundle cannot write for
    that, it has made a StudyError of it."""
    try:
        yield
    except AwayError:
        raise
    except Exception as e:
        wholly = any(isinstance(cause, OSError) and cause.errno in SYSTEM for cause in causes_of(e))
        if not wholly and (find_study_error(e) or not isinstance(e, OSError)):
            raise
        raise AwayError(describe(e, folder), wholly=wholly) from e
