"""CTs that are in memory: as files, so that the bundle's own reading checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from liver_ct.chain.studies import name_cases
from liver_ct.errors import StudyError

MM = {"meter": 1000, "micron": 0.001}  # units of length that NIfTI knows, others being mm


def read_image(image: nib.spatialimages.SpatialImage) -> tuple[NDArray[Any], NDArray[Any], str]:
    """Voxels, affine (mm) and a name for an image of nibabel.

    Raises:
        StudyError: its voxels cannot be read from where it lies, or it does not say how the patient lies.
    """
    path = image.get_filename()
    name = name_cases([Path(path)], Path(path).parent)[0].case if path else "ct"
    affine, header = image.affine, image.header
    if isinstance(header, nib.Nifti1Header):
        if not header["sform_code"] and not header["qform_code"]:
            cause = "sform_code and qform_code are 0: how the patient lies is not known"
            raise StudyError(f"{path or name}: {cause}. Convert it again from the scanner's DICOM.")
        unit = MM.get(header.get_xyzt_units()[0], 1)
        affine = np.diag([unit, unit, unit, 1]) @ affine
    try:
        return np.asanyarray(image.dataobj), affine, name
    except Exception as e:
        raise StudyError(f"{path or name}: its voxels cannot be read ({e}). Export or copy it again.") from e


def write_volume(array: NDArray[Any], affine: NDArray[Any], file: Path, name: str) -> None:
    """Write a CT as NIfTI: int16 where it is that, else float32.

    Args:
        array: ``[X, Y, Z]``.
        affine: 4 x 4, voxel to world mm (RAS).
        file: to write.
        name: of the study, for messages.

    Raises:
        StudyError: no numbers, or no affine.
    """
    voxels, matrix = np.asanyarray(array), as_affine(affine, name)
    if voxels.dtype.kind not in "biuf":
        raise StudyError(f"{name}: voxels of type {voxels.dtype} are no HU. Give integers or floats.")
    voxels = voxels if voxels.dtype == np.int16 else voxels.astype(np.float32)
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_sform(matrix, code="scanner")
    header.set_xyzt_units("mm")
    nib.save(nib.Nifti1Image(voxels, None, header), file)


def as_affine(affine: NDArray[Any], name: str) -> NDArray[Any]:
    """The affine as float64; raises StudyError unless it is 4 x 4 and ends as affines do."""
    try:
        matrix = np.asarray(affine, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4):
        raise StudyError(f"{name}: its affine is not 4 x 4 numbers. Give the one from voxels to world mm (RAS).")
    if np.isfinite(matrix).all() and not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise StudyError(f"{name}: its affine's last row is not 0 0 0 1. Give the one from voxels to world mm (RAS).")
    return matrix
