# A copy of dicom.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""A DICOM series: its slices found in a folder, chosen, checked and read as one volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scripts.cls_dicom_pixels import SEND_AGAIN, read_voxels
from scripts.cls_dicom_slices import normal, place_slice, sort_slices
from scripts.cls_errors import StudyError

if TYPE_CHECKING:
    import pydicom

DEFER = 2**14  # bytes; longer values, the pixels, are read when they are asked for
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class of a single CT slice
NO_SLICES = ("LOCALIZER", "SCREEN SAVE")  # in the ImageType of CT Images that are no part of a volume


def read_series(folder: Path, series: str | None = None) -> tuple[torch.Tensor, np.ndarray, list[str]]:
    """Voxels ``[X, Y, Z]`` in HU, int16 where all fit, else float32; RAS affine (mm); files in the order of Z.

    Z runs along the slices' normal. ITK's readers accept gaps, repeated slices and a tilt silently, and take longer.

    Args:
        folder: holds the slices; localizers, screenshots, reports and segmentations in it are passed over.
        series: SeriesNumber or SeriesInstanceUID, needed where there are several.

    Raises:
        StudyError: no CT, several series, a slice that cannot be read or placed, or slices that are not evenly spaced.
    """
    slices = [place_slice(h) for h in choose_series(folder, find_slices(folder), series)]
    slices = sort_slices(folder, slices)
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.cosines[:3] * first.spacing[1], first.cosines[3:] * first.spacing[0]
    affine[:3, 2] = (last.position - first.position) / (len(slices) - 1) if len(slices) > 1 else normal(first)
    affine[:3, 3] = first.position
    files = [str(s.header.filename) for s in slices]
    return torch.from_numpy(read_voxels(slices).T), np.diag([-1.0, -1, 1, 1]) @ affine, files


def find_slices(folder: Path) -> list[pydicom.Dataset]:
    """The CT slices in a folder, of whatever series.

    Raises:
        StudyError: a file that cannot be read, or no slice.
    """
    slices: list[pydicom.Dataset] = []
    others: dict[str, pydicom.Dataset] = {}  # the first image of each modality
    for header in (read_dicom(p) for p in sorted(folder.iterdir()) if is_dicom(p)):
        is_ct = header.get("Modality") == "CT" and header.get("SOPClassUID") == CT_IMAGE
        if is_ct and not any(mark in str(header.get("ImageType")) for mark in NO_SLICES):
            slices.append(header)
        elif not is_ct and "Rows" in header:
            others.setdefault(header.get("Modality"), header)
    if not slices:
        raise StudyError(_why_no_slices(folder, others))
    return slices


def _why_no_slices(folder: Path, others: Mapping[str, pydicom.Dataset]) -> str:
    """The line for a folder without CT slices, from the images it holds, by modality."""
    if "CT" in others:
        kind = others["CT"].SOPClassUID.name.removesuffix(" Storage")
        fix = "Convert it to single slices, as emf2sf of dcm4che does" if "Enhanced" in kind else "Give CT Images"
        return f"{others['CT'].filename}: a {kind}, which is not read here. {fix}."
    if others:
        modality, header = next(iter(others.items()))
        return f"{header.filename}: modality is {modality}, not CT. Give a CT series."
    return f"{folder}: no CT slices in this folder. Give the folder that holds them."


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its suffix or the mark in it: series often have no suffix, damaged slices no mark."""
    if not path.is_file() or path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path) -> pydicom.Dataset:
    """A DICOM file with its pixels; raises StudyError."""
    import pydicom  # slow to import, and NIfTI does without

    try:
        header = pydicom.dcmread(path, defer_size=DEFER)
        if "SOPClassUID" not in header and "DirectoryRecordSequence" not in header:
            raise ValueError("it is cut short")
        return header
    except Exception as e:
        cause = str(e).splitlines()[0][:80] if type(e) is ValueError else "not a complete DICOM file"
        raise StudyError(f"{path}: slice cannot be read ({cause}). {SEND_AGAIN}") from e


def choose_series(folder: Path, slices: Sequence[pydicom.Dataset], series: str | None) -> list[pydicom.Dataset]:
    """The slices of the only series, or of the one asked for by its number or UID.

    Raises:
        StudyError: there is no such series, or more than one; lists those there are, without the patient.
    """
    found: dict[str, list[pydicom.Dataset]] = {}
    for header in slices:
        found.setdefault(str(header.get("SeriesInstanceUID")), []).append(header)
    wanted = [h for uid, h in found.items() if series is None or series in (uid, str(h[0].get("SeriesNumber")))]
    if len(wanted) == 1:
        return wanted[0]
    shown = wanted or list(found.values())
    listed = _listed(shown)
    cause = f"{len(shown)} CT series in this folder" if wanted else f"no CT series {series} in this folder, but"
    raise StudyError(f"{folder}: {cause}: {listed}. Choose one with --series NUMBER or its SeriesInstanceUID.")


def _listed(shown: Sequence[Sequence[pydicom.Dataset]]) -> str:
    """Outlines of several series, with their UIDs where a number is missing or there twice."""
    numbers = [headers[0].get("SeriesNumber") for headers in shown]
    outlines = []
    for headers, number in zip(shown, numbers):
        outlines.append(outline(headers, with_uid=number is None or numbers.count(number) > 1))
    return "; ".join(outlines)


def outline(series: Sequence[pydicom.Dataset], with_uid: bool) -> str:
    """What tells a series from others: number, slices, their distance and the convolution kernel."""
    first = series[0]
    try:
        places = [place_slice(h) for h in series]
        gaps = np.diff(np.sort([p.position @ normal(places[0]) for p in places]))
        apart = f"{np.median(gaps):.3g} mm apart" if len(gaps) else "alone"
    except StudyError:
        apart = "unknown distance"
    kernel = first.get("ConvolutionKernel") or "unknown"
    if not isinstance(kernel, str):
        kernel = "/".join(kernel)
    name = f"{first.get('SeriesNumber')} ({first.get('SeriesInstanceUID')})" if with_uid else first.SeriesNumber
    return f"{name}, {len(series)} slices {apart}, kernel {kernel}"
