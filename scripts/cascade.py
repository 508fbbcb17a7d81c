"""CT to liver Prob-Mask to tumour probability: run the two bundles one after the other, in memory, study by study.

python scripts/cascade.py --input CT_OR_FOLDER --output DIR
torchrun --standalone --nproc_per_node=2 scripts/cascade.py --input FOLDER --output DIR
"""

from __future__ import annotations

import memory  # noqa: F401  # before torch

# isort: split
import json
import logging
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import fire
import torch
from crew import Crew
from fire.decorators import SetParseFns
from results import Item, SliceRow, headline, slice_rows, summary, write_rows
from stages import Stage, pick_device
from studies import (
    ALWAYS,
    DICOM_OUTPUTS,
    DICOM_REPORT,
    INDEX,
    LIVER_MASK,
    PICTURE,
    PROB_MASK,
    REPORT,
    RESULT,
    TABLE,
    Study,
    StudyError,
    check_target,
    find_studies,
    fingerprint,
    finished_outputs,
    fresh_folder,
    publish,
)
from tqdm import tqdm

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
PARTIAL = ".partial"  # unfinished studies, hidden beside the finished ones
MASK_SOURCES = ("prob", "binary", "dilated", "none")
DRAWING = threading.Lock()  # matplotlib is not made for threads


