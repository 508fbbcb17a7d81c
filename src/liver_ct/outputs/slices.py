"""The CT as a browser takes it: turned to RAS, cut to the body, its slices as JPEG that keep all of HU.

A gray level is 2.4 HU from -200 to 300 HU, where livers are read, and 40 to 50 HU in lung and bone: any window works,
and what JPEG loses stays below the noise of a CT. A lossless volume with a viewer such as NiiVue came to 15 MB.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cc3d
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from liver_ct.outputs.results import SliceRow, StudyResult

KNOTS_HU, KNOTS_GRAY = (-1024, -200, 300, 1500), (0, 20, 232, 255)  # straight between them
BODY = -300  # HU
PIXELS = 30e6  # of all slices together, which a browser decodes in part of a second
BYTES = 6.3e6  # of all slices together: 8.4 MB of text
BEYOND = 60  # slices shown where no liver is near
QUALITY = 80  # of the JPEGs
SAMPLES = 6  # slices from which the size of all is told


class View(NamedTuple):
    """A study turned to RAS.

    Attributes:
        ct: ``[X, Y, Z]`` in HU.
        prob: ``[X, Y, Z]``, the Prob-Mask, 0..1.
        affine: 4 x 4, voxel to world mm.
        box: the part of X and Y that is shown.
        shown: the slices that are, feet to head.
        orientation: that turned it, as nibabel has it.
    """

    ct: NDArray[Any]
    prob: NDArray[Any]
    affine: NDArray[Any]
    box: tuple[slice, slice]
    shown: list[int]
    orientation: NDArray[Any]

    def turn(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array on the CT's grid, turned as the CT is."""
        turned: NDArray[Any] = apply_orientation(array, self.orientation)
        return turned

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the part that is shown."""
        width, height = (span.stop - span.start for span in self.box)
        return width, height

    def share(self, x: float, y: float) -> list[float]:
        """Where a voxel's middle lies in the picture, from its left and upper edge, 0..1."""
        return [round((s.stop - 0.5 - at) / (s.stop - s.start), 4) for s, at in zip(self.box, (x, y))]


def view_of(study: StudyResult, upward: Sequence[SliceRow]) -> View:
    """A study turned to RAS; ``upward``: its rows from the feet to the head, as the slices of the turned arrays."""
    orientation = io_orientation(study.affine)
    turned = study.affine @ inv_ornt_aff(orientation, study.ct.shape)
    ct, prob = (apply_orientation(array, orientation) for array in (study.ct, study.prob_mask))
    return View(ct, prob, turned, body_box(ct), shown_slices(upward), orientation)


def body_box(ct: NDArray[Any], step: int = 4) -> tuple[slice, slice]:
    """The part of the plane that the body fills in any slice of ``[X, Y, Z]``; the table is no part of it."""
    body = cc3d.largest_k((ct[::step, ::step, ::step] > BODY), k=1)
    spans = []
    for axis, size in ((0, ct.shape[0]), (1, ct.shape[1])):
        line = np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (line[0] * step, (line[-1] + 1) * step) if len(line) else (0, size)
        spans.append(slice(int(max(0, low - 2 * step)), int(min(size, high + 2 * step))))
    return spans[0], spans[1]


def shown_slices(rows: Sequence[SliceRow]) -> list[int]:
    """Places in ``rows`` of all slices considered, and of up to BEYOND or so of the others."""
    others = sum(row.tumour_probability is None for row in rows)
    every = max(1, -(-others // BEYOND))
    return [i for i, row in enumerate(rows) if row.tumour_probability is not None or i % every == 0]


def jpeg_slices(view: View) -> list[str]:
    """The shown slices as base64 JPEGs of one size, which keeps them within PIXELS and BYTES."""
    size = _jpeg_size(view)
    return [base64.b64encode(jpeg).decode() for jpeg in _jpegs(view, view.shown, size)]


def _jpeg_size(view: View) -> tuple[int, int]:
    """Columns and rows of the JPEGs."""
    width, height = view.size
    count = len(view.shown)
    scale = min(1.0, 512 / max(width, height), (PIXELS / (width * height * count)) ** 0.5)
    sample = view.shown[:: max(1, count // SAMPLES)]
    for _ in range(3):
        size = max(1, round(width * scale)), max(1, round(height * scale))
        expected = sum(map(len, _jpegs(view, sample, size))) * count / len(sample)
        if expected <= BYTES:
            break
        scale *= (BYTES / expected) ** 0.6  # not 0.5, as smaller pictures take more bytes per pixel
    return size


def _jpegs(view: View, places: Sequence[int], size: tuple[int, int]) -> Iterator[bytes]:
    """Slices seen from the feet, the patient's right on the left."""
    for z in places:
        image = Image.fromarray(np.ascontiguousarray(to_gray(view.ct[view.box[0], view.box[1], z])[::-1, ::-1].T))
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        yield file.getvalue()


def to_gray(hu: NDArray[Any]) -> NDArray[Any]:
    """HU, int16 or floats, to 0..255."""
    whole = hu if hu.dtype == np.int16 else np.clip(hu, KNOTS_HU[0], KNOTS_HU[-1]).astype(np.int16)
    grays: NDArray[Any] = _GRAYS[whole.view(np.uint16)]
    return grays


def _grays() -> NDArray[Any]:
    """The gray of every int16, looked up by its bits: to clip first takes as long as all the rest."""
    every = np.arange(2**16, dtype=np.uint16).view(np.int16)
    return np.interp(every, KNOTS_HU, KNOTS_GRAY).round().astype(np.uint8)


_GRAYS = _grays()
