"""What can be written for a study, and what the files are called."""

from __future__ import annotations

import hashlib
from enum import Enum

ALWAYS = ("prob_mask.nii.gz", "liver_mask.nii.gz", "slices.csv", "result.json")
PROB_MASK, LIVER_MASK, TABLE, RESULT = ALWAYS
LESION_OUTPUTS = ("lesion_prob.nii.gz", "lesions.csv")  # where the classification bundle draws a lesion map
LESION_PROB, LESION_TABLE = LESION_OUTPUTS
PICTURE, REPORT = "overview.png", "report.html"
INDEX, SUMMARY = "index.html", "summary.csv"  # of all studies, beside their folders
RECORD_FORM = "urn:liver-ct:result:1"  # which form result.json has; result.schema.json describes it
DICOM_OUTPUTS = ("liver_mask.dcm", "prob_mask.dcm", "prob_map.dcm", "report.dcm")
DICOM_LIVER, DICOM_PROB, DICOM_PROB_MAP, DICOM_REPORT = DICOM_OUTPUTS
DICOM_OF_LESIONS = ("lesions.dcm", "lesion_map.dcm")  # only where there are lesions
DICOM_LESIONS, DICOM_LESION_MAP = DICOM_OF_LESIONS
OUTPUTS = (*ALWAYS, *LESION_OUTPUTS, PICTURE, REPORT, *DICOM_OUTPUTS, *DICOM_OF_LESIONS)
LONGEST = 180  # bytes of a study's folder; temporary names beside it are longer, and 255 is the most that Linux takes


def safe_name(name: str) -> str:
    """A name for a study's folder that every file system, page and terminal takes, and nothing else has in OUTPUT.

    A character that cannot be printed is written as its bytes, ``%0A``; a long name ends in its checksum.
    """
    name = "".join(each if each.isprintable() else _percent(each) for each in name)
    if name.startswith(".") or name.lower() in (INDEX, SUMMARY):
        name = f"_{name}"
    if len(name.encode()) > LONGEST:
        checksum = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{checksum}"
    return name


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


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
