"""The figures as a DICOM Structured Report, template TID 1500."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import highdicom as hd
import pydicom
from highdicom import sr
from highdicom.seg import Segmentation
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from liver_ct.outputs.dicom_lesions import finding_of, remark_on
from liver_ct.outputs.dicom_places import long_axis, outline
from liver_ct.outputs.dicom_series import MODEL, SOFTWARE, WARNING, checksums, serial_number, series_of, versions
from liver_ct.outputs.lesions import Lesions
from liver_ct.outputs.names import DICOM_REPORT
from liver_ct.outputs.results import Item, StudyResult

NEOPLASM = Code("126851005", "SCT", "Neoplasm of liver")
MILLILITRE = Code("ml", "UCUM", "milliliter")


def make_report(
    headers: Sequence[pydicom.Dataset],
    study: StudyResult,
    liver: Segmentation,
    lesions: Segmentation | None,
    evidence: Sequence[pydicom.Dataset],
) -> sr.Comprehensive3DSR:
    """The Structured Report: the liver's volume, each lesion, and how certain a tumour is in the highest and each
    flagged slice.

    Template TID 1500. "Certainty of Finding" (DCM 111012) is the probability in percent that the finding is there.

    Args:
        headers: of the CT's slices, in the order of Z.
        study: what was found.
        liver: the liver mask, as a SEG.
        lesions: the lesions, as a SEG; None where there are none.
        evidence: everything the report rests on.
    """
    rows, result = study.rows, study.result
    likeliest = max(
        (row for row in rows if row.tumour_probability is not None), key=lambda row: row.tumour_probability or 0
    )
    highest = result["study_tumour_probability"]
    groups: list[Any] = [volume_group(headers, liver, study)]
    if lesions is not None:
        groups += [lesion_group(headers, lesions, study, number) for number in range(len(lesions.SegmentSequence))]
    groups.append(tumour_group("Tumour, highest slice", headers, study, likeliest.slice, highest))
    for row in (rows[i] for i in result["flagged_slices"]):
        name = f"Tumour, slice {row.slice}, z {row.z_mm:.1f} mm"
        groups.append(tumour_group(name, headers, study, row.slice, row.tumour_probability or 0))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer(result)),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    for remark in (f"{WARNING}.", *remark_on(study.lesions), *result["notes"]):
        comment = sr.TextContentItem(codes.DCM.Comment, remark, sr.RelationshipTypeValues.CONTAINS)
        content[0].ContentSequence.append(comment)
    return sr.Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        **series_of(DICOM_REPORT, f"Liver and tumour. {WARNING}", result),
    )


def volume_group(
    headers: Sequence[pydicom.Dataset], liver: Segmentation, study: StudyResult
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """The liver's volume, of the segment that it was measured on; it is outlined where it is largest."""
    largest = max(study.rows, key=lambda row: row.liver_area_mm2).slice
    place = outline(headers[largest], study.liver_mask[..., largest])
    volume = study.summary.liver_volume_ml
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        finding_category=codes.SCT.AnatomicalStructure,
        finding_type=codes.SCT.Liver,
        algorithm_id=algorithm(study),
        measurements=[sr.Measurement(codes.SCT.Volume, volume, MILLILITRE, referenced_coordinates=[place])],
        **segment_of(liver, 1),
    )


def lesion_group(
    headers: Sequence[pydicom.Dataset], drawn: Segmentation, study: StudyResult, index: int
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """A lesion's measurements, of the segment that they were taken on; the diameter has its line in its slice."""
    lesions = cast(Lesions, study.lesions)
    lesion = lesions.found[index]
    category, kind = finding_of(lesions)
    line = long_axis(headers[lesion.key_slice], lesions, lesion, study.affine)
    attenuation = (codes.DCM.AttenuationCoefficient, lesion.mean_hu, codes.UCUM.HounsfieldUnit)
    percent = round(100 * lesion.probability, 4)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        finding_category=category,
        finding_type=kind,
        finding_sites=[sr.FindingSite(codes.SCT.Liver)],
        algorithm_id=algorithm(study),
        measurements=[
            sr.Measurement(codes.DCM.CertaintyOfFinding, percent, codes.UCUM.Percent),
            sr.Measurement(
                codes.SCT.LongAxis, lesion.diameter_mm, codes.UCUM.Millimeter, referenced_coordinates=[line]
            ),
            sr.Measurement(codes.SCT.Volume, lesion.volume_ml, MILLILITRE),
            sr.Measurement(*attenuation, derivation=codes.SCT.Mean),
        ],
        **segment_of(drawn, lesion.number),
    )


def segment_of(drawn: Segmentation, number: int) -> Item:
    """What a measurement group says of the segment it was taken on, as keyword arguments."""
    segment = drawn.SegmentSequence[number - 1]
    source = sr.SourceSeriesForSegmentation(drawn.ReferencedSeriesSequence[0].SeriesInstanceUID)
    reference = sr.ReferencedSegment(drawn.SOPClassUID, drawn.SOPInstanceUID, number, source_series=source)
    tracking = sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID)
    return {"tracking_identifier": tracking, "referenced_segment": reference}


def tumour_group(
    name: str, headers: Sequence[pydicom.Dataset], study: StudyResult, index: int, probability: float
) -> sr.MeasurementsAndQualitativeEvaluations:
    """How certain a tumour is, the slice that says so, and the liver in it, which was judged."""
    header, percent = headers[index], round(100 * probability, 4)
    place = outline(header, study.liver_mask[..., index])
    certainty = (codes.DCM.CertaintyOfFinding, percent, codes.UCUM.Percent)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(hd.UID(), name),
        source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)],
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=NEOPLASM,
        finding_sites=[sr.FindingSite(codes.SCT.Liver)],
        algorithm_id=algorithm(study),
        measurements=[sr.Measurement(*certainty, referenced_coordinates=[place])],
    )


def algorithm(study: StudyResult) -> sr.AlgorithmIdentification:
    """What computed a value, and with which settings."""
    mask_source, threshold = study.record["mask_source"], study.summary.flag_threshold
    settings = [f"mask_source {mask_source}", f"slices flagged from {threshold:g} on"]
    return sr.AlgorithmIdentification(SOFTWARE, ", ".join(versions(dict(study.record))), settings)


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
