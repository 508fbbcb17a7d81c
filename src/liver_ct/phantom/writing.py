"""Phantoms as files: NIfTI in the layouts of LiTS and of MSD Task03_Liver, and DICOM series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.phantom.volume import make_phantom


def nifti(array: NDArray[Any], affine: NDArray[Any]) -> nib.Nifti1Image:
    """NIfTI image in scanner coordinates, mm."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    return image


def write_case(folder: str | Path, case_id: int, suffix: str = ".nii.gz", **knobs: Any) -> tuple[Path, Path]:
    """Write one phantom as LiTS does, `volume-N` and `segmentation-N`; `knobs` go to `make_phantom`."""
    ct, labels, affine = make_phantom(**{"seed": case_id, **knobs})
    paths = Path(folder) / f"volume-{case_id}{suffix}", Path(folder) / f"segmentation-{case_id}{suffix}"
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for path, array in zip(paths, (ct, labels)):
        nib.save(nifti(array, affine), path)
    return paths


def write_msd(folder: str | Path, case_id: int, **knobs: Any) -> tuple[Path, Path]:
    """Write one phantom in the layout of MSD Task03_Liver: imagesTr/liver_N.nii.gz and labelsTr/liver_N.nii.gz."""
    ct, labels, affine = make_phantom(**{"seed": case_id, "axcodes": "RAS", **knobs})
    paths = [Path(folder) / name / f"liver_{case_id}.nii.gz" for name in ("imagesTr", "labelsTr")]
    for path, array in zip(paths, (ct, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nifti(array, affine), path)
    return paths[0], paths[1]


def dicom_header(series: Any, columns: NDArray[Any], shape: Sequence[int]) -> Any:
    """Data set that all slices of a series share; `columns` are the affine's first three in DICOM coordinates."""
    from pydicom.dataset import Dataset

    sizes = np.linalg.norm(columns, axis=0)
    header = Dataset()
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # CT Image Storage
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = series
    header.Modality, header.Manufacturer, header.SeriesDescription = "CT", "phantom", "portal venous"
    header.PatientName, header.PatientID = "Phantom^Liver", "PHANTOM"
    header.PatientBirthDate, header.PatientSex = "", "O"
    header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20240101", "120000", "1", ""
    header.ReferringPhysicianName, header.PositionReferenceIndicator = "", ""
    header.BodyPartExamined, header.ConvolutionKernel = "ABDOMEN", "B30f"
    header.SeriesNumber, header.AcquisitionNumber, header.KVP, header.PatientPosition = 1, 1, 120, "HFS"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.ImageOrientationPatient = [round(float(v), 8) for v in (columns[:, :2] / sizes[:2]).T.ravel()]
    header.PixelSpacing = [round(float(sizes[1]), 6), round(float(sizes[0]), 6)]  # rows first
    header.SliceThickness = round(float(sizes[2]), 6)
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.Rows, header.Columns = int(shape[1]), int(shape[0])
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = -1024, 1, "HU"
    return header


def write_dicom_series(folder: str | Path, ct: NDArray[Any], affine: NDArray[Any], axcodes: str = "LPS") -> list[Path]:
    """Write a CT [X,Y,Z] in HU as a DICOM CT series, one file per axial slice, numbered as ``axcodes`` says.

    Args:
        folder: to write to; made if missing.
        ct: in any orientation.
        affine: 4 x 4, voxel to world mm (RAS).
        axcodes: where columns, rows and slices run to: LPS from the feet up, LPI from the head down.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    turn = ornt_transform(nib.io_orientation(affine), axcodes2ornt(axcodes))
    stored = np.clip(apply_orientation(ct, turn), -1024, 32767).astype(np.int32) + 1024
    world = np.diag([-1, -1, 1, 1]) @ affine @ inv_ornt_aff(turn, ct.shape)  # DICOM: x to the left, y to the back
    header = dicom_header([generate_uid() for _ in range(3)], world[:3, :3], stored.shape)
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(stored.shape[2]):
        item = pydicom.Dataset(header)
        item.SOPInstanceUID, item.InstanceNumber = generate_uid(), index + 1
        item.ImagePositionPatient = [round(float(v), 6) for v in world[:3] @ [0, 0, index, 1]]
        item.PixelData = np.ascontiguousarray(stored[..., index].T).astype("<u2").tobytes()
        item.file_meta = pydicom.dataset.FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        paths.append(Path(folder) / f"slice_{index + 1:04d}.dcm")
        item.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_cases(
    output: Path, layout: str, numbers: Sequence[int], seed: int, **knobs: Any
) -> Iterator[tuple[Path, ...]]:
    """Write phantoms one by one and yield the files of each, or the folder of a DICOM series.

    Args:
        output: folder to write to.
        layout: lits, msd, or dicom (a folder of slices per case, no labels).
        numbers: of the cases.
        seed: of the first; the others follow.
        knobs: go to `make_phantom`.

    Raises:
        StudyError: an unknown layout.
    """
    if layout not in ("lits", "msd", "dicom"):
        raise StudyError(f"{output}: unknown layout {layout!r}. Use lits, msd or dicom.")
    for offset, number in enumerate(numbers):
        knobs["seed"] = seed + offset
        if layout == "lits":
            yield write_case(output, number, **knobs)
        elif layout == "msd":
            yield write_msd(output, number, **knobs)
        else:
            ct, _, affine = make_phantom(**knobs)
            yield (write_dicom_series(output / f"volume-{number}", ct, affine)[0].parent,)
