"""report.html: what was found in a study, in words, numbers and pictures, as one file that needs no network.

Plain HTML with JPEG slices: 5.8 MB for a phantom of 512 x 512 x 130. With NiiVue it was 15.2 MB (2.3 MB of JavaScript,
the volume lossless, though cut to the body and 8-bit), and needs WebGL2.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cc3d
import numpy as np
from isal import igzip
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from PIL import Image

from liver_ct.files import write_text
from liver_ct.outputs.findings import findings, flagged_runs, mm
from liver_ct.outputs.results import to_byte

if TYPE_CHECKING:
    from liver_ct.outputs.results import Item, Regions, SliceRow, StudyResult

TEMPLATES = Path(__file__).with_name("templates")
WINDOW = (-160, 240)  # HU kept; the page's windows lie within
BODY = -300  # HU
PIXELS = 24e6  # of all slices together: some 6 to 8 MB
BEYOND = 60  # slices shown where no liver is near
QUALITY = 80  # of the JPEGs
FINE_MM = 1.4  # pixel of the Prob-Mask, which the segmenter makes at 2 mm


class View(NamedTuple):
    """A study turned to RAS: arrays ``[X, Y, Z]``, the affine, the part that is shown and the slices that are."""

    ct: NDArray[Any]
    prob: NDArray[Any]
    affine: NDArray[Any]
    box: tuple[slice, slice]
    shown: list[int]


def write_report(study: StudyResult, file: str | Path) -> None:
    """Write the report of one study as one HTML file.

    Args:
        study: what to tell; without its regions the page has none.
        file: to write; its folder is made if missing.
    """
    orientation = io_orientation(study.affine)
    turned = study.affine @ inv_ornt_aff(orientation, study.ct.shape)
    ct, prob = (apply_orientation(array, orientation) for array in (study.ct, study.prob_mask))
    upward = sorted(study.rows, key=lambda row: row.z_mm)  # as the slices of the turned arrays
    view = View(ct, prob, turned, body_box(ct), shown_slices(upward))
    threshold = study.summary.flag_threshold
    result = study.result | {"seconds": study.total_seconds, "liver_volume_range_ml": study.volume_range_ml}
    page = render(
        "report.html",
        script="report.js",
        result=result,
        data=page_data(view, upward, study.regions, threshold),
        curve=curve(upward, threshold),
        findings=findings(result, upward),
        runs=flagged_runs(upward, threshold),
        rows=upward,
        cards=study.model_cards,
    )
    write_text(Path(file), page)


def render(template: str, script: str, **values: Any) -> str:
    """A page from its template, with names escaped, and only its own script allowed to run."""
    code = (TEMPLATES / script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return _environment().get_template(template).render(script=code, script_sha256=digest, **values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["mm"] = mm
    return environment


def body_box(ct: NDArray[Any], step: int = 4) -> tuple[slice, slice]:
    """The part of the plane that the body fills in any slice of ``[X, Y, Z]``; the table is no part of it."""
    body = cc3d.largest_k((ct[::step, ::step, ::step] > BODY), k=1)
    spans = []
    for axis, size in ((0, ct.shape[0]), (1, ct.shape[1])):
        line = np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (line[0] * step, (line[-1] + 1) * step) if len(line) else (0, size)
        spans.append(slice(max(0, low - 2 * step), min(size, high + 2 * step)))
    return spans[0], spans[1]


def shown_slices(rows: Sequence[SliceRow]) -> list[int]:
    """Places in ``rows`` of all slices considered, and of up to BEYOND or so of the others."""
    others = sum(row.tumour_probability is None for row in rows)
    every = max(1, -(-others // BEYOND))
    return [i for i, row in enumerate(rows) if row.tumour_probability is not None or i % every == 0]


def page_data(view: View, rows: Sequence[SliceRow], regions: Regions | None, threshold: float) -> Item:
    """What the page's script draws from: slices as JPEG, Prob-Mask and regions deflated, and where they lie."""
    width, height = (span.stop - span.start for span in view.box)
    pixel_mm = voxel_sizes(view.affine)
    scale = min(1.0, 512 / max(width, height), (PIXELS / (width * height * len(view.shown))) ** 0.5)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    planes = (view.ct[view.box[0], view.box[1], z][::-1, ::-1].T for z in view.shown)
    layers = [prob_layer(view)] + ([regions_layer(view, *regions)] if regions else [])
    maps = igzip.compress(b"".join(data.tobytes() for _, data in layers), 2)
    return {
        "slices": [[rows[i].slice, round(rows[i].z_mm, 2), rows[i].tumour_probability] for i in view.shown],
        "threshold": threshold,
        "window": WINDOW,
        "size_mm": [width * pixel_mm[0], height * pixel_mm[1]],
        "ct": [to_jpeg(to_gray(plane), size) for plane in planes],
        "layers": {name: layer for name, (layer, _) in zip(("prob", "regions"), layers)},
        "maps": base64.b64encode(maps).decode(),
        "coronal": coronal(view, rows),
    }


