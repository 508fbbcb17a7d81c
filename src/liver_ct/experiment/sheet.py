"""The picture sheet of slices on which two arms disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from liver_ct.errors import StudyError
from liver_ct.files import written_whole
from liver_ct.outputs.axes import axial_axis
from liver_ct.outputs.picture import LIVER, STYLE, TUMOUR, WINDOW

if TYPE_CHECKING:
    from liver_ct.experiment.analysis import Analysis

HALF_MM = 130.0  # of the pictures, around the liver


def picture_sheet(
    a: Analysis, cases: Mapping[str, Mapping[str, Any]], one: str, other: str, output: Path, count: int = 12
) -> list[tuple[str, int]]:
    """Draw the slices on which two arms disagree most in probability and decide differently, with tumour and Prob-Mask.

    Args:
        a: the experiment's figures.
        cases: case to its ``image``, ``label`` and ``prob``.
        one: an arm.
        other: another, of the same gop.
        output: PNG to write.
        count: how many slices, the largest differences first, at most two per case.

    Returns:
        Case and slice of each picture.

    Raises:
        StudyError: the arms nowhere decide differently.
    """
    p, q = a.probabilities(one)[0], a.probabilities(other)[0]
    chosen = most_different(p, q, a.results["slices"]["case"], count)
    if a.gop(one) != a.gop(other) or not chosen:
        raise StudyError(f"{one}, {other}: of different gop, or nowhere of different minds. Choose two others.")
    case, index = a.results["slices"]["case"], a.results["slices"]["slice"]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(3.6 * columns, 3.9 * rows), layout="constrained", squeeze=False
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, i in zip(grid.flat, chosen):
            draw_slice(axes, cases[case[i]], index[i])
            axes.set_title(
                caption(p[i], q[i], a.labels[a.gop(one)][i] > 0, case[i], index[i]), fontsize=9, parse_math=False
            )
        figure.suptitle(f"{one} | {other}    cyan: Prob-Mask 0.5, orange: tumour", fontsize=11, parse_math=False)
        with written_whole(output) as part:
            figure.savefig(part, dpi=90, format="png")
        plt.close(figure)
    return [(case[i], index[i]) for i in chosen]


def most_different(p: NDArray[Any], q: NDArray[Any], case: Sequence[str], count: int) -> list[int]:
    """Rows of up to ``count`` slices on which two arms decide differently, by falling difference, two per case.

    Args:
        p: one arm's calibrated probabilities ``[N]``.
        q: the other's ``[N]``.
        case: each slice's case ``[N]``.
        count: how many rows at most.
    """
    taken: Counter[str] = Counter()
    chosen: list[int] = []
    for i in np.argsort(-abs(p - q)):
        decide_differently = (p[i] >= 0.5) != (q[i] >= 0.5)
        if decide_differently and taken[case[i]] < 2:
            chosen.append(int(i))
            taken[case[i]] += 1
    return chosen[:count]


def draw_slice(axes: Axes, entry: Mapping[str, Any], index: int) -> None:
    """The CT's slice around the liver, with the Prob-Mask's outline at 0.5 and the tumour's."""
    ct, (dx, dy) = plane(entry["image"], index)
    prob, _ = plane(entry["prob"], index)
    truth, _ = plane(entry["label"], index)
    axes.imshow(ct.T, "gray", vmin=WINDOW[0], vmax=WINDOW[1], origin="lower", aspect=dy / dx)
    x, y = np.average(np.indices(prob.shape).reshape(2, -1), axis=1, weights=prob.ravel() + 1e-6)
    axes.set(xlim=(x - HALF_MM / dx, x + HALF_MM / dx), ylim=(y - HALF_MM / dy, y + HALF_MM / dy))
    for values, colour in ((prob, LIVER), (truth == 2, TUMOUR)):
        if values.min() < 0.5 < values.max():
            axes.contour(values.T, [0.5], colors=colour, linewidths=1)


def caption(p: float, q: float, tumour: bool, case: str, index: int) -> str:
    """Which slice it is, what is true, both probabilities, and which arm is right."""
    right = "first" if (p >= 0.5) == tumour else "second"
    said = "tumour" if tumour else "no tumour"
    return f"{case} slice {index}, {said}\n{p:.2f} | {q:.2f}   right: {right}"


def plane(path: str, index: int) -> tuple[NDArray[Any], tuple[float, float]]:
    """Slice ``index`` along the file's axial axis, as a radiologist sees it, and its pixels' width and height in mm."""
    image = nib.load(path)
    axis = axial_axis(image.affine)
    lone = image.slicer[tuple(slice(index, index + 1) if a == axis else slice(None) for a in range(3))]
    turned = nib.as_closest_canonical(lone)
    return np.asanyarray(turned.dataobj)[::-1, :, 0], turned.header.get_zooms()[:2]
