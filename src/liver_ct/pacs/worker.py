"""The worker: follows a server, and does what waits, one series after the other, beside any number of others.

Workers share the folder of the state. Who holds a series' folder in it, by a lock of the system that ends with its
process, works on that series alone. (torch.distributed, by which the chain's processes share a list, wants to know how
many there are beforehand, and the list is gone with them.)
"""

from __future__ import annotations

import time
from pathlib import Path

from liver_ct.errors import StudyError
from liver_ct.outputs.folders import claimed_folder, has_locks
from liver_ct.pacs.servers import AwayError, GoneError
from liver_ct.pacs.state import State
from liver_ct.pacs.steps import LONGEST, Steps, disk

GIVE_UP = 300.0  # seconds without a server, for a worker that is to end
DATABASE, INCOMING, RESULTS = "pacs.db", "incoming", "results"


def open_state(folder: Path, server: str) -> State:
    """The state in a folder that workers for one server share; made if missing, for its owner only.

    Raises:
        StudyError: it cannot be used, or is that of another server.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        locks = has_locks(folder)
    except OSError as e:
        raise StudyError(f"{folder}: cannot be written to ({e.strerror}). Choose another --state.") from None
    if not locks:
        raise StudyError(f"{folder}: on a file system without locks, which workers share. Choose a --state elsewhere.")
    state = State(folder / DATABASE)
    state.belongs_to(server)
    return state


def entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing where there is none."""
    try:
        return [*folder.iterdir()]
    except FileNotFoundError:
        return []


class Worker:
    """One of any number of workers for a server.

    Args:
        steps: what is done for a series.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps, self.server, self.state = steps, steps.server, steps.state
        self.options, self.progress = steps.options, steps.progress
        self.away_since, self.pause = 0.0, 0.0
        self.incoming = self.state.file.parent / INCOMING

    def run(self) -> int:
        """Work until nothing is left to do, or for ever; returns how many series were refused.

        Raises:
            StudyError: the state or the chain cannot be used any more, or the server stays away from a worker that is
                to end.
        """
        begun = False
        while True:
            try:
                begun = begun or self._begin()
                self.follow()
                worked = self.take_one()
                self._is_there()
            except AwayError as e:
                self._wait_for(e)
                continue
            if not worked:
                if self.options.once and not self.state.is_waiting():
                    return self.steps.refused
                time.sleep(self.options.poll)

    def _begin(self) -> bool:
        """Say what is followed, once it is there, and what of the known series is to be looked at again."""
        about = self.server.check()
        if self.options.new_only and self.state.is_new():
            self.follow()
            self.state.pass_over()
        self.state.begin()
        self.state.look_again(self.steps.rules.text, self.options.retry)
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self.state.counts().items() if number)
        self.progress.done(f"{self.server.name}: following this {about}{counts and f'; known: {counts}'}")
        return True

    def follow(self) -> None:
        """Note what is new on the server."""
        more = True
        while more:
            try:
                news = self.server.news(self.state.position)
            except (KeyError, TypeError, ValueError, AttributeError, GoneError) as e:
                if isinstance(e, StudyError):
                    raise AwayError(str(e)) from None
                raise AwayError(f"{self.server.name}: answers something unexpected ({type(e).__name__})") from None
            self.state.note(news)
            more = news.more

    def take_one(self) -> bool:
        """Do the first of the waiting series for which something can be done; returns whether there was one."""
        for left in entries(self.incoming):  # by killed workers; patient data do not stay
            with claimed_folder(left):
                pass
        for number in self.state.waiting():
            with disk(self.incoming), claimed_folder(self.incoming / str(number)) as folder:
                row = self.state.row(number)
                if folder and row.waits and row.later <= time.time() and self.steps.advance(row, folder):
                    return True
        return False

    def _is_there(self) -> None:
        """Say that the server is back."""
        if self.away_since:
            self.progress.done(f"{self.server.name}: going on")
        self.away_since = self.pause = 0.0

    def _wait_for(self, away: AwayError) -> None:
        """Wait before the next try, longer each time; one line, however long it takes."""
        now = time.monotonic()
        if not self.away_since:
            self.away_since = now
            self.progress.failed(f"{str(away).rstrip('.')}. Trying again until it works.")
        if self.options.once and now - self.away_since > GIVE_UP:
            raise StudyError(f"{away}. Start again when it works; what is done is remembered.")
        self.pause = min(max(1.0, 2 * self.pause), LONGEST)
        time.sleep(self.pause)