def prob_layer(view: View) -> tuple[Item, NDArray[Any]]:
    """The Prob-Mask of the shown slices, ``[n, rows, columns]`` uint8, and where its pixels lie in the picture."""
    steps = [max(1, round(FINE_MM / mm)) for mm in voxel_sizes(view.affine)[:2]]
    picked = [np.arange(span.start, span.stop)[::-1][::step] for span, step in zip(view.box, steps)]
    empty = np.zeros((len(picked[1]), len(picked[0])), np.uint8)
    planes = []
    for z in view.shown:
        plane = view.prob[..., z]
        planes.append(to_byte(plane[np.ix_(*picked)].T) if plane.any() else empty)
    data, sizes = np.stack(planes), [span.stop - span.start for span in view.box]
    place = [-(step - 1) / 2 / size for step, size in zip(steps, sizes)]
    place += [len(line) * step / size for line, step, size in zip(picked, steps, sizes)]
    return {"shape": data.shape, "place": place, "slices": list(range(len(view.shown)))}, data


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


def coronal(view: View, rows: Sequence[SliceRow]) -> Item:
    """The ``[X, Z]`` plane where the liver is thickest, head up, to see where a slice lies."""
    y = int(view.prob[::4, ::4, ::2].sum(axis=(0, 2)).argmax()) * 4
    ct, prob = (array[view.box[0], y][::-1, ::-1].T for array in (view.ct, view.prob))
    half = abs(rows[-1].z_mm - rows[0].z_mm) / max(1, len(rows) - 1) / 2
    x_mm = voxel_sizes(view.affine)[0]
    return {
        "ct": to_jpeg(to_gray(ct), (ct.shape[1], ct.shape[0])),
        "prob": base64.b64encode(igzip.compress(to_byte(prob).tobytes(), 2)).decode(),
        "shape": prob.shape,
        "size_mm": [ct.shape[1] * x_mm, ct.shape[0] * voxel_sizes(view.affine)[2]],
        "z_mm": [rows[-1].z_mm + half, rows[0].z_mm - half],  # upper and lower edge
    }


def curve(rows: Sequence[SliceRow], threshold: float) -> Item:
    """Paths of the tumour probability and of the liver's area along z, in a box of 1000 x 100, feet on the left."""
    z = np.array([row.z_mm for row in rows])
    x = (z - z[0]) / max(1e-6, z[-1] - z[0]) * 1000
    area = np.array([row.liver_area_mm2 for row in rows])
    y = 100 - 100 * area / max(1.0, area.max())
    points = [(a, 100 - 100 * row.tumour_probability) for a, row in zip(x, rows) if row.tumour_probability is not None]
    return {
        "area": "M0,100" + "".join(f"L{a:.1f},{b:.1f}" for a, b in zip(x, y)) + "L1000,100Z",
        "line": "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in points),
        "dots": "".join(f"M{a:.1f},{b:.1f}h0" for a, b in points if b <= 100 - 100 * threshold),
        "threshold": 100 - 100 * threshold,
        "z_mm": [float(z[0]), float(z[-1])],
        "ticks": list(_ticks(float(z[0]), float(z[-1]))),
    }


def _ticks(low: float, high: float) -> Iterator[tuple[float, str]]:
    """Round places between two in mm: their share of the way, and how they are written."""
    step = next(s for s in (5, 10, 20, 50, 100, 200, 500, 1000, 1e9) if (high - low) / s <= 7)
    for value in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step:
        yield float((value - low) / max(1e-6, high - low)), mm(value)


def to_gray(hu: NDArray[Any]) -> NDArray[Any]:
    """HU to 0..255 over WINDOW."""
    low, high = WINDOW
    return ((np.clip(hu, low, high) - low) * np.float32(255 / (high - low)) + np.float32(0.5)).astype(np.uint8)


def to_jpeg(gray: NDArray[Any], size: tuple[int, int]) -> str:
    """``[rows, columns]`` uint8 as a base64 JPEG of ``size`` (width, height)."""
    image = Image.fromarray(np.ascontiguousarray(gray))
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode()
