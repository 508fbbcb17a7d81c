"""What can be written for a study, and what the files are called."""

from __future__ import annotations

from enum import Enum

ALWAYS = ("prob_mask.nii.gz", "liver_mask.nii.gz", "slices.csv", "result.json")
PROB_MASK, LIVER_MASK, TABLE, RESULT = ALWAYS
PICTURE, REPORT = "overview.png", "report.html"
INDEX = "index.html"  # of all studies, beside their folders
DICOM_OUTPUTS = ("liver_mask.dcm", "prob_mask.dcm", "report.dcm")
DICOM_LIVER, DICOM_PROB, DICOM_REPORT = DICOM_OUTPUTS
OUTPUTS = (*ALWAYS, PICTURE, REPORT, *DICOM_OUTPUTS)


class Output(str, Enum):
    """What can be written for a study beyond the files that are always written."""

    PICTURE = "picture"
    REPORT = "report"
    DICOM = "dicom"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its files."""
        return FILES[self]

    @classmethod
    def chosen(cls, picture: bool, report: bool, dicom: bool) -> frozenset[Output]:
        """The outputs that are true."""
        wanted = {cls.PICTURE: picture, cls.REPORT: report, cls.DICOM: dicom}
        return frozenset(output for output, is_wanted in wanted.items() if is_wanted)


FILES = {Output.PICTURE: (PICTURE,), Output.REPORT: (REPORT,), Output.DICOM: DICOM_OUTPUTS}
