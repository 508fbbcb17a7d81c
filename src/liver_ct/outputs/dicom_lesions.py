"""How DICOM objects name what the lesion map shows: a lesion, or a candidate where too few are found for that."""

from __future__ import annotations

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from liver_ct.outputs.lesions import LESION, Lesions


def finding_of(lesions: Lesions) -> tuple[Code, Code]:
    """Category and type: a lesion, or a region that an algorithm has selected and that may be none."""
    if lesions.shown_as == LESION:
        return codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion
    return codes.SCT.SpatialAndRelationalConcept, codes.DCM.SelectedRegion


def name_of(lesions: Lesions, number: int) -> str:
    """Such as ``Candidate 1``."""
    return f"{lesions.shown_as.capitalize()} {number}"


def remark_on(lesions: Lesions | None) -> list[str]:
    """What a reader of the report has to know of its lesions."""
    if lesions is None or not lesions.found or lesions.shown_as == LESION:
        return []
    return ["Candidates are regions that the algorithm has selected. Many are no lesions, and lesions are missed."]
