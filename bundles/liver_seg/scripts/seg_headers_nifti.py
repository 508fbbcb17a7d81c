# A copy of headers_nifti.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""NIfTI headers (.nii, .nii.gz), versions 1 and 2.

nibabel decodes the fields; it believes them where they contradict each other or the file.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from scripts.seg_errors import StudyError
from scripts.seg_geometry import FARTHEST_MM
from scripts.seg_headers import FIX_HEADER, MM, Header, not_this, read_start

GZIP = b"\x1f\x8b"
CLASSES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by the size of a header
MAGICS = (b"n+1", b"n+2")
UNITS = {0: "mm", 1: "m", 2: "mm", 3: "um"}  # by the lower bits of xyzt_units; unknown is mm by common use


def read_nifti(path: Path) -> Header:
    """The header of a NIfTI file, compressed or not whatever its name says.

    Raises:
        StudyError: fields that are missing, contradict each other or cannot be used.
    """
    packed = read_start(path, 2) == GZIP
    with igzip.open(path) if packed else path.open("rb") as file:
        raw = file.read(max(CLASSES))
    fields = _decode(path, raw)
    shape, dtype, affine = _shape(path, fields), _dtype(path, fields), _affine(path, fields)
    slope, inter = _scale(path, fields)
    skip = float(fields["vox_offset"]) or fields.single_vox_offset  # 0 is not set
    if not (fields.single_vox_offset <= skip < 2**53 and skip == int(skip)):
        raise StudyError(f"{path}: vox_offset is {skip:g}, where no voxels can begin. {FIX_HEADER}")
    return Header(shape, dtype, affine, path, 0, int(skip), "gzip" if packed else "", slope, inter)


def _decode(path: Path, raw: bytes) -> nib.Nifti1Header:
    for order in ("<", ">"):
        size = int(np.frombuffer(raw[:4].ljust(4, b"\0"), order + "i4")[0])
        if size in CLASSES and len(raw) >= size:
            fields = CLASSES[size](raw[:size], endianness=order, check=False)
            if fields["magic"].item()[:3] in MAGICS:
                if fields["pixdim"][0] == 0:  # the standard takes it for 1; nibabel does so where it checks
                    fields["pixdim"][0] = 1
                return fields
            raise StudyError(f"{path}: the header of a pair of files (.hdr and .img). Convert them to one .nii.gz.")
    raise not_this(path, "NIfTI")


def _shape(path: Path, fields: nib.Nifti1Header) -> tuple[int, ...]:
    """Axes of one voxel after the third are dropped."""
    axes = int(fields["dim"][0])
    dim = [int(size) for size in fields["dim"][1 : axes + 1]]
    if not 1 <= axes <= 7 or min(dim) < 1:
        raise StudyError(f"{path}: dim is {fields['dim'].tolist()}: no sizes of an image. {FIX_HEADER}")
    while len(dim) > 3 and dim[-1] == 1:
        dim.pop()
    return tuple(dim)


def _dtype(path: Path, fields: nib.Nifti1Header) -> np.dtype:
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    try:
        dtype = fields.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError):
        raise StudyError(f"{path}: datatype {code} is none of NIfTI's. {FIX_HEADER}") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = nib.nifti1.data_type_codes.label[code]
        raise StudyError(f"{path}: voxels of type {name} (colours, complex or too wide) are no HU. Save it as int16.")
    if bits != dtype.itemsize * 8:
        raise StudyError(f"{path}: datatype {code} has {dtype.itemsize * 8} bits, but bitpix is {bits}. {FIX_HEADER}")
    return dtype


def _scale(path: Path, fields: nib.Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where slope is 0 or NaN, which both mean that there is none."""
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        if inter == 0 or np.isnan(inter):
            return 1.0, 0.0
        raise StudyError(f"{path}: scl_slope is {slope:g}, but scl_inter is {inter:g}. {FIX_HEADER}")
    if not (0 < slope < np.inf and np.isfinite(inter)):
        raise StudyError(f"{path}: scl_slope {slope:g} and scl_inter {inter:g} give no HU. {FIX_HEADER}")
    return slope, inter


def _affine(path: Path, fields: nib.Nifti1Header) -> np.ndarray:
    """In mm: the sform where there is one, else the qform, as nibabel takes them."""
    codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")}
    if not any(codes.values()):
        cause = "sform_code and qform_code are 0: how the patient lies is not known"
        raise StudyError(f"{path}: {cause}. Convert it again from the scanner's DICOM.")
    if not all(0 <= code <= 5 for code in codes.values()):
        raise StudyError(f"{path}: sform_code {codes['sform']} or qform_code {codes['qform']} is none. {FIX_HEADER}")
    sform, qform = fields.get_sform(), _qform(path, fields) if codes["qform"] else None
    affine = np.asarray(sform if codes["sform"] else qform, dtype=np.float64)
    if codes["sform"]:
        _check_agreement(path, affine, qform, fields["pixdim"][1:4])
    unit = int(fields["xyzt_units"]) & 7
    if unit not in UNITS:
        raise StudyError(f"{path}: xyzt_units {unit} is no unit of length. {FIX_HEADER}")
    affine[:3] *= MM[UNITS[unit]]
    if qform is not None and codes["sform"] == codes["qform"]:
        _check_origins(path, affine, qform[:3, 3] * MM[UNITS[unit]])
    return affine


def _qform(path: Path, fields: nib.Nifti1Header) -> np.ndarray:
    try:
        qform = fields.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError) as e:
        raise StudyError(f"{path}: its qform is no rotation ({e}). {FIX_HEADER}") from None
    if not (fields["pixdim"][1:4] > 0).all():
        raise StudyError(f"{path}: pixdim is {fields['pixdim'][1:4].tolist()}, no voxel sizes. {FIX_HEADER}")
    return qform


def _check_agreement(path: Path, sform: np.ndarray, qform: np.ndarray | None, pixdim: np.ndarray) -> None:
    """Raise StudyError where the other fields speak of other voxels than the sform; sizes of 1 are not set."""
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(sform).all() or not spacing.all():
        return  # refused by the check of any affine
    set_sizes = qform is not None or not np.isin(pixdim, (0, 1)).all()
    axes = sform[:3, :3] / spacing
    leaning = np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3  # refused for that, if by much: it lengthens an axis
    if set_sizes and not np.allclose(pixdim, spacing, rtol=0.01 if leaning else 0.002, atol=0.006):  # as rounded
        by_sform, by_pixdim = (" x ".join(f"{size:g}" for size in sizes) for sizes in (spacing, pixdim))
        raise StudyError(f"{path}: voxels of {by_sform} mm by the sform, {by_pixdim} by pixdim. {FIX_HEADER}")
    if qform is not None and ((sform[:3, :3] * qform[:3, :3]).sum(0) < 0.866 * spacing * pixdim).any():
        raise StudyError(f"{path}: qform and sform turn the patient differently. {FIX_HEADER}")


def _check_origins(path: Path, sform: np.ndarray, origin: np.ndarray) -> None:
    """Raise StudyError where the sform (mm) and the qform's origin, which speak of one space, disagree."""
    apart = np.abs(sform[:3, 3] - origin).max()
    if np.linalg.norm(sform[:3, :3], axis=0).min() / 8 < apart < FARTHEST_MM:  # farther is refused for any affine
        raise StudyError(f"{path}: qform and sform put it {apart:.4g} mm apart. {FIX_HEADER}")
