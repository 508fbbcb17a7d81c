"""Several processes, on one machine or many, that share a list of studies; they meet through torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import torch.distributed as dist

from liver_ct.chain.studies import Study

DAYS = timedelta(days=7)


class Crew:
    """The processes that torchrun (or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) started; else this one alone.

    Only torch.distributed's key-value store is used: whoever is first to count a study up has it. No process group, so
    that slow studies time nothing out.
    """

    def __init__(self) -> None:
        self.rank, self.size, self.store = 0, int(os.environ.get("WORLD_SIZE", 1)), None
        if self.size > 1:
            self.store, self.rank, self.size = next(dist.rendezvous("env://"))

    def share(self, studies: Sequence[Study]) -> Iterator[Study]:
        """Those of the studies that no other process has taken before, each when it is asked for."""
        for study in studies:
            if self.store is None or self.store.add(f"taken/{study.case}", 1) == 1:
                yield study

    def finish(self, failed: int, last: Callable[[], int]) -> int:
        """Wait for the others, since torchrun stops them all when one exits with an error; returns the failures of
        all. One process alone does ``last`` when all are ready, before any leaves; it returns failures, too."""
        if self.store is None:
            return failed + last()
        self.store.add("failed", failed)
        if self.store.add("ready", 1) == self.size:
            self.store.add("failed", last())
            self.store.set("finished", "")
        self.store.wait(["finished"], DAYS)
        return int(self.store.add("failed", 0))
