"""The chain as a MONAI Deploy app: a DICOM study in; DICOM SEG, text SR, Prob-Mask, result.json and slices.csv out.

python examples/deploy/app.py --input DICOM_FOLDER --output DIR
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src")]
import sdk  # isort: skip # noqa: F401  # before monai.deploy
import liver_ct  # isort: skip # noqa: F401  # before MONAI, for users without a name

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_text_sr_writer_operator import DICOMTextSRWriterOperator
from monai.deploy.operators.dicom_utils import ModelInfo
from operators import FileLoader, LiverOperator, TumourOperator
from pydicom.sr.codedict import codes

from liver_ct.chain.devices import pick_device
from liver_ct.chain.stages import SMALLEST_ML, Stage
from liver_ct.errors import StudyError, describe
from liver_ct.outputs.folders import PARTIAL, fresh_folder

RULES = {"selections": [{"name": "CT", "conditions": {"Modality": "(?i)^CT$"}}]}
TAGS = {"SeriesDescription": "Liver CT two-stage pipeline. For research, not for diagnosis."}
SERIES = {("study_selected_series_list", "study_selected_series_list")}


class LiverApp(Application):
    """Reads a study, takes its CT series of most slices, and runs both bundles on it.

    Args:
        input_folder: holds the study's DICOM files, at any depth.
        output_folder: where all files go.
    """

    def __init__(self, input_folder: Path, output_folder: Path) -> None:
        self.input_folder, self.output_folder = input_folder, output_folder
        super().__init__()

    def compose(self) -> None:
        output, device = self.output_folder, pick_device(None)
        seg = Stage(ROOT / "bundles" / "liver_seg", device, smallest_ml=SMALLEST_ML)
        cls = Stage(ROOT / "bundles" / "liver_cls", device)

        loader = FileLoader(
            self, CountCondition(self, 1), input_folder=self.input_folder, must_load=False, name="loader"
        )
        selector = DICOMSeriesSelectorOperator(
            self, rules=json.dumps(RULES), all_matched=True, sort_by_sop_instance_count=True, name="selector"
        )
        liver = LiverOperator(self, stage=seg, output_folder=output, name="liver")
        tumour = TumourOperator(self, stage=cls, output_folder=output, name="tumour")
        seg_writer = DICOMSegmentationWriterOperator(
            self, segment_descriptions=[liver_segment(seg)], output_folder=output, model_info=model(seg),
            custom_tags=TAGS, name="seg_writer",
        )  # fmt: skip
        sr_writer = DICOMTextSRWriterOperator(
            self, output_folder=output, model_info=model(cls), custom_tags=TAGS, name="sr_writer"
        )

        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, liver, SERIES)
        self.add_flow(liver, tumour, {("masks", "masks")})
        self.add_flow(liver, seg_writer, {("seg_image", "seg_image")})
        self.add_flow(selector, seg_writer, SERIES)
        self.add_flow(tumour, sr_writer, {("text", "text")})
        self.add_flow(selector, sr_writer, SERIES)


def liver_segment(stage: Stage) -> SegmentDescription:
    """The liver in SNOMED CT's terms."""
    return SegmentDescription(
        segment_label="Liver",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_name=stage["_meta_"]["name"],
        algorithm_version=stage["_meta_"]["version"],
    )


def model(stage: Stage) -> ModelInfo:
    """A bundle's name and version, as they go into DICOM."""
    meta = stage["_meta_"]
    return ModelInfo(creator=meta["authors"], name=meta["name"], version=meta["version"])


def main() -> None:
    """Run the app; its files appear in --output when all of them are there."""
    context = Application.init_app_context([sys.argv[0], "--log-level", "WARN", *sys.argv[1:]])
    source, target = Path(context.input_path), Path(context.output_path).resolve()
    work = target / PARTIAL
    try:
        if target.is_dir() and any(entry != work for entry in target.iterdir()):
            raise StudyError(f"{target}: is not empty. Choose another --output.")
        LiverApp(source, fresh_folder(work)).run()
        for file in work.iterdir():
            file.rename(target / file.name)
    except Exception as e:
        raise SystemExit(f"ERROR {describe(e, source)}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
