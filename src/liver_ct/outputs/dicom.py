"""A study's results as DICOM: the liver and its Prob-Mask as Segmentations, the figures as a Structured Report.

Every object gets UIDs of its own: two runs are two results, and the standard wants a new UID for each. A finished study
is not done again, so that sending it twice sends the same objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom import sr
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM

from liver_ct.errors import StudyError
from liver_ct.files import written_whole
from liver_ct.outputs.names import DICOM_LIVER, DICOM_PROB, DICOM_REPORT
from liver_ct.outputs.results import Item, SliceRow, StudyResult

SOFTWARE, MODEL = "liver-ct", "liver CT in two stages"
WARNING = "Algorithm, research only, not for diagnosis"
NEOPLASM = Code("126851005", "SCT", "Neoplasm of liver")
SERIES = {DICOM_LIVER: 9001, DICOM_PROB: 9002, DICOM_REPORT: 9003}  # SeriesNumber, above those of scanners
COLOUR = CIELabColor.from_rgb(221, 130, 101)
REQUIRED = ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
VALID = {  # of what the standard lets be empty, but not lacking
    "PatientID": str, "PatientName": str, "PatientBirthDate": DA, "PatientSex": hd.PatientSexValues, "StudyDate": DA,
    "StudyTime": TM, "StudyID": str, "AccessionNumber": str, "ReferringPhysicianName": str,
}  # fmt: skip


def write_dicom(study: StudyResult, folder: str | Path) -> None:
    """Write liver_mask.dcm (SEG, BINARY), prob_mask.dcm (SEG, FRACTIONAL, 255 is 1) and report.dcm (SR, TID 1500).

    Args:
        study: of a CT that was read from a DICOM series.
        folder: to write to; made if missing.

    Raises:
        StudyError: the CT is no axial DICOM series, or its headers lack what links results to it.
    """
    headers, result = read_headers(study), study.result
    try:
        liver = make_segmentation(headers, study.liver_mask, result, DICOM_LIVER)
        prob = make_segmentation(headers, study.prob_mask, result, DICOM_PROB)
        report = make_report(headers, liver, prob, study.rows, result)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as e:  # whose text may name the patient
        cause = f"its headers allow no DICOM output ({type(e).__name__})"
        raise StudyError(f"{headers[0].filename}: {cause}. Check them, or leave out --dicom_output.") from e
    for name, dataset in ((DICOM_LIVER, liver), (DICOM_PROB, prob), (DICOM_REPORT, report)):
        with written_whole(Path(folder, name)) as part:
            dataset.save_as(part)


def check_series(path: Path) -> None:
    """Raise StudyError for a study that is no DICOM series, before any work is done for it."""
    if not path.is_dir():
        raise StudyError(f"{path}: not a DICOM series, as --dicom_output needs. Give its folder or leave it out.")


def read_headers(study: StudyResult) -> list[pydicom.Dataset]:
    """Headers of the CT's slices in the order of its Z axis; raises StudyError unless each lies where that has it."""
    path, files, affine = study.source, study.files, study.affine
    check_series(Path(path))
    if len(files) != study.ct.shape[2] or io_orientation(affine)[2, 0] != 2:
        raise StudyError(f"{path}: not axial slices, which --dicom_output needs. Give an axial series.")
    headers: list[pydicom.Dataset] = [read_header(file) for file in files]
    index = np.stack([np.zeros(len(files)), np.zeros(len(files)), np.arange(len(files)), np.ones(len(files))])
    places = (np.diag([-1.0, -1, 1, 1]) @ affine @ index)[:3].T
    shift = np.linalg.norm(places - [[float(v) for v in h.ImagePositionPatient] for h in headers], axis=1)
    if shift.max() > np.linalg.norm(affine[:3, 2]) / 2:
        raise StudyError(f"{path}: array and files differ in order. Use a segmentation bundle that keeps it.")
    for (file, header), name in product(zip(files, headers), REQUIRED):
        if not header.get(name):
            raise StudyError(f"{file}: {name} is missing, so no result can refer to it. Send it again.")
    if len({header.SOPInstanceUID for header in headers}) < len(headers):
        cause = "several slices have the same SOPInstanceUID, so no result can refer to one of them"
        raise StudyError(f"{path}: {cause}. Give the scanner's original series, or leave out --dicom_output.")
    tidy(headers[0])
    for header in headers:
        if not header.get("SliceThickness"):
            header.SliceThickness = round(float(np.linalg.norm(affine[:3, 2])), 6)
    return headers


def read_header(file: str | Path) -> pydicom.Dataset:
    """A slice's header; what an anonymiser blanked of its UIDs is in the file meta."""
    header: pydicom.Dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)  # some have no preamble
    for name in ("SOPClassUID", "SOPInstanceUID"):
        if not header.get(name):
            setattr(header, name, header.file_meta.get(f"MediaStorage{name}", ""))
    return header


def tidy(header: pydicom.Dataset) -> None:
    """Empty what is lacking or invalid of the header that highdicom copies patient and study from, in memory only."""
    for tag in list(header.keys()):
        try:
            header[tag]  # from bytes to a value
        except (ValueError, TypeError):  # a weight of "80,5"
            del header[tag]
    for name, kind in VALID.items():
        try:
            kind(header[name].value)
        except (KeyError, ValueError, TypeError):
            setattr(header, name, None)