class Chain:
    """Both bundles, loaded once for any number of studies, which it takes one at a time."""

    def __init__(
        self, seg: Path, cls: Path, device: torch.device, mask_source: str | None, work: Path, series: str | None = None
    ) -> None:
        self.seg = Stage(seg, device, output_dir=str(work), series=series)
        self.cls = Stage(cls, device, **({"mask_source": mask_source} if mask_source else {}))
        self.threshold = float(self.cls["threshold"])
        self.settings = {
            "mask_source": self.cls["mask_source"],
            "bundles": {"liver_seg": self.seg.identity, "liver_cls": self.cls.identity},
            "series": series,
        }

    @torch.inference_mode()
    def run(self, study: Study, work: Path, extras: Collection[str] = ()) -> Item:
        """Process one study and leave its outputs and the ``extras`` in ``work``; returns what result.json holds."""
        if DICOM_REPORT in extras:
            from dicom_out import check_series, write_dicom  # highdicom takes half a second to import

            check_series(study.path)
        seconds: dict[str, float] = {}
        result = {"case": study.case, **self.record(study)}
        with timed(seconds, "read"):
            ct = self.seg["load"]({"image": str(study.path)})["image"]
        with timed(seconds, "resample"):
            item = self.seg["transform"]({"image": ct})
        with timed(seconds, "segment"):
            item = self.seg.infer(item)
        with timed(seconds, "restore"):
            masks = self.seg["restore"](item)
        with timed(seconds, "classify"):
            tumour = self.cls["score"](self.cls.infer(self.cls["transform"]({"image": ct, "prob": masks["prob"]})))
        with timed(seconds, "save"):
            self._save_masks(masks, study.case, work)
            rows = slice_rows(masks["pred"][0].numpy(), ct.affine.numpy(), tumour)
            write_rows(rows, work / TABLE)
        result |= summary(rows, masks["pred"], float(tumour["study_probability"]), self.threshold)
        if PICTURE in extras:
            with timed(seconds, "picture"), DRAWING:
                self._draw(work / PICTURE, ct, masks["prob"], rows, result)
        if DICOM_REPORT in extras:
            with timed(seconds, "dicom"):
                write_dicom(work, ct, masks, rows, result)
        if REPORT in extras:
            with timed(seconds, "regions"):
                regions = self.cls["regions"](tumour)["regions"] if "regions" in self.cls else None
            with timed(seconds, "report"):
                self._report(work / REPORT, ct, masks["prob"], rows, regions, result, seconds)
        result["seconds"] = {**seconds, "total": round(sum(seconds.values()), 3)}
        (work / RESULT).write_text(json.dumps(result, indent=2) + "\n")
        return result

    def record(self, study: Study) -> Item:
        """What a study's result depends on; a finished study with the same record need not be done again."""
        return {"input": study.path.name, "input_fingerprint": fingerprint(study.path), **self.settings}

    def _save_masks(self, masks: Item, case: str, work: Path) -> None:
        """The segmenter names files after its input; here they are named by what they hold."""
        for key in ("prob", "pred"):
            masks[key].meta["filename_or_obj"] = case
        self.seg["save"](masks)
        for name, postfix in ((PROB_MASK, "prob"), (LIVER_MASK, "seg")):
            (work / f"{case}_{postfix}.nii.gz").rename(work / name)

    def _draw(self, file: Path, ct: torch.Tensor, prob: torch.Tensor, rows: Sequence[SliceRow], result: Item) -> None:
        from overview import draw_overview  # matplotlib takes a second to import, and not every run draws

        title = f"{result['case']}    {headline(result)}"
        draw_overview(file, title, ct[0].numpy(), prob[0].numpy(), ct.affine.numpy(), rows, self.threshold)

    def _report(
        self,
        file: Path,
        ct: torch.Tensor,
        prob: torch.Tensor,
        rows: Sequence[SliceRow],
        regions: torch.Tensor | None,
        result: Item,
        seconds: dict[str, float],
    ) -> None:
        from report import model_card, write_report

        result["seconds"] = {**seconds, "total": round(sum(seconds.values()), 3)}
        place = None if regions is None else (regions[0].numpy(), regions.affine.numpy())
        cards = [model_card(stage) for stage in (self.seg, self.cls)]
        write_report(file, result, rows, ct[0].numpy(), prob[0].numpy(), ct.affine.numpy(), place, cards)


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note in ``seconds[step]`` how long the block took."""
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)


def process(chain: Chain, study: Study, output: Path, overwrite: bool, extras: Collection[str] = ()) -> str:
    """Bring one study's results to ``output/<case>``, whole or not at all; returns a line that says what was done."""
    target, work = output / study.case, output / PARTIAL / study.case
    there = set() if overwrite else finished_outputs(target, chain.record(study))
    missing = {*ALWAYS, *extras} - there
    if not missing:
        return f"{study.case}: finished before, left as it is"
    check_target(target)
    try:
        result = chain.run(study, fresh_folder(work), missing)
        for name in there - {*ALWAYS}:
            shutil.copy2(target / name, work / name)
        publish(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return f"{study.case}: {headline(result)}    -> {target}"


def noted(each: Callable[..., str], output: Path) -> Callable[..., str]:
    """``each``, with what fails noted for the index."""
    from worklist import clear_failure, note_failure

    def work(chain: Chain, study: Study) -> str:
        try:
            line = each(chain, study)
        except Exception as e:
            note_failure(output, study, describe(e, study.path))
            raise
        clear_failure(output, study)
        return line

    return work


def list_studies(output: Path) -> int:
    """Write the index; returns how many times that failed."""
    from worklist import write_index

    try:
        write_index(output)
    except Exception as e:  # under torchrun others wait for this
        tqdm.write(f"ERROR {describe(e, output / INDEX)}", file=sys.stderr)
        return 1
    return 0


def describe(error: BaseException, path: Path) -> str:
    """What went wrong in one line, ``<file>: <cause>. <mend>``; MONAI wraps what its transforms raise."""
    causes = [error]
    while causes[-1].__cause__:
        causes.append(causes[-1].__cause__)
    own = next((e for e in causes if type(e).__name__ == "StudyError"), None)  # each bundle has a class of its own
    system = next((e for e in causes if isinstance(e, OSError)), None)
    if own:
        line = str(own)
    elif system:
        mend = (
            "Check that it can be read." if system.filename == str(path) else "Free space or choose another --output."
        )
        line = f"{system.filename or path}: {system.strerror or system}. {mend}"
    elif isinstance(error, MemoryError) or "memory" in str(error):
        line = f"{path}: not enough memory for this study. Close other programs or take another --device."
    else:
        line = f"{path}: {type(causes[-1]).__name__}: {str(causes[-1])[:200]}. This is unexpected; please report it."
    return " ".join(line.split())


def parse_flag(text: str) -> bool:
    """Fire takes "false" for a text, which would count as true."""
    if text.lower() not in ("true", "false"):
        raise fire.core.FireError(f"{text!r}: use true or false")
    return text.lower() == "true"


def process_all(chains: Sequence[Chain], studies: Iterator[Study], progress: tqdm, each: Callable[..., str]) -> int:
    """Work the studies off, as many at a time as there are chains; a line for each. Returns how many failed."""
    taking, stopped = threading.Lock(), threading.Event()

    def work(chain: Chain) -> int:
        failed = 0
        while not stopped.is_set():
            with taking:
                study = next(studies, None)
            if study is None:
                break
            try:
                tqdm.write(each(chain, study))
            except Exception as e:
                failed += 1
                tqdm.write(f"ERROR {describe(e, study.path)}", file=sys.stderr)
            progress.update()
        return failed

    if len(chains) == 1:
        return work(chains[0])
    threads = max(1, torch.get_num_threads() // len(chains))
    with ThreadPoolExecutor(len(chains), initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            return sum(pool.map(work, chains))
        finally:
            stopped.set()  # after Ctrl-C, studies that have begun are finished, no others begun


@SetParseFns(
    input=str,
    output=str,
    mask_source=str,
    device=str,
    jobs=int,
    overwrite=parse_flag,
    seg_bundle=str,
    cls_bundle=str,
    picture=parse_flag,
    report=parse_flag,
    dicom_output=parse_flag,
    series=str,
)
def cascade(
    input: str,
    output: str,
    mask_source: str | None = None,
    device: str | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
    seg_bundle: str = str(BUNDLES / "liver_seg"),
    cls_bundle: str = str(BUNDLES / "liver_cls"),
    picture: bool = True,
    report: bool = True,
    dicom_output: bool = False,
    series: str | None = None,
) -> None:
    """Find the liver in CTs, and in which slices of it a tumour is likely.

    For each study, OUTPUT/<case>/ gets prob_mask.nii.gz, liver_mask.nii.gz, slices.csv, result.json, overview.png and
    report.html, all or none; OUTPUT/index.html lists all studies there. A study that cannot be processed gives one line
    on stderr, and the exit status is 1 at the end. Under torchrun the processes share the studies.

    Args:
        input: a NIfTI, MHA or NRRD file, a DICOM series folder, or a folder of studies.
        output: folder for the results.
        mask_source: how the classifier uses the Prob-Mask: prob, binary, dilated or none; default as its bundle is set.
        device: cpu or cuda; default a GPU if there is one.
        jobs: studies at a time; default 2 where there are two CPU cores, 1 under torchrun.
        overwrite: true does finished studies again; false leaves out those of the same input, bundles and mask_source.
        seg_bundle: folder of the segmentation bundle.
        cls_bundle: folder of the classification bundle.
        picture: false leaves out overview.png, which takes a second per study.
        report: false leaves out report.html, and makes no index.html where there is none.
        dicom_output: true also writes liver_mask.dcm and prob_mask.dcm (DICOM SEG) and report.dcm (Structured Report).
        series: SeriesNumber or SeriesInstanceUID of the CT, for DICOM folders that hold several.
    """
    warnings.simplefilter("ignore")  # readers warn about file contents, and say them
    for reader in ("pydicom", "highdicom", "monai"):
        logging.getLogger(reader).setLevel(logging.CRITICAL)
    out, crew = Path(output).resolve(), Crew()
    try:
        studies = find_studies(Path(input))
        if mask_source not in (None, *MASK_SOURCES):
            raise StudyError(f"--mask_source {mask_source}: unknown. Use {', '.join(MASK_SOURCES)}.")
        if jobs is not None and jobs < 1:
            raise StudyError(f"--jobs {jobs}: nothing would be done. Use 1 or more.")
        out.mkdir(parents=True, exist_ok=True)
        jobs = min(jobs or (1 if crew.size > 1 else 2), torch.get_num_threads(), len(studies))
        place, where = pick_device(device), (Path(seg_bundle), Path(cls_bundle))
        chains = [Chain(*where, place, mask_source, out / PARTIAL, series) for _ in range(jobs)]
    except Exception as e:
        raise SystemExit(f"ERROR {describe(e, Path(input))}") from None
    extras = (PICTURE,) * picture + (REPORT,) * report + DICOM_OUTPUTS * dicom_output
    each = partial(process, output=out, overwrite=overwrite, extras=extras)
    listed = report or (out / INDEX).exists()
    each = noted(each, out) if listed else each
    with tqdm(total=len(studies), unit="study", disable=None if crew.rank == 0 else True) as progress:
        failed = process_all(chains, crew.share(studies), progress, each)
    failed = crew.finish(failed, partial(list_studies, out) if listed else int)
    with suppress(OSError):
        (out / PARTIAL).rmdir()
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    try:
        fire.Fire(cascade)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on with what is left")
