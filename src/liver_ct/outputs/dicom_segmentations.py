"""Masks as DICOM Segmentations: the liver, its Prob-Mask, and the lesions, a segment each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from liver_ct.outputs.dicom_lesions import finding_of, name_of
from liver_ct.outputs.dicom_series import WARNING, algorithm_of, series_of
from liver_ct.outputs.lesions import Lesions
from liver_ct.outputs.names import DICOM_LESIONS
from liver_ct.outputs.results import Item

LIVER_COLOUR = CIELabColor.from_rgb(221, 130, 101)
OKABE_ITO = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))  # for the colour-blind
LESION_COLOURS = [CIELabColor.from_rgb(*rgb) for rgb in OKABE_ITO]  # in turn


def liver_segmentation(
    headers: Sequence[pydicom.Dataset], mask: NDArray[Any], result: Item, name: str, binary: bool = True
) -> Segmentation:
    """A DICOM SEG of a mask ``[X, Y, Z]`` uint8: 0 and 1 as BINARY, or 0..255 as FRACTIONAL (PROBABILITY).

    Frames that hold nothing are left out. Not compressed: every sender and viewer takes it so.
    """
    label = "Liver" if binary else "Liver, probability"
    pixels = np.ascontiguousarray(mask.T)  # [Z, Y, X]: slices, rows, columns
    pixels = pixels if binary else np.divide(pixels, 255, dtype=np.float32)  # highdicom takes shares
    segment = SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm_of(result),
        tracking_uid=hd.UID(),
        tracking_id=label,
        display_color=LIVER_COLOUR,
    )
    return Segmentation(
        headers,
        pixels,
        SegmentationTypeValues.BINARY if binary else SegmentationTypeValues.FRACTIONAL,
        [segment],
        fractional_type=SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=255,
        content_label="LIVER" if binary else "LIVER_PROB",
        content_description=WARNING,
        **series_of(name, f"{label}. {WARNING}", result),
    )


def lesion_segmentation(headers: Sequence[pydicom.Dataset], lesions: Lesions, result: Item) -> Segmentation:
    """A DICOM SEG (BINARY) with one segment per lesion, numbered as the lesions are."""
    category, kind = finding_of(lesions)
    segments = [
        SegmentDescription(
            segment_number=lesion.number,
            segment_label=name_of(lesions, lesion.number),
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm_of(result),
            tracking_uid=hd.UID(),
            tracking_id=name_of(lesions, lesion.number),
            anatomic_regions=[codes.SCT.Liver],
            display_color=LESION_COLOURS[(lesion.number - 1) % len(LESION_COLOURS)],
        )
        for lesion in lesions.found
    ]
    return Segmentation(
        headers,
        np.ascontiguousarray(lesions.labels.T),
        SegmentationTypeValues.BINARY,
        segments,
        content_label="LESIONS",
        content_description=WARNING,
        **series_of(DICOM_LESIONS, f"{lesions.shown_as.capitalize()}s. {WARNING}", result),
    )