def make_segmentation(headers: Sequence[pydicom.Dataset], mask: NDArray[Any], result: Item, name: str) -> Segmentation:
    """A DICOM SEG of a mask ``[X, Y, Z]``: uint8 {0, 1} becomes BINARY, floats 0..1 FRACTIONAL (PROBABILITY).

    Frames that hold nothing are left out. Not compressed: every sender and viewer takes it so.
    """
    binary = mask.dtype == np.uint8
    frames = np.ascontiguousarray(mask.T)  # [Z, Y, X]: slices, rows, columns
    label = "Liver" if binary else "Liver, probability"
    segment = SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=SOFTWARE, version=versions(result)[0], family=codes.DCM.ArtificialIntelligence, source=SOFTWARE
        ),
        tracking_uid=hd.UID(),
        tracking_id=label,
        display_color=COLOUR,
    )
    return Segmentation(
        headers,
        frames,
        SegmentationTypeValues.BINARY if binary else SegmentationTypeValues.FRACTIONAL,
        [segment],
        fractional_type=SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=255,
        content_label="LIVER" if binary else "LIVER_PROB",
        content_description=WARNING,
        **series_of(name, f"{label}. {WARNING}", result),
    )


def make_report(
    headers: Sequence[pydicom.Dataset], liver: Segmentation, prob: Segmentation, rows: Sequence[SliceRow], result: Item
) -> sr.Comprehensive3DSR:
    """The Structured Report: the liver's volume, and how certain a tumour is in the highest and each flagged slice.

    Template TID 1500. "Certainty of Finding" (DCM 111012) is the probability in percent that the finding is there.
    """
    finding = {"finding_category": codes.SCT.MorphologicallyAbnormalStructure, "finding_type": NEOPLASM}
    likeliest = max(
        (row for row in rows if row.tumour_probability is not None), key=lambda row: row.tumour_probability or 0
    )
    highest = result["study_tumour_probability"]
    groups: list[Any] = [volume_group(liver, result)]
    groups.append(tumour_group("Tumour, highest slice", headers[likeliest.slice], highest, finding, result))
    for row in (rows[i] for i in result["flagged_slices"]):
        name = f"Tumour, slice {row.slice}, z {row.z_mm:.1f} mm"
        groups.append(tumour_group(name, headers[row.slice], row.tumour_probability, finding, result))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer(result)),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    for remark in (f"{WARNING}.", *result["notes"]):
        comment = sr.TextContentItem(codes.DCM.Comment, remark, sr.RelationshipTypeValues.CONTAINS)
        content[0].ContentSequence.append(comment)
    return sr.Comprehensive3DSR(
        evidence=[*headers, liver, prob],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        **series_of(DICOM_REPORT, f"Liver and tumour. {WARNING}", result),
    )


def volume_group(liver: Segmentation, result: Item) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """The liver's volume, of the segment that it was measured on."""
    segment = liver.SegmentSequence[0]
    source = sr.SourceSeriesForSegmentation(liver.ReferencedSeriesSequence[0].SeriesInstanceUID)
    volume = sr.Measurement(codes.SCT.Volume, result["liver_volume_ml"], Code("ml", "UCUM", "milliliter"))
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
        referenced_segment=sr.ReferencedSegment(liver.SOPClassUID, liver.SOPInstanceUID, 1, source_series=source),
        finding_category=codes.SCT.AnatomicalStructure,
        finding_type=codes.SCT.Liver,
        algorithm_id=algorithm(result),
        measurements=[volume],
    )


def tumour_group(
    name: str, header: pydicom.Dataset, probability: float, finding: Item, result: Item
) -> sr.MeasurementsAndQualitativeEvaluations:
    """How certain a tumour is, and the slice that says so."""
    percent = round(100 * probability, 4)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(hd.UID(), name),
        source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)],
        finding_sites=[sr.FindingSite(codes.SCT.Liver)],
        algorithm_id=algorithm(result),
        measurements=[sr.Measurement(codes.DCM.CertaintyOfFinding, percent, codes.UCUM.Percent)],
        **finding,
    )


def algorithm(result: Item) -> sr.AlgorithmIdentification:
    """What computed a value, and with which settings."""
    settings = [f"mask_source {result['mask_source']}", f"slices flagged from {result['flag_threshold']:g} on"]
    return sr.AlgorithmIdentification(SOFTWARE, ", ".join(versions(result)), settings)


def observer(result: Item) -> sr.ObserverContext:
    """The software as the device that observed; its UID is that of the bundles' weights."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=pydicom.uid.generate_uid(entropy_srcs=list(checksums(result))),
        name=SOFTWARE,
        manufacturer_name=SOFTWARE,
        model_name=MODEL,
        serial_number=serial_number(result),
    )
    return sr.ObserverContext(codes.DCM.Device, device)


def series_of(name: str, description: str, result: Item) -> Item:
    """What each object says of its own series and of the software, as keyword arguments."""
    return {
        "series_instance_uid": hd.UID(),
        "series_number": SERIES[name],
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "series_description": description,
        "manufacturer": SOFTWARE,
        "manufacturer_model_name": MODEL,
        "software_versions": versions(result),
        "device_serial_number": serial_number(result),
        "specific_character_set": hd.SpecificCharacterSetValues.UNICODE_IN_UTF8,  # holds whatever the source's holds
    }


def versions(result: Item) -> tuple[str, ...]:
    """Name and version of each bundle."""
    return tuple(f"{name} {bundle['version']}" for name, bundle in result["bundles"].items())


def checksums(result: Item) -> Iterable[str]:
    """SHA-256 of each bundle's weights."""
    return (bundle["weights_sha256"] for bundle in result["bundles"].values())


def serial_number(result: Item) -> str:
    """The weights, as the number of the device."""
    return "-".join(checksum[:12] for checksum in checksums(result))
