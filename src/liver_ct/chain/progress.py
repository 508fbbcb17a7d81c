"""What a run tells while it works."""

from __future__ import annotations


class Progress:
    """Told of each study as it is done. This one says nothing; a command gives one that prints."""

    def start(self, studies: int, shown: bool) -> None:
        """So many studies will be worked off; ``shown`` is false in all processes of a crew but one."""

    def done(self, line: str) -> None:
        """A study is done, as ``line`` says."""

    def failed(self, line: str) -> None:
        """Something failed, as ``line`` says: ``<file>: <cause>. <fix>``."""

    def advance(self) -> None:
        """One study more is behind us, done or failed."""

    def close(self) -> None:
        """All studies are behind us."""
