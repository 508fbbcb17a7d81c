# A copy of order.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Voxels in another order than their header says, and slices that are not of the CT around them: the values tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from scripts.cls_dicom_neighbours import AROUND, JUMP, LITTLE, WINDOW, differences
from scripts.cls_errors import StudyError
from scripts.cls_sequence import out_of_sequence

# How far neighbours along an axis differ, against any two: in 45 CTs at most 0.30 in plane and 0.55 across (10 mm
# apart); 0.93 and more with their slices shuffled, 0.77 and more for most with the sizes of their axes exchanged.
UNRELATED = 0.75
TIMES = 1.6  # against the axis along which they differ least, as noise is along all of them
SKEWED = 1.75  # between two axes of voxels of one size; at most 1.28 in 45 CTs, 1.9 and more with 16 columns too few
SLAB_MM = 60  # long enough that any two lines differ by more than noise; of 20 mm of isotropic voxels good ones reach 2
ENDING, BODY_HU = 0.1, -200  # of the lines along an axis; no air
# Of a picture that goes on from one edge at the other: body in two lines at both, little in a line between, and how far
# the edges differ against neighbouring lines. In 45 CTs 5 and more where both hold body, 1.9 where they hold any; 0.9
# to 1.3 with the rows begun late.
EDGE_BODY, BETWEEN, SEAM = 0.02, 0.25, 1.5
LINES, FINE = 24, 48  # across an axis, enough to judge it by, and a slice
FIX = "Export it again from the scanner's original."


def check_order(path: Path, image: MetaTensor) -> None:
    """Raise StudyError where the voxels of ``[1, X, Y, Z]`` in HU are no body in the order that the header gives them.

    A DICOM series says where each of its slices is, and they are also held against each other when they are read.
    """
    values = image.as_tensor()[0].numpy()
    apart = [_unlikeness(values, axis) for axis in range(3)]
    worst, sizes = int(np.argmax(apart)), np.linalg.norm(image.affine.numpy()[:3, :3], axis=0)
    alike = [other for other, size in zip(apart, sizes) if other and np.isclose(size, sizes[worst], rtol=0.1)]
    skewed = apart[worst] > SKEWED * min(alike, default=np.inf) and values.shape[worst] * sizes[worst] >= SLAB_MM
    if (apart[worst] > UNRELATED and apart[worst] > TIMES * min(apart)) or skewed:
        cause = "their order, or the sizes in the header, are wrong, or it shows no body"
        raise StudyError(f"{path}: neighbours along axis {worst} have nothing in common: {cause}. {FIX}")
    along = int(np.argmax(np.abs(image.affine.numpy()[2, :3])))
    slices = np.moveaxis(values, along, 0)
    if (odd := _odd_slice(slices)) is not None:
        cause = f"{_named(image, odd, len(slices))} does not fit those beside it, which fit each other"
        raise StudyError(f"{path}: {cause}. {FIX}")
    _check_ends(path, image, values)
    _check_edges(path, slices)
    if found := out_of_sequence(slices, sizes[along]):
        raise StudyError(f"{path}: {_named(image, found[0], len(slices))} {found[1]}. {FIX}")


def _check_ends(path: Path, image: MetaTensor, values: np.ndarray) -> None:
    """Raise StudyError where the first or last slice that is stored ends in lines of one value, amid the body.

    So does a file whose end was not written; in a series, either may be that of the last file.
    """
    for number, beside in ((0, 1), (-1, -2)):
        plane, other = values[..., number], values[..., beside]
        blank = _blank_lines(plane)
        edge = plane[:, -blank - 1] if blank < plane.shape[1] else plane[:0, 0]
        cut = blank - _blank_lines(other) > ENDING * plane.shape[1]
        if cut and np.count_nonzero(edge > BODY_HU) > ENDING * len(edge) > 0:
            slice_name = _named(image, number % values.shape[2], values.shape[2])
            cause = f"{slice_name} ends in {blank} lines of {plane[-1, -1]:g} HU, as if it was not written to its end"
            raise StudyError(f"{path}: {cause}. {FIX}")


def _check_edges(path: Path, slices: np.ndarray) -> None:
    """Raise StudyError where pictures ``[Z, ...]`` begin amid the body and go on at the opposite edge."""
    for axis in (1, 2):
        pictures = np.moveaxis(slices[:: max(1, len(slices) // FINE)], axis, 0)
        edge = min(np.mean(pictures[line] > BODY_HU) for line in (0, 1, -2, -1))
        if edge < EDGE_BODY or np.mean(pictures > BODY_HU, axis=(1, 2)).min() > BETWEEN * edge:
            continue
        first, second, before, last = pictures[[0, 1, -2, -1]].clip(*WINDOW).astype(np.float32)
        body = ((first > BODY_HU) | (last > BODY_HU)) & (first != last)  # equal is what was filled in around the body
        if np.count_nonzero(body) < EDGE_BODY * body.size:
            continue
        usual = (np.abs(first - second)[body].mean() + np.abs(before - last)[body].mean()) / 2
        late = [np.roll(last, lines, axis=1) for lines in (-1, 0, 1)]  # one row earlier or later
        if min(np.abs(first - other)[body].mean() for other in late) < SEAM * max(usual, LITTLE):
            cause = "its pictures begin amid the body and go on at the opposite edge: bytes were lost or added"
            raise StudyError(f"{path}: {cause}. {FIX}")


def _blank_lines(plane: np.ndarray) -> int:
    """How many of the last lines of ``[X, Y]`` hold one value."""
    other = np.flatnonzero((plane != plane[-1, -1]).any(0))
    return plane.shape[1] - 1 - int(other[-1]) if len(other) else plane.shape[1]


def _named(image: MetaTensor, number: int, count: int) -> str:
    """A slice by its number, and its file where it has one of its own."""
    files = image.meta.get("files")
    name = f" ({Path(files[number]).name})" if files and len(files) == count else ""
    return f"slice {number} of 0 to {count - 1}{name}"


def _lines(values: np.ndarray, axis: int, count: int = LINES) -> np.ndarray:
    """Some lines of voxels along an axis, which comes first, within the window."""
    first = np.moveaxis(values, axis, 0)
    steps = [max(1, size // count) for size in first.shape[1:]]
    return first[:, :: steps[0], :: steps[1]].astype(np.float32).clip(*WINDOW)


def _unlikeness(values: np.ndarray, axis: int) -> float:
    """How far neighbours along an axis differ, against any two; 0 where there are too few to tell."""
    lines = _lines(values, axis)
    if len(lines) < 2 * AROUND:
        return 0.0
    order = np.random.default_rng(0).permutation(len(lines))
    any_two = np.abs(lines[order[1:]] - lines[order[:-1]]).mean()
    return float(np.abs(np.diff(lines, axis=0)).mean() / max(any_two, LITTLE))


def _odd_slice(slices: np.ndarray) -> int | None:
    """The slice of ``[Z, ...]`` that is most unlike both neighbours, where these are like each other."""
    if len(slices) < 2 * AROUND:
        return None
    lines = _lines(slices, 0, FINE)
    apart, second = (differences(lines, lag) for lag in (1, 2))
    jumps = np.minimum(apart[:-1], apart[1:]) / second.clip(LITTLE)
    return int(jumps.argmax()) + 1 if jumps.max() > JUMP else None
