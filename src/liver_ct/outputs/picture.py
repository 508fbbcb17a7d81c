"""The picture of a result: the CT with its Prob-Mask at the most suspicious slices, and the probability along z."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from liver_ct.files import written_whole

if TYPE_CHECKING:
    from liver_ct.outputs.results import SliceRow, StudyResult

DRAWING = threading.Lock()  # matplotlib is not made for threads
WINDOW = (-60, 200)  # HU
MARKS, APART_MM = "ABCD", 12.0  # axial slices in the picture, and how far apart they are at least
LEVELS = (0.1, 0.5, 0.9)  # Prob-Mask contours
BACK, INK, FAINT, LIVER, TUMOUR = "#101418", "#e8ecef", "#8b959e", "#35c9c1", "#ff8552"
STYLE = {
    "font.size": 10,
    "figure.facecolor": BACK,
    "savefig.facecolor": BACK,
    "axes.facecolor": BACK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "text.parse_math": False,  # a study may be called a$b$
    "axes.titlesize": 10,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def write_picture(study: StudyResult, file: str | Path) -> None:
    """Write the picture of one study as PNG.

    Args:
        study: what to draw.
        file: to write; its folder is made if missing.
    """
    orientation = io_orientation(study.affine)
    ct, prob = (apply_orientation(array, orientation) for array in (study.ct, study.prob_mask))
    spacing = voxel_sizes(study.affine)[np.argsort(orientation[:, 0])]
    upward = sorted(study.rows, key=lambda row: row.z_mm)  # as the slices of the reoriented arrays
    shown = most_suspicious(upward)
    with DRAWING, mpl.rc_context(STYLE):
        figure, coronal, curve, axials = _layout(f"{study.case}    {study.headline}", study.result["notes"])
        _draw_coronal(coronal, ct, prob, spacing, upward, shown)
        _draw_curve(curve, upward, shown, study.summary.flag_threshold)
        for axes, place, mark in zip(axials, shown, MARKS):
            _draw_axial(axes, ct[..., place], prob[..., place], spacing, f"{mark}   {_caption(upward[place])}")
        with written_whole(Path(file)) as part:
            FigureCanvasAgg(figure).print_png(part, pil_kwargs={"compress_level": 3})  # smaller than with 6, too


def most_suspicious(rows: Sequence[SliceRow], count: int = len(MARKS), apart_mm: float = APART_MM) -> list[int]:
    """Places in ``rows`` of up to ``count`` slices of highest tumour probability, in falling order.

    They lie ``apart_mm`` apart, as neighbouring slices look alike; of equal ones the one with more liver comes first.
    """
    considered = [place for place, row in enumerate(rows) if row.tumour_probability is not None]
    chosen: list[int] = []
    for place in sorted(considered, key=lambda i: (rows[i].tumour_probability, rows[i].liver_area_mm2), reverse=True):
        if all(abs(rows[place].z_mm - rows[other].z_mm) >= apart_mm for other in chosen):
            chosen.append(place)
    return chosen[:count]


def _layout(title: str, notes: Sequence[str]) -> tuple[Figure, Axes, Axes, list[Axes]]:
    """Coronal view above the curve, and two by two axial slices beside them."""
    figure = Figure(figsize=(14, 8.4), dpi=100)  # without pyplot, which takes long to import
    left = figure.add_gridspec(2, 1, left=0.06, right=0.4, top=0.885, bottom=0.1, height_ratios=(1.25, 1), hspace=0.16)
    right = figure.add_gridspec(2, 2, left=0.425, right=0.985, top=0.885, bottom=0.045, wspace=0.03, hspace=0.09)
    axials = [figure.add_subplot(right[row, column]) for row in (0, 1) for column in (0, 1)]
    for axes in axials:
        axes.set_axis_off()
    figure.text(0.02, 0.95, title, fontsize=13, fontweight="bold")
    said = textwrap.fill(" ".join(notes), 200, max_lines=2)
    figure.text(0.02, 0.938, said, color=TUMOUR, va="top", fontsize=9)
    figure.text(0.985, 0.95, "Prob-Mask 0.5 (thin: 0.1 and 0.9)", color=LIVER, ha="right")
    figure.text(0.985, 0.015, f"HU {WINDOW[0]} to {WINDOW[1]}. For research only.", color=FAINT, ha="right", fontsize=9)
    return figure, figure.add_subplot(left[0]), figure.add_subplot(left[1]), axials


def _draw_axial(axes: Axes, ct: NDArray[Any], prob: NDArray[Any], spacing: Sequence[float], caption: str) -> None:
    """One ``[X, Y]`` RAS slice as a radiologist sees it: from the feet, patient's right on the left, anterior up."""
    _draw_plane(axes, ct, prob, (0, ct.shape[0] * spacing[0], 0, ct.shape[1] * spacing[1]))
    axes.set_title(caption, pad=4)


