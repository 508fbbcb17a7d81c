# A copy of dicom_slices.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Slices of a CT: the numbers in their headers that place and scale them, and their order in the volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scripts.seg_errors import EXPORT_AGAIN, StudyError

if TYPE_CHECKING:
    import pydicom

ORIGINAL = "Give the scanner's original series."
MAX_DRIFT_MM = 1.0  # how far slices may be shifted sideways against each other
NUMBERS = {
    "ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "RescaleSlope": 1, "RescaleIntercept": 1
}  # fmt: skip
LAYOUT = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")


class Slice(NamedTuple):
    """One CT slice: its data set, and the numbers in it that place and scale it, in DICOM's LPS coordinates."""

    header: pydicom.Dataset
    position: np.ndarray  # [3] mm, of the first pixel's middle
    cosines: np.ndarray  # [6], along a row, then along a column
    spacing: np.ndarray  # [2] mm, between rows, then between columns
    slope: float  # HU per stored value
    intercept: float  # HU


def place_slice(header: pydicom.Dataset) -> Slice:
    """A slice with its geometry and scale, read from its header.

    Raises:
        StudyError: they are missing or make no sense, or the slice is more or less than one grey image.
    """
    path = header.filename
    position, cosines, spacing, slope, intercept = (numbers(header, *item) for item in NUMBERS.items())
    for name in LAYOUT:
        numbers(header, name, 1)
    rows, columns = cosines.reshape(2, 3)
    if not np.allclose([rows @ rows, columns @ columns, rows @ columns], [1, 1, 0], atol=2e-3):
        raise StudyError(f"{path}: ImageOrientationPatient holds no two directions at right angles. {ORIGINAL}")
    if spacing.min() <= 0 or slope == 0:
        name = "PixelSpacing" if spacing.min() <= 0 else "RescaleSlope"
        raise StudyError(f"{path}: {name} is {header[name].value}, which is impossible. {ORIGINAL}")
    if header.get("RescaleType") not in (None, "", "HU", "HU_MOD", "US"):
        raise StudyError(f"{path}: its values are {header.RescaleType}, not HU. Give a CT in HU.")
    if (header.get("NumberOfFrames") or 1) != 1 or header.SamplesPerPixel != 1:
        raise StudyError(f"{path}: several frames or colours in one slice. {ORIGINAL}")
    return Slice(header, position, cosines, spacing, float(slope[0]), float(intercept[0]))


def numbers(header: pydicom.Dataset, name: str, count: int) -> np.ndarray:
    """A numeric attribute as float64 ``[count]``; raises StudyError unless it is there, whole and finite."""
    value = header.get(name)
    if value is None or value == "":
        why = ", so its values may not be HU" if name.startswith("Rescale") else ""
        raise StudyError(f"{header.filename}: {name} is missing{why}. {ORIGINAL}")
    try:
        array = np.array(value, float).reshape(-1)
    except (TypeError, ValueError):
        array = np.empty(0)
    if len(array) != count or not np.isfinite(array).all():
        noun = "number" if count == 1 else "numbers"
        raise StudyError(f"{header.filename}: {name} is not {count} finite {noun}. {ORIGINAL}")
    return array


def sort_slices(folder: Path, slices: Sequence[Slice]) -> list[Slice]:
    """Order slices along their normal.

    Raises:
        StudyError: they do not fill one evenly spaced, upright block.
    """
    _check_alike(folder, slices)
    along = normal(slices[0])
    positions = np.array([s.position for s in slices])
    depth = positions @ along
    _check_gaps(folder, np.sort(depth))
    sideways = positions - positions[0] - np.outer(depth - depth[0], along)
    if np.linalg.norm(sideways, axis=1).max() > MAX_DRIFT_MM:
        raise StudyError(f"{folder}: slices shifted sideways (tilted gantry). Give a series without tilt.")
    return [slices[i] for i in np.argsort(depth)]


def _check_alike(folder: Path, slices: Sequence[Slice]) -> None:
    """Raise StudyError unless all slices are turned, sized and spaced as the first."""
    cosines, spacings = (np.array([getattr(s, name) for s in slices]) for name in ("cosines", "spacing"))
    if np.abs(cosines - cosines[0]).max() > 1e-3:
        raise StudyError(f"{folder}: slices of different orientations. Give one axial series.")
    if len({(s.header.Rows, s.header.Columns) for s in slices}) > 1:
        raise StudyError(f"{folder}: slices of different matrix sizes. Give one series as it was reconstructed.")
    if not np.allclose(spacings, spacings[0], rtol=1e-4):
        raise StudyError(f"{folder}: slices of different PixelSpacing. Give one series as it was reconstructed.")


def _check_gaps(folder: Path, depth: np.ndarray) -> None:
    """Raise StudyError unless ascending depths ``[N]`` in mm are evenly spaced."""
    gaps = np.diff(depth)
    off = np.abs(depth - np.linspace(depth[0], depth[-1], len(depth))).max()
    if len(gaps) and gaps.min() < 1e-3:
        raise StudyError(f"{folder}: two slices at one position. Remove the duplicates, or give one phase.")
    if len(gaps) and (gaps.max() - gaps.min() > 0.1 * gaps.min() or off > 0.3 * gaps.min()):
        raise StudyError(
            f"{folder}: slices {gaps.min():.2f} to {gaps.max():.2f} mm apart, so some are missing. {EXPORT_AGAIN}"
        )


def normal(one: Slice) -> np.ndarray:
    """Unit vector ``[3]`` across the slice, in LPS."""
    return np.cross(one.cosines[:3], one.cosines[3:])
