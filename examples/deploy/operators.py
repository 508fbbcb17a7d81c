"""The two stages as MONAI Deploy operators, each a bundle reached through its config's ids, as scripts/cascade.py does.

The SDK has an operator for bundles; it casts every output to uint8, which leaves nothing of a Prob-Mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pydicom
import torch
from monai.data import MetaTensor
from monai.deploy.core import Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_series_selection import StudySelectedSeries
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator

from liver_ct.chain.notes import all_notes
from liver_ct.chain.stages import Stage, save_masks, study_errors
from liver_ct.errors import StudyError
from liver_ct.files import walk, write_json
from liver_ct.outputs.names import RESULT, TABLE
from liver_ct.outputs.results import Summary, slice_rows, summarise, write_rows


class Masks(NamedTuple):
    """CT, Prob-Mask and liver mask [1, X, Y, Z] between the stages, and the notes on them.

    In a dict the SDK would strip the affines.
    """

    ct: MetaTensor
    prob: MetaTensor
    pred: MetaTensor
    notes: list[str]


class FileLoader(DICOMDataLoaderOperator):
    """The SDK's loader, told which files there are: its own list holds pipes, on which it hangs, and goes round loops.

    A link that leads nowhere and a folder that cannot be read end it, as do those of its own list.
    """

    def _list_files(self, path: Path, files: list[str]) -> None:
        def refused(error: OSError) -> None:
            raise error

        files += [str(folder / name) for folder, _, names in walk(Path(path), refused) for name in names]


class LiverOperator(Operator):
    """Stage 1: the selected CT series to the liver.

    Input ``study_selected_series_list``: one study. Outputs ``seg_image``: the liver mask as uint8 frames
    [slices, rows, columns], in the order of the series' instances, as the SDK's SEG writer takes them; ``masks``, a
    Masks. Writes prob_mask.nii.gz and liver_mask.nii.gz, as the chain does.

    Args:
        stage: the liver_seg bundle.
        output_folder: where the files go.
    """

    def __init__(self, fragment: Fragment, *args, stage: Stage, output_folder: Path, **kwargs) -> None:
        self.stage, self.output_folder = stage, output_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("study_selected_series_list")
        spec.output("seg_image")
        spec.output("masks")

    def compute(self, op_input, op_output, context) -> None:
        series = only_series(op_input.receive("study_selected_series_list"))
        with torch.inference_mode(), gathered(series) as work:
            ct = self.stage["load"]({"image": str(work)})["image"]
            inferred = self.stage.infer(self.stage["transform"]({"image": ct}))
            masks = self.stage["restore"](inferred)
            notes = [note.text for note in all_notes(self.stage, ct, inferred, masks)]
        save_masks(masks, self.output_folder, self.stage.root)
        op_output.emit(frames(masks["pred"], series), "seg_image")
        op_output.emit(Masks(ct, masks["prob"], masks["pred"], notes), "masks")


class TumourOperator(Operator):
    """Stage 2: CT and Prob-Mask to the tumour probability of every slice, and the highest of them.

    Input ``masks``: as from LiverOperator. Output ``text``: the findings, for the SDK's SR writer. Writes result.json
    and slices.csv, as the chain does.

    Args:
        stage: the liver_cls bundle.
        output_folder: where the files go.
    """

    def __init__(self, fragment: Fragment, *args, stage: Stage, output_folder: Path, **kwargs) -> None:
        self.stage, self.output_folder = stage, output_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("masks")
        spec.output("text")

    def compute(self, op_input, op_output, context) -> None:
        masks = op_input.receive("masks")
        with torch.inference_mode():
            item = self.stage["transform"]({"image": masks.ct, "prob": masks.prob})
            tumour = self.stage["score"](self.stage.infer(item))
        liver, affine = masks.pred[0].numpy(), masks.ct.affine.numpy()
        rows = slice_rows(liver, affine, tumour)
        probability, threshold = float(tumour["study_probability"]), float(self.stage["threshold"])
        summary = summarise(rows, liver, affine, probability, threshold)
        write_rows(rows, self.output_folder / TABLE)
        write_json(self.output_folder / RESULT, summary._asdict() | {"notes": masks.notes}, indent=2)
        op_output.emit(report(summary, {row.slice: row.z_mm for row in rows}, masks.notes), "text")


def only_series(studies: list[StudySelectedSeries]) -> DICOMSeries:
    """The first series selected in the only study; raises StudyError for several studies or none selected."""
    found = [study for study in studies or [] if study.selected_series]
    if len(found) != 1:
        raise StudyError(f"--input: {len(found)} studies with a CT series. Give the folder of one study.")
    return found[0].selected_series[0].series


@contextmanager
def gathered(series: DICOMSeries) -> Iterator[Path]:
    """A folder of links to all files of a series, for the bundle's own reader; errors name where the files are.

    The SDK's reader takes gaps and repeated slices without a word, and swaps a pixel's width and height.
    """
    folders = {Path(item.get_native_sop_instance().filename).parent for item in series.get_sop_instances()}
    with TemporaryDirectory() as around:  # alone in it, as the reader looks for more of a series beside it
        work = Path(around, "series")
        work.mkdir()
        for i, file in enumerate(sorted(file for folder in folders for file in folder.iterdir() if file.is_file())):
            if series_uid(file) == series.SeriesInstanceUID:
                Path(work, f"{i}{file.suffix}").symlink_to(file.resolve())
        with study_errors(work, str(min(folders))):
            yield work


def series_uid(file: Path) -> str | None:
    """SeriesInstanceUID of a DICOM file; None for any other file."""
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID
    except Exception:
        return None


def frames(mask: torch.Tensor, series: DICOMSeries) -> np.ndarray:
    """A mask [1, X, Y, Z] with an affine in RAS mm as frames [slices, rows, columns] in the series' order."""
    positions = [item.get_native_sop_instance().ImagePositionPatient for item in series.get_sop_instances()]
    corners = np.array([[-x, -y, z, 1] for x, y, z in positions], dtype=np.float64)  # DICOM: left and back are positive
    index = np.rint(corners @ np.linalg.inv(mask.affine.numpy()).T)[:, 2].astype(int)
    return np.ascontiguousarray(mask[0].numpy().transpose(2, 1, 0)[index])


def report(summary: Summary, z_mm: dict[int, float], notes: list[str]) -> str:
    """The findings and notes in words."""
    places = ", ".join(f"{z_mm[i]:.1f}" for i in summary.flagged_slices) or "none"
    said = f"{summary.line}. Flagged slices, z in mm: {places}."
    return " ".join([said, *notes, "For research, not for diagnosis."])
