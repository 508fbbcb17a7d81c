"""What the place and size of a CT in space must be, checked before any memory is taken for its voxels."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
from shared.errors import StudyError

VOXEL_MM = (0.05, 30.0)  # edges of a voxel
IN_PLANE_MM = (50.0, 1000.0)  # scanners reconstruct up to 850
LONGEST_MM = 3000.0  # along the body
FARTHEST_MM = 1e4  # from the scanner's centre; tables move by 2 m
PERPENDICULAR = 0.02  # cosine between two axes, at most
MOST_VOXELS = 2**30  # 1024 x 1024 x 1024
MOST_BYTES = 2**32


def check_geometry(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> None:
    """Raise StudyError unless the array of voxels and its affine (4 x 4, RAS, mm) can be a CT of a body."""
    if not np.isfinite(affine).all():
        raise StudyError(f"{path}: its affine holds NaN or infinity. Fix the header from the scanner's original.")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise StudyError(f"{path}: its affine is singular. Fix the header from the scanner's original.")
    directions = affine[:3, :3] / sizes
    if np.abs(directions.T @ directions - np.eye(3)).max() > PERPENDICULAR:
        cause = "its axes are not perpendicular (a tilted gantry, or a damaged header)"
        raise StudyError(f"{path}: {cause}. Resample it to a grid that is.")
    if len(shape) > 3:
        raise StudyError(f"{path}: {_why_4d(shape)}")
    if len(shape) < 3:
        raise StudyError(f"{path}: a 2D image, shape {shape}. Give a whole CT volume.")
    _check_extent(path, np.array(shape), affine, sizes)


def _why_4d(shape: tuple[int, ...]) -> str:
    """Cause and fix for more axes than three."""
    count = math.prod(shape[3:])
    if shape[2] == 1:
        return f"one slice at {count} times (4D), or slices along the axis of time. Save it with the slices along z."
    take_one = "nibabel.save(nibabel.load(FILE).slicer[..., 0], 'one.nii.gz') takes the first"
    return f"{count} volumes in one file (4D). Give one phase as a 3D file: {take_one}."


def check_memory(path: Path, shape: tuple[int, ...], itemsize: int) -> None:
    """Raise StudyError unless an array of that many bytes a voxel, all copies included, is of a CT's size and fits."""
    voxels, need = math.prod(shape), math.prod(shape) * itemsize
    if voxels > MOST_VOXELS or need > MOST_BYTES:
        size = f"{' x '.join(map(str, shape))} voxels ({need / 2**30:.1f} GB)"
        raise StudyError(f"{path}: its header declares {size}, more than is read here. Crop it to the abdomen.")
    free = free_memory()
    if free is not None and need > free:
        cause = f"its voxels need {need / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB are free"
        raise StudyError(f"{path}: {cause}. Close other programs, or crop it to the abdomen.") from MemoryError()


def free_memory() -> int | None:
    """Bytes that this process may still take, by the system and by its container; None where that is not known."""
    found = []
    for file, word, unit in (
        ("/proc/meminfo", "MemAvailable:", 1024),
        ("/sys/fs/cgroup/memory.max", "", 1),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "", 1),
    ):
        try:
            lines = Path(file).read_text().splitlines()
            found += [int(line.removeprefix(word).split()[0]) * unit for line in lines if line.startswith(word)]
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(found, default=None)


def is_unit(affine: np.ndarray) -> bool:
    """Whether an affine is the unit matrix (but for signs), which programs write where they know nothing."""
    return bool(np.array_equal(np.abs(affine), np.eye(4)))


def _check_extent(path: Path, shape: np.ndarray, affine: np.ndarray, sizes: np.ndarray) -> None:
    extent = shape * sizes
    text, voxel = (" x ".join(f"{size:.4g}" for size in lengths) for lengths in (extent, sizes))
    in_plane = np.delete(extent, np.argmax(np.abs(affine[2, :3]) / sizes))
    low, high = IN_PLANE_MM
    fix = "Check the voxel sizes in the header, and their unit."
    if sizes.min() < VOXEL_MM[0] or sizes.max() > VOXEL_MM[1]:
        raise StudyError(f"{path}: voxels of {voxel} mm are not those of a CT. {fix}")
    if in_plane.max() > high or in_plane.min() < low or extent.max() > LONGEST_MM:
        raise StudyError(f"{path}: a field of view of {text} mm (voxels of {voxel}) is no CT of a body. {fix}")
    corners = np.array([*product((0, 1), repeat=3)]) * shape @ affine[:3, :3].T + affine[:3, 3]
    if np.abs(corners).max() > FARTHEST_MM:
        away = f"{np.abs(corners).max() / 1000:.3g} m"
        raise StudyError(f"{path}: it lies {away} from the scanner's centre. Fix the origin in its header.")
