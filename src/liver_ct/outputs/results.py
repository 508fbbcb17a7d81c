"""What is found in a study: a row per axial slice, and the figures of the whole."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from nibabel.orientations import io_orientation

if TYPE_CHECKING:
    import torch

Item = dict[str, Any]


class SliceRow(NamedTuple):
    """One axial slice: its index in the file's own array, where it is, and what was found."""

    slice: int
    z_mm: float
    liver_area_mm2: float
    tumour_probability: float | None


def slice_rows(mask: np.ndarray, affine: np.ndarray, tumour: Item) -> list[SliceRow]:
    """One row per axial slice of a mask ``[X, Y, Z]`` in any orientation, by its index in that array."""
    axis = int(np.flatnonzero(io_orientation(affine)[:, 0] == 2)[0])
    across = [i for i in range(3) if i != axis]
    pixel_mm2 = np.linalg.norm(np.cross(affine[:3, across[0]], affine[:3, across[1]]))
    areas = mask.sum(axis=tuple(across), dtype=np.int64) * pixel_mm2
    centres = np.tile((np.array(mask.shape) - 1) / 2, (mask.shape[axis], 1))
    centres[:, axis] = np.arange(mask.shape[axis])
    z = centres @ affine[2, :3] + affine[2, 3]
    found = dict(zip(tumour["slices"].tolist(), tumour["pred"].flatten().tolist()))
    return [SliceRow(i, float(z[i]), float(areas[i]), found.get(i)) for i in range(len(z))]


def write_rows(rows: Sequence[SliceRow], file: Path) -> None:
    """Write slices.csv; the probability of a slice that was not considered is empty."""
    with file.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(SliceRow._fields)
        for i, z, area, p in rows:
            table.writerow([i, f"{z:.3f}", f"{area:.1f}", "" if p is None else f"{p:.6f}"])


def summary(rows: Sequence[SliceRow], mask: torch.Tensor, probability: float, threshold: float) -> Item:
    """The study's figures: tumour probability, flagged slices (by their index) and liver volume in ml."""
    voxel_mm3 = abs(float(mask.affine[:3, :3].det()))
    flagged = [row.slice for row in rows if row.tumour_probability is not None and row.tumour_probability >= threshold]
    return {
        "study_tumour_probability": round(probability, 6),
        "flag_threshold": threshold,
        "flagged_slices": flagged,
        "liver_volume_ml": round(np.count_nonzero(mask.numpy()) * voxel_mm3 / 1000, 2),
    }


def headline(result: Item) -> str:
    """A result in one line."""
    probability, flagged = result["study_tumour_probability"], len(result["flagged_slices"])
    volume = result["liver_volume_ml"]
    return f"tumour probability {probability:.2f}    {flagged} slices flagged    liver {volume:.0f} ml"
