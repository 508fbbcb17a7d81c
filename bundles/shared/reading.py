"""Reading a CT and its masks from files, with every check, as MetaTensors on one grid."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from shared.checks import CHECKS, check_grid, check_overlap, check_place, check_volume
from shared.dicom import read_series
from shared.dicom_files import is_dicom
from shared.errors import EXPORT_AGAIN, StudyError, is_memory_error, printable
from shared.files import is_special
from shared.geometry import check_geometry
from shared.headers import Header
from shared.headers_meta import read_meta
from shared.headers_nifti import read_nifti
from shared.headers_nrrd import read_nrrd
from shared.order import check_order
from shared.voxels import read_voxels

logger = logging.getLogger(__name__)
HEADERS = {
    ".nii.gz": read_nifti, ".nii": read_nifti, ".mha": read_meta, ".mhd": read_meta, ".nrrd": read_nrrd,
    ".nhdr": read_nrrd,
}  # fmt: skip


class LoadStudyd(MapTransform):
    """Read a CT and its masks as MetaTensors ``[1, X, Y, Z]`` on one grid, in the file's own orientation.

    They are float32, or int16 where the CT is stored so. A DICOM series' files, in the order of Z, are in
    ``meta["files"]``, and what their headers say of each slice, ``[Z]``, in ``meta["slices"]``.

    LoadImaged reads an MR, a 2D image or a NaN affine silently, and replaces a NIfTI's affine where pixdim
    differs from it in the sixth digit; this refuses the former with one clear line and takes the affine nibabel does.

    Args:
        keys: ``image`` (NIfTI, MHA, NRRD or a DICOM series folder, in HU), ``prob`` (0..1), ``label`` (0, 1, 2).
        optional: those of the keys that an item, or the disk, may lack.
        any_ct: also take single slices and CT clipped to a narrow window, as training sets hold them; of a mask of
            another CT the log tells.
        series: SeriesNumber or SeriesInstanceUID of the CT, for folders that hold several.

    Raises:
        StudyError: a file that is missing, unreadable, not 3D, with unusable geometry or impossible values, or a
            mask on another grid than the CT, or of another CT.
    """

    def __init__(
        self, keys: KeysCollection, optional: Sequence[str] = (), any_ct: bool = False, series: str | None = None
    ) -> None:
        super().__init__(keys)
        self.optional, self.any_ct, self.series = tuple(optional), any_ct, series

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Paths to images; ``case`` is added: the item's ``case_id``, or the CT's name."""
        d = {k: v for k, v in data.items() if k not in CHECKS}  # paths that stay unread go
        for key in self.keys:
            path = data.get(key)
            if key in self.optional and (path is None or not Path(path).exists()):
                continue
            if path is None:
                raise StudyError(f"{data['image']}: no {key} given with it. Add it to the datalist.")
            d[key] = read_image(Path(path), self.series)
            self._check(key, Path(path), d[key])
            check_grid(Path(path), d[key], Path(data["image"]), d["image"])
            if key == "prob":
                self._check_overlap(Path(path), d[key], Path(data["image"]), d["image"])
        return d | {"case": study_name(data)}

    def _check_overlap(self, path: Path, mask: MetaTensor, image_path: Path, image: MetaTensor) -> None:
        try:
            check_overlap(path, mask, image_path, image)
        except StudyError as e:
            if not self.any_ct:
                raise
            logger.warning(printable(str(e)))  # a weak stage 1 may take fat for liver, and training has to live with it

    def _check(self, key: Hashable, path: Path, image: MetaTensor) -> None:
        if not (self.any_ct and key == "image"):
            CHECKS[str(key)](path, image)
        if not self.any_ct:
            check_volume(path, image)
            check_place(path, image)
        if key == "image" and not self.any_ct:
            check_order(path, image)


def read_image(path: Path, series: str | int | None = None) -> MetaTensor:
    """Read one image as a MetaTensor ``[1, X, Y, Z]`` of finite values with a finite, invertible affine (RAS, mm).

    It is int16 where a NIfTI is stored so without scaling or a DICOM series holds such HU, else float32.

    Args:
        path: a NIfTI, MHA or NRRD file, or the folder of a DICOM series, or a DICOM file.
        series: SeriesNumber or SeriesInstanceUID, for folders that hold several.

    Raises:
        StudyError: missing, empty, unreadable, 4D, NaN or infinite voxels, unusable geometry.
    """
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder. Check the path.")
    if is_special(path):
        raise StudyError(f"{path}: a pipe, socket or device, not a file. Check the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise StudyError(f"{path}: the file is empty. {EXPORT_AGAIN}")
    meta: dict[str, Any] = {"filename_or_obj": str(path)}
    try:
        if path.is_dir() or is_dicom(path):
            values, affine, meta["files"], meta["slices"] = read_series(path, None if series is None else str(series))
        else:
            header = read_header(path)
            values, affine = read_voxels(path, header), header.affine
    except Exception as e:
        if isinstance(e, (StudyError, PermissionError)) or is_memory_error(e):
            raise
        raise StudyError(unreadable(path)) from e
    if values.is_floating_point() and not torch.isfinite(values.sum(dtype=torch.float64)):
        raise StudyError(f"{path}: NaN or infinite voxels. {EXPORT_AGAIN}")
    return MetaTensor(values[None], affine=affine, meta=meta)


def unreadable(path: Path | str) -> str:
    """The line for a file that no reader understands."""
    return f"{path}: not a readable image (damaged, cut short or of another format). {EXPORT_AGAIN}"


def read_header(path: Path) -> Header:
    """The header of an image file, checked; raises StudyError. Its ending says which format, in capitals or not."""
    reader = next((HEADERS[ending] for ending in HEADERS if path.name.lower().endswith(ending)), None)
    if path.name.upper() == "DICOMDIR":
        raise StudyError(f"{path}: a list of DICOM files. Give the folder that holds the series.")
    if reader is None:
        raise StudyError(f"{path}: no format that is read here ({', '.join(HEADERS)}). Convert it to NIfTI.")
    header = reader(path)
    check_geometry(path, header.shape, header.affine)
    return header


def study_name(study: Mapping[Hashable, Any]) -> str:
    """The name of an entry of a datalist: its ``case_id``, else that of its CT."""
    return str(study.get("case_id") or case_name(study["image"]))


def case_name(path: str | os.PathLike) -> str:
    """``/a/volume-1.nii.gz`` to ``volume-1``; a folder's name for a DICOM series."""
    name = Path(path).name
    for ending in HEADERS:
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return name
