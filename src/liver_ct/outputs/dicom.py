"""A study's results as DICOM: masks as Segmentations, probabilities as Parametric Maps, the figures as a report.

Every object gets UIDs of its own: two runs are two results, and the standard wants a new UID for each. A finished study
is not done again, so that sending it twice sends the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom

from liver_ct.errors import StudyError
from liver_ct.files import written_whole
from liver_ct.outputs.dicom_headers import check_series, read_headers, slice_name
from liver_ct.outputs.dicom_maps import probability_map
from liver_ct.outputs.dicom_report import make_report
from liver_ct.outputs.dicom_segmentations import lesion_segmentation, liver_segmentation
from liver_ct.outputs.names import (
    DICOM_LESION_MAP,
    DICOM_LESIONS,
    DICOM_LIVER,
    DICOM_PROB,
    DICOM_PROB_MAP,
    DICOM_REPORT,
)
from liver_ct.outputs.results import StudyResult, to_byte

__all__ = ["check_series", "write_dicom"]


def write_dicom(study: StudyResult, folder: str | Path) -> None:
    """Write liver_mask.dcm (SEG, BINARY), prob_mask.dcm (SEG, FRACTIONAL, 255 is 1), prob_map.dcm (Parametric Map) and
    report.dcm (SR, TID 1500); where there are lesions, also lesions.dcm (SEG, BINARY) and lesion_map.dcm (Parametric
    Map).

    Args:
        study: of a CT that was read from a DICOM series.
        folder: to write to; made if missing.

    Raises:
        StudyError: the CT is no axial DICOM series, or its headers lack what links results to it.
    """
    headers = read_headers(study)
    try:
        for name, dataset in make_objects(headers, study):
            with written_whole(Path(folder, name)) as part:
                dataset.save_as(part)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as e:  # whose text may name the patient
        first, cause = slice_name(study, 0), f"its headers allow no DICOM output ({type(e).__name__})"
        raise StudyError(f"{first}: {cause}. Check them, or leave out --dicom_output.") from e


def make_objects(headers: Sequence[pydicom.Dataset], study: StudyResult) -> Iterator[tuple[str, pydicom.Dataset]]:
    """The study's DICOM objects and their file names, from its slices' headers in the order of Z.

    The maps come last and one by one, as each is as large as the CT in float32.
    """
    result, lesions, drawn, stored = study.result, study.lesions, None, to_byte(study.prob_mask)
    liver = liver_segmentation(headers, study.liver_mask, result, DICOM_LIVER)
    yield DICOM_LIVER, liver
    prob = liver_segmentation(headers, stored, result, DICOM_PROB, binary=False)
    yield DICOM_PROB, prob
    if lesions is not None and lesions.found:
        drawn = lesion_segmentation(headers, lesions, result)
        yield DICOM_LESIONS, drawn
    yield DICOM_REPORT, make_report(headers, study, liver, drawn, [*headers, liver, prob, *([drawn] if drawn else [])])
    yield DICOM_PROB_MAP, probability_map(headers, stored, "Liver, probability", result, DICOM_PROB_MAP)
    if lesions is not None and drawn:
        yield DICOM_LESION_MAP, probability_map(headers, lesions.prob, "Tumour, probability", result, DICOM_LESION_MAP)
