"""A folder of studies worked off: each one's results published whole, failures noted, the index written at the end."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from liver_ct.chain.crew import Crew
from liver_ct.chain.pipeline import LiverCT
from liver_ct.chain.progress import Progress
from liver_ct.chain.studies import Study, find_studies, finished_outputs, place_of
from liver_ct.chain.terms import MaskSource
from liver_ct.errors import StudyError, describe
from liver_ct.files import is_zip
from liver_ct.outputs.folders import PARTIAL, alone, check_target, is_whole, publish, vanished, work_folder
from liver_ct.outputs.names import ALWAYS, INDEX, LESION_OUTPUTS, SUMMARY, Output
from liver_ct.outputs.writing import import_writers, write_study


class ChainOptions(NamedTuple):
    """How studies are taken through the chain.

    Args:
        seg_bundle: folder of the segmentation bundle.
        cls_bundle: folder of the classification bundle.
        mask_source: how the classifier uses the Prob-Mask; None as its bundle is set.
        device: cpu, cuda, cuda:1 or mps; None takes a GPU of NVIDIA's if there is one.
        jobs: studies at a time; None takes 2 where there are two CPU cores, 1 in a crew.
        overwrite: do finished studies again.
        outputs: what to write beyond the files that are always written; index.html and summary.csv come with reports.
        series: SeriesNumber or SeriesInstanceUID of the CT, for DICOM folders that hold several.
    """

    seg_bundle: Path
    cls_bundle: Path
    mask_source: MaskSource | str | None = None
    device: str | None = None
    jobs: int | None = None
    overwrite: bool = False
    outputs: Collection[Output] = (Output.PICTURE, Output.REPORT)
    series: str | None = None


def work_off(source: Path, output: Path, options: ChainOptions, progress: Progress) -> int:
    """Take every study under ``source`` through the chain, shared with the other processes of a crew.

    Args:
        source: a CT, a DICOM series folder, or a folder of studies.
        output: gets a folder per study, index.html and summary.csv.
        options: how it is done.
        progress: is told of each study.

    Returns:
        How many studies failed, in all processes, and how many folders and images could not be taken; each has been
        told to ``progress``.

    Raises:
        StudyError: nothing can be begun; OSError likewise.
    """
    output, crew, untaken = output.resolve(), Crew(), [0]

    def not_taken(line: str) -> None:
        if crew.rank == 0:
            untaken[0] += 1
            progress.failed(line)

    studies = find_studies(source, not_taken)
    check_options(options)
    output.mkdir(parents=True, exist_ok=True)
    jobs = min(options.jobs or (1 if crew.size > 1 else 2), torch.get_num_threads(), len(studies))
    chains = [load_chain(options) for _ in range(jobs)]
    chains[0].load_savers(output / PARTIAL)  # now: MONAI goes through sys.modules to load a bundle's parts
    importing = threading.Thread(target=import_writers, args=(options.outputs,), daemon=True)
    importing.start()
    done: list[Path] = []
    each: Callable[[LiverCT, Study], str]
    each = partial(process, output=output, overwrite=options.overwrite, outputs=options.outputs, done=done)
    listed = Output.REPORT in options.outputs or (output / INDEX).exists()
    if listed:
        each = noted(each, output)
    progress.start(len(studies), shown=crew.rank == 0)
    try:
        failed = process_all(chains, crew.share(studies), progress, each)
    finally:
        progress.close()
        importing.join()  # where all was finished before; Python dies of an import that it ends in
    for target in lost(done, output):
        failed += 1
        progress.failed(describe(vanished(target), target))
    return crew.finish(failed + untaken[0], partial(list_studies, output, progress) if listed else nothing_more)


def lost(done: Sequence[Path], output: Path) -> list[Path]:
    """Of the results of this run, those that are no longer there; the folder of all of them where it is gone."""
    if not all(is_whole(target) for target in done):
        time.sleep(1)  # another run may just be putting its own there
    missing = [target for target in done if not is_whole(target)]
    return missing if output.is_dir() else [output]


def check_options(options: ChainOptions) -> None:
    """Raise StudyError for a value that cannot be."""
    if options.mask_source is not None:
        MaskSource.named(options.mask_source)
    if options.jobs is not None and options.jobs < 1:
        raise StudyError(f"--jobs {options.jobs}: nothing would be done. Use 1 or more.")


def load_chain(options: ChainOptions) -> LiverCT:
    """Both bundles with their weights; raises StudyError where one cannot be used."""
    return LiverCT(
        device=options.device,
        seg_bundle=options.seg_bundle,
        cls_bundle=options.cls_bundle,
        mask_source=options.mask_source,
        series=options.series,
    )


def nothing_more() -> int:
    """Nothing to do at the end, so nothing fails."""
    return 0


def process(
    chain: LiverCT, study: Study, output: Path, overwrite: bool, outputs: Collection[Output], done: list[Path]
) -> str:
    """Bring one study's results to ``output/<case>``, whole or not at all; returns a line that says what was done.

    Their folder is added to ``done``.
    """
    left_out = Output.DICOM in outputs and not (study.path.is_dir() or is_zip(study.path))
    outputs = {*outputs} - {Output.DICOM} if left_out else outputs
    remark = "    without DICOM, as it is no DICOM series" if left_out else ""
    record = chain.record(study.path)
    target = place_of(output / study.case, record)
    there = set() if overwrite else finished_outputs(target, record)
    missing = {name for extra in outputs for name in extra.files}.union(ALWAYS) - there
    if not missing:
        done.append(target)
        return f"{target.name}: finished before, left as it is{remark}"
    check_target(target)
    alike = there & finished_outputs(target, {**record, **chain.how})
    wanted = {extra for extra in outputs if not missing.isdisjoint(extra.files)}
    wanted |= {extra for extra in Output if not (there - alike).isdisjoint(extra.files)}
    with work_folder(output, study.case) as work:
        kept = keep(alike - {*ALWAYS, *LESION_OUTPUTS}, target, work)
        wanted |= {extra for extra in outputs if not {*extra.files} - missing <= kept}
        found = chain(study.path, target.name, regions=Output.REPORT in wanted, record=record)
        try:
            write_study(found, work, wanted)
        finally:
            if found.holder:
                found.holder.remove()

        def place(target: Path) -> Path:
            """Where the result goes now, with what another run of this study has written there meanwhile."""
            target = place_of(target, record)
            written = set() if overwrite else finished_outputs(target, record)
            keep(written - {entry.name for entry in work.iterdir()}, target, work)
            return target

        target = publish(work, target, place)
    done.append(target)
    return f"{target.name}: {found.line}    -> {target}{remark}"


def keep(names: Collection[str], target: Path, work: Path) -> set[str]:
    """Copy earlier outputs to the new folder; returns those still there, since other runs may replace them."""
    kept = set()
    for name in names:
        with suppress(FileNotFoundError):
            shutil.copy2(target / name, work / name)
            kept.add(name)
    return kept


def noted(each: Callable[[LiverCT, Study], str], output: Path) -> Callable[[LiverCT, Study], str]:
    """``each``, with what fails noted for the index."""
    from liver_ct.outputs.index import clear_failure, note_failure

    def work(chain: LiverCT, study: Study) -> str:
        try:
            line = each(chain, study)
        except Exception as e:
            note_failure(output, study.case, study.path, describe(e, study.path))
            raise
        clear_failure(output, study.path)
        return line

    return work


def list_studies(output: Path, progress: Progress) -> int:
    """Write summary and index; returns how many of them could not be written.

    One run after the other, so that the last to write has seen what all have published.
    """
    from liver_ct.outputs.index import write_index
    from liver_ct.outputs.summary import write_summary

    failed = 0
    for name, write in ((SUMMARY, write_summary), (INDEX, write_index)):
        try:
            with alone(output):
                write(output)
        except Exception as e:  # under torchrun others wait for this
            progress.failed(describe(e, output / name))
            failed += 1
    return failed


def process_all(
    chains: Sequence[LiverCT], studies: Iterator[Study], progress: Progress, each: Callable[[LiverCT, Study], str]
) -> int:
    """Work the studies off, as many at a time as there are chains; a line for each. Returns how many failed."""
    taking, stopped = threading.Lock(), threading.Event()

    def work(chain: LiverCT) -> int:
        failed = 0
        while not stopped.is_set():
            with taking:
                study = next(studies, None)
            if study is None:
                break
            try:
                progress.done(each(chain, study))
            except Exception as e:
                failed += 1
                progress.failed(describe(e, study.path))
            progress.advance()
        return failed

    if len(chains) == 1:
        return work(chains[0])
    threads = max(1, torch.get_num_threads() // len(chains))
    with ThreadPoolExecutor(len(chains), initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            return sum(pool.map(work, chains))
        finally:
            stopped.set()  # after Ctrl-C, studies that have begun are finished, no others begun
