"""Mutants read by forked processes, so that a crash, a hang or too much memory ends one process only.

concurrent.futures gives up the whole pool where one of its processes dies.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import torch

from fuzz.judging import BAD_LINE, CRASH, HANG, MEMORY, Answer, judge, judge_line
from fuzz.mutating import Mutant, mutate
from fuzz.samples import Sample, write_sample
from liver_ct.chain.stages import read_bundle
from liver_ct.errors import causes_of, describe, find_study_error

MEMORY_GB, SECONDS = 2.0, 20.0
FRESH_MB = 1000
FORK = multiprocessing.get_context("fork")


class Outcome(NamedTuple):
    """What became of the mutant of a number; ``what`` names it in words."""

    number: int
    sample: str
    fields: tuple[str, ...]
    what: str
    kind: str
    detail: str
    seconds: float = 0.0
    peak_mb: float = 0.0


class Job(NamedTuple):
    """What all workers share: the reader, the samples and where mutants are written."""

    load: Callable[[Mapping], Mapping]
    transform: Callable[[Mapping], Mapping]
    samples: Mapping[str, Sample]
    truth: Answer
    seed: int
    folder: Path


def make_job(bundle: Path, samples: Mapping[str, Sample], truth: Answer, seed: int, folder: Path) -> Job:
    """Everything imported once, nothing run yet: threads do not survive a fork."""
    import itk

    torch.set_num_threads(1)
    itk.ImageFileReader, itk.MetaImageIO, itk.NrrdImageIO  # noqa: B018  # imported when first asked for
    parser = read_bundle(bundle)
    parts = (parser.get_parsed_content(name) for name in ("load", "transform"))
    return Job(*parts, samples, truth, seed, folder)


def run_all(job: Job, numbers: Sequence[int], workers: int) -> Iterator[Outcome]:
    """The outcome of each mutant, in no order."""
    left = iter(numbers)
    crew = [Worker(job, i) for i in range(workers)]
    busy = [worker for worker in crew if worker.give(next(left, None))]
    while busy:
        wait([worker.connection for worker in busy], timeout=0.5)
        for worker in [*busy]:
            outcome = worker.outcome()
            if outcome is not None:
                yield outcome
                if not worker.give(next(left, None)):
                    busy.remove(worker)
    for worker in crew:
        worker.stop()


class Worker:
    """A forked process that takes one mutant after another, and is replaced where it is lost."""

    def __init__(self, job: Job, number: int) -> None:
        self.job, self.folder = job, job.folder / f"worker-{number}" / "study"  # alone: series may go on beside
        self.mutant, self.since = 0, 0.0
        self.start()

    def start(self) -> None:
        """Fork."""
        self.connection, theirs = FORK.Pipe()
        self.process = FORK.Process(target=serve, args=(self.job, self.folder, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, number: int | None) -> bool:
        """Begin a mutant; False where there is none left."""
        if number is not None:
            self.mutant, self.since = number, time.monotonic()
            self.connection.send(number)
        return number is not None

    def outcome(self) -> Outcome | None:
        """The outcome, if it is known by now."""
        if self.connection.poll():
            try:
                found: Outcome = self.connection.recv()
            except EOFError:
                return self.lost(CRASH)
            if found.peak_mb > FRESH_MB:  # memory that it keeps would count for the next one
                self.stop()
                self.start()
            return found
        if time.monotonic() - self.since > SECONDS:
            return self.lost(HANG)
        return None

    def lost(self, kind: str) -> Outcome:
        """The outcome of a mutant that took its process along; another process goes on."""
        self.stop()
        signals = {-s.value: s.name for s in signal.Signals}
        detail = f"over {SECONDS:g} s" if kind == HANG else signals.get(self.process.exitcode, "exit")
        self.start()
        mutant = find_mutant(self.job, self.mutant)
        return describe_outcome(mutant, self.mutant, kind, detail, time.monotonic() - self.since, 0)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def serve(job: Job, folder: Path, connection: Connection) -> None:
    """Take numbers, give outcomes; readers' own output is dropped, as C libraries write past Python's."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(silence, stream)
    limit_memory(MEMORY_GB)
    while True:
        number = connection.recv()
        mutant = find_mutant(job, number)
        shutil.rmtree(folder, ignore_errors=True)
        path = write_sample(mutant.sample, folder)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
        start = time.monotonic()
        kind, detail = read(job, mutant, path)
        seconds, peak = time.monotonic() - start, memory_mb("VmHWM")
        if peak > MEMORY_GB * 1000:
            kind, detail = MEMORY, f"{peak:.0f} MB"
        connection.send(describe_outcome(mutant, number, kind, detail, seconds, peak))


def limit_memory(gb: float) -> None:
    """Let the address space grow by what is left of so many GB, beyond what is in memory now."""
    left = gb * 1e9 - memory_mb("VmRSS") * 1e6
    limit = int(memory_mb("VmSize") * 1e6 + left)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def memory_mb(name: str) -> float:
    """A figure of /proc/self/status, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e6


def find_mutant(job: Job, number: int) -> Mutant:
    """The mutant of that number; below 0 the samples as they are."""
    if number >= 0:
        return mutate(job.samples, job.seed, number)
    return Mutant([*job.samples.values()][-number - 1], frozenset(), 0, "unchanged")


def read(job: Job, mutant: Mutant, path: Path) -> tuple[str, str]:
    """Read a study as the chain does, its checks and the resampling included; the outcome and what it says."""
    try:
        image = job.load({"image": str(path)})["image"]
        answer = Answer(image.as_tensor()[0].numpy(), image.affine.numpy())
        job.transform({"image": image})
    except Exception as e:
        return judge_error(e, str(path))
    return judge(mutant, answer, job.truth)


def judge_error(error: Exception, path: str) -> tuple[str, str]:
    """The outcome of a study that raised an error."""
    if any(isinstance(cause, MemoryError) or "can't allocate" in str(cause) for cause in causes_of(error)):
        return MEMORY, "the limit was met"
    if find_study_error(error) is None:
        last = [*causes_of(error)][-1]
        return BAD_LINE, f"{type(last).__name__}: {str(last)[:80]}"
    return judge_line(describe(error, Path(path)), path)


def describe_outcome(mutant: Mutant, number: int, kind: str, detail: str, seconds: float, peak: float) -> Outcome:
    """All that is kept of a mutant."""
    return Outcome(number, mutant.sample.name, tuple(sorted(mutant.fields)), mutant.what, kind, detail, seconds, peak)