def _draw_coronal(
    axes: Axes,
    ct: NDArray[Any],
    prob: NDArray[Any],
    spacing: Sequence[float],
    rows: Sequence[SliceRow],
    shown: Sequence[int],
) -> None:
    """The ``[X, Z]`` plane through the thickest part of the liver, z in mm, with the shown axial slices marked."""
    y, half = int(prob.sum(axis=(0, 2)).argmax()), spacing[2] / 2
    width = ct.shape[0] * spacing[0]
    _draw_plane(axes, ct[:, y], prob[:, y], (0, width, rows[0].z_mm - half, rows[-1].z_mm + half))
    for place, mark in zip(shown, MARKS):
        axes.axhline(rows[place].z_mm, color=TUMOUR, linewidth=0.8, alpha=0.7)
        axes.text(width * 1.02, rows[place].z_mm, mark, color=TUMOUR, va="center", fontweight="bold")
    axes.set(ylabel="z (mm)", xticks=[], anchor="S")


def _draw_plane(axes: Axes, ct: NDArray[Any], prob: NDArray[Any], extent: tuple[float, float, float, float]) -> None:
    """A ``[right-left, up]`` plane with Prob-Mask contours, the patient's right on the left; ``extent`` in mm."""
    axes.imshow(ct[::-1].T, "gray", vmin=WINDOW[0], vmax=WINDOW[1], origin="lower", extent=extent, aspect="equal")
    for level, width in zip(LEVELS, (0.5, 1.4, 0.5)):
        if prob.min() < level <= prob.max():  # else there is no contour, and matplotlib warns
            axes.contour(prob[::-1].T, [level], colors=LIVER, linewidths=width, extent=extent, origin="lower")
    for x, side in ((0.02, "R"), (0.98, "L")):
        axes.text(
            x, 0.97, side, transform=axes.transAxes, ha="left" if x < 0.5 else "right", va="top", fontweight="bold"
        )


def _draw_curve(axes: Axes, rows: Sequence[SliceRow], shown: Sequence[int], threshold: float) -> None:
    """Tumour probability along z, from the feet to the head, over the liver's area for orientation."""
    z = np.array([row.z_mm for row in rows])
    area = np.array([row.liver_area_mm2 for row in rows])
    p = np.array([np.nan if row.tumour_probability is None else row.tumour_probability for row in rows])
    axes.fill_between(z, area / max(area.max(), 1), color=LIVER, alpha=0.16, linewidth=0, label="liver area (relative)")
    axes.axhline(threshold, color=FAINT, linewidth=0.9, linestyle=":")
    axes.plot(z, p, color=INK, linewidth=1.2, marker=".", markersize=3, label="tumour probability of the slice")
    axes.plot(
        z[p >= threshold], p[p >= threshold], "o", color=TUMOUR, markersize=4, label=f"flagged (from {threshold:g})"
    )
    for place, mark in zip(shown, MARKS):
        axes.axvline(z[place], color=TUMOUR, linewidth=0.8, alpha=0.5)
        axes.text(z[place], 1.05, mark, color=TUMOUR, ha="center", va="bottom", fontweight="bold")
    axes.set(xlim=(z[0], z[-1]), ylim=(-0.03, 1.04), xlabel="z (mm), feet to head", ylabel="tumour probability")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=3, frameon=False, fontsize=8, handlelength=1.2)


def _caption(row: SliceRow) -> str:
    return f"slice {row.slice}    z {row.z_mm:.0f} mm    tumour {row.tumour_probability:.2f}"
