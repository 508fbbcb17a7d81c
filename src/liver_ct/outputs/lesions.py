"""Lesions: connected parts of the lesion map, measured in the patient's mm, ml and HU."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cc3d
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import maximum
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from liver_ct.files import written_whole
from liver_ct.outputs.axes import axial_axis
from liver_ct.outputs.results import voxel_mm3

LESION, CANDIDATE = "lesion", "candidate"
SENSITIVITY, FALSE = "lesion_sensitivity_over_2_cm", "false_lesions_per_person"  # of a bundle's eval_metrics
ENOUGH, TOO_MANY = 0.7, 1.0  # of one and the other
EDGES = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])  # middles of a pixel's edges
PLACE = ("x_mm", "y_mm", "z_mm")


class Lesion(NamedTuple):
    """One connected part of the lesion map.

    Attributes:
        number: from 1, by probability; also its value in `Lesions.labels`.
        probability: the map's highest value in it, 0..1.
        diameter_mm: longest axial diameter: the largest Feret diameter in any slice.
        volume_ml: volume.
        mean_hu: mean of the CT.
        hu_minus_liver: mean of the CT above (or below) the median of the liver without lesions; None where nothing of
            the liver is left.
        first_slice: lowest index along the array's axial axis, as in slices.csv.
        last_slice: highest index.
        key_slice: index of the slice in which the diameter is longest.
        centre_mm: centre of its voxels, the patient's mm (LPS, as in DICOM).
    """

    number: int
    probability: float
    diameter_mm: float
    volume_ml: float
    mean_hu: float
    hu_minus_liver: float | None
    first_slice: int
    last_slice: int
    key_slice: int
    centre_mm: tuple[float, float, float]


class Lesions(NamedTuple):
    """The lesion map and what is found in it; arrays lie on the CT's grid.

    Attributes:
        prob: ``[X, Y, Z]``, tumour probability, uint8: 255 is 1, as lesion_prob.nii.gz stores it.
        labels: ``[X, Y, Z]``, uint16: 0 none, n the lesion of that number.
        found: the lesions, the most probable first.
        shown_as: what a reader is told they are: ``lesion``, or ``candidate`` where too few are found for that.
    """

    prob: NDArray[Any]
    labels: NDArray[Any]
    found: tuple[Lesion, ...]
    shown_as: str


def name_for(figures: Mapping[str, Any]) -> str:
    """What a reader is told they are, by the ``eval_metrics`` of a bundle; a candidate where these do not say."""
    enough = float(figures.get(SENSITIVITY, 0)) >= ENOUGH
    return LESION if enough and float(figures.get(FALSE, np.inf)) <= TOO_MANY else CANDIDATE


def find_lesions(
    prob: NDArray[Any],
    ct: NDArray[Any],
    liver: NDArray[Any],
    affine: NDArray[Any],
    threshold: float = 0.5,
    outline: float = 0.1,
    smallest_ml: float = 0.0,
    shown_as: str = CANDIDATE,
) -> Lesions:
    """List the connected parts of a lesion map.

    Args:
        prob: lesion map ``[X, Y, Z]``, uint8, 255 is 1.
        ct: ``[X, Y, Z]`` in HU.
        liver: mask ``[X, Y, Z]``, what HU are compared with.
        affine: 4 x 4, voxel to world mm (RAS).
        threshold: a part is a lesion if the map reaches this in it, 0..1.
        outline: parts are connected, and end, where the map reaches this.
        smallest_ml: smaller parts are no lesions.
        shown_as: as `Lesions` has it.

    Returns:
        The map, the lesions and where each lies.
    """
    labels = np.zeros(prob.shape[::-1], np.uint16).T  # memory of it is taken where it is written to
    lowest = _stored(min(outline, threshold))
    box = box_of(prob, lowest)
    if box is None or prob[box].max() < _stored(threshold):
        return Lesions(prob, labels, (), shown_as)
    parts = cc3d.connected_components(np.asfortranarray(prob[box] >= lowest))
    statistics = cc3d.statistics(parts)
    ml = statistics["voxel_counts"] * voxel_mm3(affine) / 1000
    peaks = maximum(prob[box], parts, range(len(ml))).astype(int)
    taken = (peaks >= _stored(threshold)) & (ml >= smallest_ml)
    kept = sorted(np.flatnonzero(taken[1:]) + 1, key=lambda n: (-peaks[n], -ml[n]))
    numbers = np.zeros(len(peaks), np.uint16)
    numbers[kept] = np.arange(1, len(kept) + 1)
    labels[box] = numbers[parts]
    level = liver_hu(ct, liver, labels)
    found = []
    for number, part in enumerate(kept, 1):
        inner = statistics["bounding_boxes"][part]
        place = tuple(slice(o.start + int(i.start), o.start + int(i.stop)) for o, i in zip(box, inner))
        found.append(_measure(number, float(peaks[part]) / 255, parts[inner] == part, ct, affine, place, level))
    return Lesions(prob, labels, tuple(found), shown_as)


def _stored(probability: float) -> int:
    """The lowest stored value that a probability has."""
    return max(1, int(probability * 255 + 0.5))


def box_of(values: NDArray[Any], lowest: int) -> tuple[slice, slice, slice] | None:
    """The box of what is at least ``lowest`` in ``[X, Y, Z]``; None where nothing is.

    Cut axis by axis, from the slowest in memory, so that most of a CT is looked at once.
    """
    box = [slice(0, size) for size in values.shape]
    for axis in sorted(range(3), key=lambda i: -values.strides[i]):
        line = np.flatnonzero(values[tuple(box)].max(axis=tuple({0, 1, 2} - {axis})) >= lowest)
        if not len(line):
            return None
        box[axis] = slice(int(line[0]), int(line[-1]) + 1)
    return box[0], box[1], box[2]


def liver_hu(ct: NDArray[Any], liver: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Median of the CT in the liver without lesions, all ``[X, Y, Z]``; None where nothing is left."""
    box = box_of(liver, 1)
    if box is None:
        return None
    # turned over: NumPy picks seven times as fast from the order in which NIfTI stores
    healthy = ct[box].T[((liver[box] > 0) & (labels[box] == 0)).T]
    return float(np.median(healthy)) if len(healthy) else None


