"""What each DICOM object says of its own series and of the software that made it."""

from __future__ import annotations

from collections.abc import Iterable

import highdicom as hd
from pydicom.sr.codedict import codes

from liver_ct.outputs.names import (
    DICOM_LESION_MAP,
    DICOM_LESIONS,
    DICOM_LIVER,
    DICOM_PROB,
    DICOM_PROB_MAP,
    DICOM_REPORT,
)
from liver_ct.outputs.results import Item

SOFTWARE, MODEL = "liver-ct", "liver CT in two stages"
WARNING = "Algorithm, research only, not for diagnosis"
SERIES = {  # SeriesNumber, above those of scanners
    DICOM_LIVER: 9001, DICOM_PROB: 9002, DICOM_REPORT: 9003, DICOM_PROB_MAP: 9004, DICOM_LESIONS: 9005,
    DICOM_LESION_MAP: 9006,
}  # fmt: skip


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


def algorithm_of(result: Item) -> hd.AlgorithmIdentificationSequence:
    """What drew a segment."""
    return hd.AlgorithmIdentificationSequence(
        name=SOFTWARE, version=versions(result)[0], family=codes.DCM.ArtificialIntelligence, source=SOFTWARE
    )


def versions(result: Item) -> tuple[str, ...]:
    """Name and version of each bundle."""
    return tuple(f"{name} {bundle['version']}" for name, bundle in result["bundles"].items())


def checksums(result: Item) -> Iterable[str]:
    """SHA-256 of each bundle's weights."""
    return (bundle["weights_sha256"] for bundle in result["bundles"].values())


def serial_number(result: Item) -> str:
    """The weights, as the number of the device."""
    return "-".join(checksum[:12] for checksum in checksums(result))
