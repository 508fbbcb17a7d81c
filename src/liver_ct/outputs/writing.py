"""A study's files: masks, table and result, and what else is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from liver_ct.files import write_json
from liver_ct.outputs.folders import check_target, publish, work_folder
from liver_ct.outputs.names import LESION_TABLE, PICTURE, REPORT, RESULT, TABLE, Output
from liver_ct.outputs.provenance import library_versions, now
from liver_ct.outputs.results import StudyResult, timed, write_rows

if TYPE_CHECKING:
    import torch


def save_study(study: StudyResult, target: Path, outputs: Collection[Output | str] = ()) -> None:
    """Write a study's files to the folder ``target``, all or none; see StudyResult.save."""
    target = target.resolve()
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with work_folder(target.parent, target.name) as work:
        write_study(study, work, outputs)
        publish(work, target)


def import_writers(outputs: Collection[Output | str]) -> None:
    """Import what some outputs are written with: matplotlib and highdicom take half a second each.

    What is not installed is only complained of where it is needed.
    """
    for output in outputs:
        with suppress(ImportError):
            import_module(f"liver_ct.outputs.{Output(output).value}")


def write_study(study: StudyResult, folder: Path, outputs: Collection[Output | str] = ()) -> None:
    """Write a study's files to a folder that is there; result.json, with the seconds of all, comes last.

    The picture is drawn beside DICOM and report, which mostly deflate, outside of Python's lock.
    """
    wanted, seconds = {Output(output) for output in outputs}, dict(study.seconds)
    if Output.DICOM in wanted:
        from liver_ct.outputs.dicom import check_series, write_dicom

        check_series(Path(study.source))
    with timed(seconds, "save"):
        write_masks(study, folder)
        write_rows(study.rows, folder / TABLE)
        write_lesions(study, folder)
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(_draw, study, folder) if Output.PICTURE in wanted else None
        if Output.DICOM in wanted:
            with timed(seconds, "dicom"):
                write_dicom(study, folder)
        if Output.REPORT in wanted:
            with timed(seconds, "report"):
                from liver_ct.outputs.report import write_report

                write_report(replace(study, seconds=dict(seconds)), folder / REPORT)
        if drawing:
            seconds |= drawing.result()
    result = study.result | {"seconds": replace(study, seconds=seconds).total_seconds, "finished": now()}
    if Output.DICOM in wanted:
        result["versions"] |= library_versions("highdicom")
    if Output.REPORT in wanted:
        result["liver_volume_range_ml"] = study.volume_range_ml
    write_json(folder / RESULT, result, indent=2)


def _draw(study: StudyResult, folder: Path) -> dict[str, float]:
    """Write the picture; returns how long that took."""
    seconds: dict[str, float] = {}
    with timed(seconds, "picture"):
        from liver_ct.outputs.picture import write_picture

        write_picture(study, folder / PICTURE)
    return seconds


def write_masks(study: StudyResult, folder: str | Path) -> None:
    """Write prob_mask.nii.gz (uint8 with slope 1/255) and liver_mask.nii.gz (0 and 1) on the CT's grid.

    Args:
        study: what to write.
        folder: to write to; made if missing.

    Raises:
        StudyError: they cannot be written.
    """
    from monai.data import MetaTensor

    prob, pred, affine = tensors(study.prob_mask, study.liver_mask, study.affine)
    masks = {"prob": MetaTensor(prob[None], affine=affine), "pred": MetaTensor(pred[None], affine=affine)}
    study.mask_writer(masks, Path(folder))


def write_lesions(study: StudyResult, folder: str | Path) -> None:
    """Write lesion_prob.nii.gz (uint8 with slope 1/255, on the CT's grid) and lesions.csv, if there is a lesion map.

    Args:
        study: what to write.
        folder: to write to; made if missing.

    Raises:
        StudyError: they cannot be written.
    """
    from monai.data import MetaTensor

    from liver_ct.outputs.lesions import write_table

    if study.lesions is None or study.map_writer is None:
        return
    prob, affine = tensors(study.lesions.prob, study.affine)
    study.map_writer({"lesion_prob": MetaTensor(prob[None], affine=affine)}, Path(folder))
    write_table(study.lesions.found, Path(folder, LESION_TABLE))


def tensors(*arrays: NDArray[Any]) -> list[torch.Tensor]:
    """Arrays that may be read-only as tensors of the same memory, which nobody writes to."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return [torch.from_numpy(array) for array in arrays]
