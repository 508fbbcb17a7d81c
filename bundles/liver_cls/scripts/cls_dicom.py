# A copy of dicom.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""A DICOM series: its slices found in a folder, chosen, checked and read as one volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scripts.cls_dicom_acquisitions import check_acquisitions
from scripts.cls_dicom_files import check_companions, files_in, is_dicom, read_dicom, sop_class, value
from scripts.cls_dicom_kind import check_kind, other_unit
from scripts.cls_dicom_neighbours import check_neighbours
from scripts.cls_dicom_pixels import check_pixels, read_voxels
from scripts.cls_dicom_series import ENHANCED, check_left_out, check_whole, choose_series, is_ct, is_slice
from scripts.cls_dicom_slices import Slice, normal, place_slice, said_of_each, sort_slices, without_scouts
from scripts.cls_errors import StudyError
from scripts.cls_geometry import check_geometry, check_memory

if TYPE_CHECKING:
    import pydicom


class Images(NamedTuple):
    """What a folder holds: CT slices of whatever series, other images, and files that are no DICOM."""

    slices: list[pydicom.Dataset]
    others: list[pydicom.Dataset]
    files: list[Path]


class Series(NamedTuple):
    """A series that was read."""

    voxels: torch.Tensor  # [X, Y, Z] in HU, int16 where all fit, else float32
    affine: np.ndarray  # RAS, mm
    files: list[str]  # in the order of Z
    slices: dict[str, np.ndarray]  # of each, [Z]: `said_of_each`, if it was compressed with loss or has another unit


def read_series(path: Path, series: str | None = None) -> Series:
    """Read a series as a volume.

    Z runs along the slices' normal. ITK's readers accept gaps, repeated slices and a tilt silently, and take longer.

    Args:
        path: the folder of the slices; localizers, screenshots, reports and segmentations in it are passed over.
            Or one DICOM file.
        series: SeriesNumber or SeriesInstanceUID, needed where there are several.

    Raises:
        StudyError: no CT, several series, a slice that cannot be read or placed or is unlike its neighbours, or
            slices that are not all there, not of one acquisition or not evenly spaced.
    """
    slices = sort_slices(path, find_series(path, series))
    layout, affine = slices[0].layout, affine_of(slices)
    shape = (layout.columns, layout.rows, len(slices))
    for one in slices:  # before memory is taken
        check_pixels(one)
    check_geometry(path, shape, affine)
    check_memory(path, shape, np.dtype(np.float32).itemsize)
    voxels, lossy = read_voxels(slices)
    check_neighbours(path, slices, voxels)
    files = [str(s.header.filename) for s in slices]
    said = {"lossy": lossy, "other_unit": np.array([bool(other_unit(s.header)) for s in slices])}
    return Series(torch.from_numpy(voxels.T), affine, files, {**said_of_each(slices), **said})


def affine_of(slices: list[Slice]) -> np.ndarray:
    """RAS affine ``[4, 4]`` (mm) of sorted slices."""
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.cosines[:3] * first.spacing[1], first.cosines[3:] * first.spacing[0]
    affine[:3, 2] = (last.position - first.position) / (len(slices) - 1) if len(slices) > 1 else normal(first)
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1, 1, 1]) @ affine


def find_series(path: Path, series: str | None) -> list[Slice]:
    """The slices of one series and one acquisition, in no order.

    Raises:
        StudyError: see `read_series`.
    """
    images = find_images(path)
    chosen = choose_series(path, images.slices, series)
    for header in chosen:
        if sop_class(header) in ENHANCED:
            raise StudyError(_not_read(header))
        check_kind(header)
    check_left_out(chosen, images.others)
    if path.is_dir():
        check_companions((Path(h.filename) for h in chosen), images.files)
        check_whole(path, chosen)
    slices = without_scouts([place_slice(h) for h in chosen])
    check_acquisitions(path, slices)
    return slices


def find_images(path: Path) -> Images:
    """The images in a folder, or in one file.

    Raises:
        StudyError: a file that cannot be read, or no CT slice.
    """
    images = Images([], [], [])
    for file in files_in(path) if path.is_dir() else [path]:
        if not is_dicom(file):
            images.files.append(file)
            continue
        header = read_dicom(file)
        if is_slice(header):
            images.slices.append(header)
        elif "PixelData" in header:
            images.others.append(header)
    if not images.slices:
        raise StudyError(_why_no_slices(path, [h for h in images.others if not is_ct(h)]))
    return images


def _why_no_slices(path: Path, others: list[pydicom.Dataset]) -> str:
    """The line for a folder without CT slices, from the other images it holds."""
    for header in others:
        if value(header, "Modality") == "CT":
            return _not_read(header)
    if others:
        return f"{others[0].filename}: modality is {value(others[0], 'Modality')}, not CT. Give a CT series."
    if path.is_dir():
        return f"{path}: no CT slices in this folder. Give the folder that holds them."
    return f"{path}: no CT slice. Give the folder of a CT series."


def _not_read(header: pydicom.Dataset) -> str:
    """The line for a CT that is none of single slices."""
    from pydicom.uid import UID

    name = UID(sop_class(header)).name.removesuffix(" Storage")[:60]
    fix = "Convert it to single slices, as emf2sf of dcm4che does" if "Enhanced" in name else "Give CT Images"
    article = "an" if name[:1] in "AEIOU" else "a"
    return f"{header.filename}: {article} {name}, which is not read here. {fix}."
