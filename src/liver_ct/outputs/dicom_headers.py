"""The headers of the CT's slices, which DICOM results take patient, study and place from, checked and tidied."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from nibabel.orientations import io_orientation
from pydicom.valuerep import DA, TM

from liver_ct.errors import StudyError
from liver_ct.files import is_zip
from liver_ct.outputs.results import StudyResult

REQUIRED = ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
VALID = {  # of what the standard lets be empty, but not lacking
    "PatientID": str, "PatientName": str, "PatientBirthDate": DA, "PatientSex": hd.PatientSexValues, "StudyDate": DA,
    "StudyTime": TM, "StudyID": str, "AccessionNumber": str, "ReferringPhysicianName": str,
}  # fmt: skip


def check_series(path: Path) -> None:
    """Raise StudyError for a study that is no DICOM series, before any work is done for it."""
    if not (path.is_dir() or is_zip(path)):
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
    for (z, header), name in product(enumerate(headers), REQUIRED):
        if not header.get(name):
            raise StudyError(f"{slice_name(study, z)}: {name} is missing, so no result can refer to it. Send it again.")
    if len({header.SOPInstanceUID for header in headers}) < len(headers):
        cause = "several slices have the same SOPInstanceUID, so no result can refer to one of them"
        raise StudyError(f"{path}: {cause}. Give the scanner's original series, or leave out --dicom_output.")
    for name in ("FrameOfReferenceUID", "StudyInstanceUID"):
        if len({header[name].value for header in headers}) > 1:
            cause = f"its slices have a {name} each, so no result can refer to all of them"
            raise StudyError(f"{path}: {cause}. Give the scanner's original series, or leave out --dicom_output.")
    tidy(headers[0])
    for header in headers:
        if not header.get("SliceThickness"):
            header.SliceThickness = round(float(np.linalg.norm(affine[:3, 2])), 6)
    return headers


def slice_name(study: StudyResult, z: int) -> Path:
    """A slice's file for a message, under what was given: a zip's slices lie unpacked elsewhere."""
    return Path(study.source, Path(study.files[z]).name)


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
