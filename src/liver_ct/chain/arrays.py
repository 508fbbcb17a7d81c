"""CTs that are in memory: as files, so that the bundle's own reading checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from liver_ct.chain.studies import name_cases
from liver_ct.errors import StudyError

FROM_DICOM = "Convert it again from the scanner's DICOM."


def name_of(image: nib.spatialimages.SpatialImage) -> str:
    """The name of the study in an image of nibabel: that of its file, if it has one."""
    path = image.get_filename()
    return name_cases([Path(path)], Path(path).parent)[0].case if path else "ct"


def write_image(image: nib.spatialimages.SpatialImage, file: Path, name: str) -> None:
    """Write an image of nibabel as NIfTI; what the header of a NIfTI says stays as it is, to be checked as a file's.

    Args:
        image: ``[X, Y, Z]`` in HU.
        file: to write.
        name: of the study, for messages.

    Raises:
        StudyError: its voxels cannot be read or are no numbers, or it does not say how the patient lies.
    """
    header = image.header
    is_nifti = isinstance(header, nib.Nifti1Header)
    if not is_nifti and says_no_orientation(header):
        raise StudyError(f"{name}: its format does not say how the patient lies. {FROM_DICOM}")
    try:
        array = np.asanyarray(image.dataobj)
    except Exception as e:
        raise StudyError(f"{name}: its voxels cannot be read ({e}). Export or copy it again.") from e
    write_volume(array, image.affine, file, name, header if is_nifti else None)


def says_no_orientation(header: nib.spatialimages.SpatialHeader) -> bool:
    """Whether nibabel made the affine up: an Analyze image, or one of FreeSurfer without its own."""
    if isinstance(header, nib.freesurfer.MGHImage.header_class):
        return bool((header["delta"] == 1).all() and not header["Pxyz_c"].any())
    return isinstance(header, nib.AnalyzeHeader)


def write_volume(
    array: NDArray[Any], affine: NDArray[Any] | None, file: Path, name: str, known: nib.Nifti1Header | None = None
) -> None:
    """Write a CT as NIfTI: int16 where it is that, else float32.

    Args:
        array: ``[X, Y, Z]``.
        affine: 4 x 4, voxel to world (RAS); mm, or the unit of ``known``.
        file: to write.
        name: of the study, for messages.
        known: header that the image has already.

    Raises:
        StudyError: no numbers, or no affine.
    """
    voxels = np.asanyarray(array)
    if voxels.dtype.kind not in "biuf":
        raise StudyError(f"{name}: voxels of type {voxels.dtype} are no HU. Give integers or floats.")
    voxels = voxels if voxels.dtype == np.int16 else voxels.astype(np.float32)
    if known is None:
        matrix, header = as_affine(affine, name), nib.Nifti1Header()
        header.set_sform(matrix, code="scanner")
        header.set_xyzt_units("mm")
        affine = None  # which is in the header
    else:
        header = known.copy()
        header.set_slope_inter(1, 0)
    header.set_data_dtype(voxels.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    try:
        image = kind(voxels, affine, header)
    except Exception as e:
        raise StudyError(f"{name}: its header and affine make no NIfTI ({e}). {FROM_DICOM}") from e
    nib.save(image, file)


def as_affine(affine: NDArray[Any] | None, name: str) -> NDArray[Any]:
    """The affine as float64; raises StudyError unless it is 4 x 4 and ends as affines do."""
    try:
        matrix = np.asarray(affine, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4):
        raise StudyError(f"{name}: its affine is not 4 x 4 numbers. Give the one from voxels to world mm (RAS).")
    if np.isfinite(matrix).all() and not np.allclose(matrix[3], [0, 0, 0, 1], rtol=0, atol=1e-6):
        raise StudyError(f"{name}: its affine's last row is not 0 0 0 1. Give the one from voxels to world mm (RAS).")
    return matrix
