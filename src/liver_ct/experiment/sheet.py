"""The picture sheet of slices on which two arms disagree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from liver_ct.errors import StudyError
from liver_ct.files import written_whole
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
    chosen: list[int] = []
    case, index = a.results["slices"]["case"], a.results["slices"]["slice"]
    for i in np.argsort(-abs(p - q)):
        if (p[i] >= 0.5) != (q[i] >= 0.5) and sum(case[i] == case[j] for j in chosen) < 2:
            chosen.append(int(i))
    chosen = chosen[:count]
    if a.gop(one) != a.gop(other) or not chosen:
        raise StudyError(f"{one}, {other}: of different gop, or nowhere of different minds. Choose two others.")
    label, columns = a.labels[a.gop(one)], min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(3.6 * columns, 3.9 * rows), layout="constrained", squeeze=False
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, i in zip(grid.flat, chosen):
            volumes = [plane(cases[case[i]][k], index[i]) for k in ("image", "prob", "label")]
            (ct, (dx, dy)), (prob, _), (truth, _) = volumes
            axes.imshow(ct.T, "gray", vmin=WINDOW[0], vmax=WINDOW[1], origin="lower", aspect=dy / dx)
            x, y = np.average(np.indices(prob.shape).reshape(2, -1), axis=1, weights=prob.ravel() + 1e-6)
            axes.set(xlim=(x - HALF_MM / dx, x + HALF_MM / dx), ylim=(y - HALF_MM / dy, y + HALF_MM / dy))
            for values, level, colour in ((prob, 0.5, LIVER), (truth == 2, 0.5, TUMOUR)):
                if values.min() < level < values.max():
                    axes.contour(values.T, [level], colors=colour, linewidths=1)
            truth, right = label[i] > 0, "first" if (p[i] >= 0.5) == (label[i] > 0) else "second"
            caption = f"{case[i]} slice {index[i]}, {'tumour' if truth else 'no tumour'}"
            axes.set_title(f"{caption}\n{p[i]:.2f} | {q[i]:.2f}   right: {right}", fontsize=9)
        figure.suptitle(f"{one} | {other}    cyan: Prob-Mask 0.5, orange: tumour", fontsize=11)
        with written_whole(output) as part:
            figure.savefig(part, dpi=90, format="png")
        plt.close(figure)
    return [(case[i], index[i]) for i in chosen]


def plane(path: str, index: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Slice ``index`` along the file's axial axis, as a radiologist sees it, and its pixels' width and height in mm."""
    image = nib.load(path)
    orientation = nib.orientations.io_orientation(image.affine)
    axis = int(np.flatnonzero(orientation[:, 0] == 2)[0])
    lone = image.slicer[tuple(slice(index, index + 1) if a == axis else slice(None) for a in range(3))]
    turned = nib.as_closest_canonical(lone)
    return np.asanyarray(turned.dataobj)[::-1, :, 0], turned.header.get_zooms()[:2]
