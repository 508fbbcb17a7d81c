"""The figures as a DICOM Structured Report, template TID 1500."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import pydicom
from highdicom import sr
from highdicom.seg import Segmentation
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from liver_ct.outputs.dicom_lesions import finding_of, remark_on
from liver_ct.outputs.dicom_places import judged, outlined
from liver_ct.outputs.dicom_series import MODEL, SOFTWARE, WARNING, checksums, serial_number, series_of, versions
from liver_ct.outputs.lesions import Lesion, Lesions
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
    largest = max(rows, key=lambda row: row.liver_area_mm2).slice
    groups: list[Any] = [volume_group(liver, result)]
    groups.append(outlined(groups[0], headers[largest], study.liver_mask[..., largest]))
    if study.lesions is not None and lesions is not None:
        for lesion in study.lesions.found:
            groups.append(lesion_group(headers, lesions, study.lesions, lesion, result))
            within = study.lesions.labels[..., lesion.key_slice] == lesion.number
            groups.append(outlined(groups[-1], headers[lesion.key_slice], within))
    top = tumour_group("Tumour, highest slice", headers, study, likeliest.slice, highest, result)
    groups.append(top)
    for row in (rows[i] for i in result["flagged_slices"]):
        name = f"Tumour, slice {row.slice}, z {row.z_mm:.1f} mm"
        groups.append(tumour_group(name, headers, study, row.slice, row.tumour_probability or 0, result))
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


def volume_group(liver: Segmentation, result: Item) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """The liver's volume, of the segment that it was measured on."""
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        finding_category=codes.SCT.AnatomicalStructure,
        finding_type=codes.SCT.Liver,
        algorithm_id=algorithm(result),
        measurements=[sr.Measurement(codes.SCT.Volume, result["liver_volume_ml"], MILLILITRE)],
        **segment_of(liver, 1),
    )


def lesion_group(
    headers: Sequence[pydicom.Dataset], drawn: Segmentation, lesions: Lesions, lesion: Lesion, result: Item
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """A lesion's measurements, of the segment that they were taken on; the diameter names its slice."""
    category, kind = finding_of(lesions)
    key = headers[lesion.key_slice]
    longest = sr.Measurement(
        codes.SCT.LongAxis,
        lesion.diameter_mm,
        codes.UCUM.Millimeter,
        referenced_images=[sr.SourceImageForMeasurement(key.SOPClassUID, key.SOPInstanceUID)],
    )
    attenuation = (codes.DCM.AttenuationCoefficient, lesion.mean_hu, codes.UCUM.HounsfieldUnit)
    percent = round(100 * lesion.probability, 4)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        finding_category=category,
        finding_type=kind,
        finding_sites=[sr.FindingSite(codes.SCT.Liver)],
        algorithm_id=algorithm(result),
        measurements=[
            sr.Measurement(codes.DCM.CertaintyOfFinding, percent, codes.UCUM.Percent),
            longest,
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
    name: str, headers: Sequence[pydicom.Dataset], study: StudyResult, index: int, probability: float, result: Item
) -> sr.MeasurementsAndQualitativeEvaluations:
    """How certain a tumour is, the slice that says so, and the liver in it, which was judged."""
    header, percent = headers[index], round(100 * probability, 4)
    certainty = (codes.DCM.CertaintyOfFinding, percent, codes.UCUM.Percent)
    place = judged(header, study.liver_mask[..., index])
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(hd.UID(), name),
        source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)],
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=NEOPLASM,
        finding_sites=[sr.FindingSite(codes.SCT.Liver)],
        algorithm_id=algorithm(result),
        measurements=[sr.Measurement(*certainty, referenced_coordinates=[place])],
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
