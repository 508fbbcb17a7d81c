"""What the report lays over the CT: Prob-Mask, regions and lesions, deflated, each on a grid of its own."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from isal import igzip
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from liver_ct.outputs.results import to_byte
from liver_ct.outputs.slices import View

if TYPE_CHECKING:
    from liver_ct.outputs.lesions import Lesions
    from liver_ct.outputs.results import Item, StudyResult

FINE_MM = 1.4  # pixel of the Prob-Mask, which the segmenter makes at 2 mm
LESION_MM = 1.0  # pixel of the lesions


def layers(view: View, study: StudyResult) -> Item:
    """All layers of a study: ``layers``, by name their shape and place, and ``maps``, their bytes one after the other.

    A layer's ``shape`` is ``[n, rows, columns]``; ``start`` its first byte in the maps; ``place`` is left, top, width
    and height of its grid in the picture, as shares of that; ``slices`` are the n places among the shown slices.
    """
    found = {"prob": prob_layer(view)}
    if study.regions:
        found["regions"] = regions_layer(view, *study.regions)
    if study.lesions and study.lesions.found:
        found["lesions"] = lesions_layer(view, study.lesions)
    start = 0
    for layer, data in found.values():
        layer["start"] = start
        start += data.size
    maps = igzip.compress(b"".join(np.ascontiguousarray(data).reshape(-1).data for _, data in found.values()), 2)
    return {"layers": {name: layer for name, (layer, _) in found.items()}, "maps": base64.b64encode(maps).decode()}


def prob_layer(view: View) -> tuple[Item, NDArray[Any]]:
    """The Prob-Mask of the shown slices, ``[n, rows, columns]`` uint8."""
    picked, place = _grid(view, FINE_MM)
    empty = np.zeros((len(picked[1]), len(picked[0])), np.uint8)
    planes = []
    for z in view.shown:
        plane = view.prob[..., z]
        planes.append(to_byte(plane[np.ix_(*picked)].T) if plane.any() else empty)
    data = np.stack(planes)
    return {"shape": data.shape, "place": place, "slices": list(range(len(view.shown)))}, data


def lesions_layer(view: View, lesions: Lesions) -> tuple[Item, NDArray[Any]]:
    """255 in lesions, of those shown slices that have any, as prob_layer."""
    picked, place = _grid(view, LESION_MM)
    labels = view.turn(lesions.labels)
    found = [k for k, z in enumerate(view.shown) if labels[..., z].any()]
    planes = [np.where(labels[..., view.shown[k]][np.ix_(*picked)].T > 0, np.uint8(255), np.uint8(0)) for k in found]
    data = np.stack(planes) if planes else np.zeros((0, len(picked[1]), len(picked[0])), np.uint8)
    return {"shape": data.shape, "place": place, "slices": found}, data


def regions_layer(view: View, regions: NDArray[Any], affine: NDArray[Any]) -> tuple[Item, NDArray[Any]]:
    """As prob_layer, for those shown slices that have regions."""
    to_view = np.linalg.inv(view.affine) @ affine
    place, shape = [], []
    for axis, span in enumerate(view.box):
        size, step, count = span.stop - span.start, to_view[axis, axis], regions.shape[axis]
        highest = to_view[axis, 3] + (count - 1) * step  # voxel of the last pixel's middle, which is shown first
        place.append((span.stop - 0.5 - highest - step / 2) / size)
        shape.append(count * step / size)
    shown = {z: k for k, z in enumerate(view.shown)}
    found = {shown.get(round(to_view[2, 2] * k + to_view[2, 3])): k for k in np.flatnonzero(regions.any((0, 1)))}
    found = {place: k for place, k in found.items() if place is not None}
    planes = [to_byte(regions[::-1, ::-1, k].T) for k in found.values()]
    data = np.stack(planes) if planes else np.zeros((0, *regions.shape[1::-1]), np.uint8)
    return {"shape": data.shape, "place": place + shape, "slices": list(found)}, data


def lesion_places(view: View, lesions: Lesions) -> Iterator[Item]:
    """Of each lesion: its middle and its left-hand edge (the patient's) in its key slice, as shares of the picture."""
    labels = view.turn(lesions.labels)
    downward = view.orientation[np.flatnonzero(view.orientation[:, 0] == 2)[0], 1] < 0
    for lesion in lesions.found:
        z = labels.shape[2] - 1 - lesion.key_slice if downward else lesion.key_slice
        x, y = np.nonzero(labels[..., z] == lesion.number)
        yield {**lesion._asdict(), "at": view.share(x.mean(), y.mean()), "edge": view.share(x.min() - 0.5, y.mean())}


def _grid(view: View, fine_mm: float) -> tuple[list[NDArray[Any]], list[float]]:
    """Every so many voxels, some ``fine_mm`` apart: those of each axis, and where they lie in the picture."""
    steps = [max(1, round(fine_mm / mm)) for mm in voxel_sizes(view.affine)[:2]]
    picked = [np.arange(span.start, span.stop)[::-1][::step] for span, step in zip(view.box, steps)]
    place = [-(step - 1) / 2 / size for step, size in zip(steps, view.size)]
    return picked, place + [len(line) * step / size for line, step, size in zip(picked, steps, view.size)]