def _measure(
    number: int,
    probability: float,
    mask: NDArray[Any],
    ct: NDArray[Any],
    affine: NDArray[Any],
    place: tuple[slice, ...],
    level: float | None,
) -> Lesion:
    """One lesion, true in ``mask``, which is the box ``place`` of the CT."""
    axis = axial_axis(affine)
    across = [i for i in range(3) if i != axis]
    planes = np.moveaxis(mask, axis, 0)
    diameters = [longest_diameter(plane, affine[:3, across]) for plane in planes]
    mean = float(ct[place][mask].mean(dtype=np.float64))
    voxels = np.argwhere(mask) + [span.start for span in place]
    x, y, z = apply_affine(affine, voxels.mean(0))
    first = place[axis].start
    return Lesion(
        number=number,
        probability=round(probability, 3),
        diameter_mm=round(max(diameters), 1),
        volume_ml=round(len(voxels) * voxel_mm3(affine) / 1000, 3),
        mean_hu=round(mean, 1),
        hu_minus_liver=None if level is None else round(mean - level, 1),
        first_slice=first,
        last_slice=first + len(planes) - 1,
        key_slice=first + int(np.argmax(diameters)),
        centre_mm=(round(-float(x), 1), round(-float(y), 1), round(float(z), 1)),
    )


def longest_diameter(plane: NDArray[Any], axes: NDArray[Any]) -> float:
    """The largest Feret diameter, mm, of what is true in ``[I, J]``; 0 where nothing is.

    As scikit-image's feret_diameter_max, from the middles of the pixels' edges; that knows no oblique axes.

    Args:
        plane: bool.
        axes: ``[3, 2]``, the steps from pixel to pixel in mm.
    """
    pixels = np.argwhere(plane)
    if not len(pixels):
        return 0.0
    points = (pixels[:, None] + EDGES).reshape(-1, 2)
    corners = points[ConvexHull(points).vertices]
    return float(pdist(corners @ axes.T).max())


def write_table(found: Sequence[Lesion], file: Path) -> None:
    """Write lesions.csv, a row a lesion, whose centre is in three columns."""
    with written_whole(file) as part, part.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow([*Lesion._fields[:-1], *PLACE])
        table.writerows([*lesion[:-1], *lesion.centre_mm] for lesion in found)
