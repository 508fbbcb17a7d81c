"""The experiment's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.special import logit
from sklearn.metrics import roc_curve

from liver_ct.experiment.masks import CENTRES
from liver_ct.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from liver_ct.experiment.analysis import Analysis

STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
COLOURS = {"manual": "#333333", "prob": "#0a8f88", "binary": "#d9622b", "none": "#8a8f98"}


def draw_plots(analysis: Analysis, folder: Path) -> None:
    """Write roc.png, differences.png, reliability.png and coverage.png into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for name, draw in PLOTS.items():
            figure = draw(analysis)
            with written_whole(folder / f"{name}.png") as part:
                figure.savefig(part, dpi=110)
            plt.close(figure)


def draw_roc(a: Analysis) -> Figure:
    """Mean over the seeds of the ROC curves of the reference's combine and gop, by mask."""
    figure, axes = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
    grid = np.linspace(0, 1, 201)
    reference = a.results["arms"][a.results["config"]["reference"]]
    like = [n for n in a.arms if n.endswith(f"-{reference['combine']}-gop{reference['gop']}") and n.count("-") == 2]
    for arm in like:
        label, source = a.labels[a.gop(arm)], arm.split("-")[0]
        curves = [np.interp(grid, *roc_curve(label, raw)[:2]) for raw in a.raw(arm)]
        auc = a.figures(arm, a.gop(arm), a.seeds(arm))[0]["auc"]
        style = {"color": COLOURS[source]} if source in COLOURS else {"linestyle": "--", "linewidth": 1}
        axes.plot(grid, np.mean(curves, axis=0), label=f"{arm}  {auc:.3f}", **style)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    axes.set(
        xlabel="false positive rate", ylabel="true positive rate", title="Tumour in the slice's group, unseen people"
    )
    axes.legend(frameon=False, title="AUC", loc="lower right")
    return figure


def draw_differences(a: Analysis) -> Figure:
    """The paired differences with their intervals."""
    contrasts = a.results["config"]["contrasts"]
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(contrasts) + 1.3), layout="constrained")
    for i, (one, other) in enumerate(contrasts):
        c = a.contrast(one, other)
        colour = "#0a8f88" if c["excludes_0"] else "#8a8f98"
        axes.plot(c["interval"] or [c["difference"]] * 2, [i, i], color=colour, linewidth=2)
        axes.plot(c["difference"], i, "o", color=colour)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_yticks(range(len(contrasts)), [f"{one}\n- {other}" for one, other in contrasts], fontsize=8)
    axes.set(xlabel="difference in AUC, 95 % by patient (green: excludes 0)", ylim=(-0.6, len(contrasts) - 0.4))
    axes.invert_yaxis()
    return figure


def draw_reliability(a: Analysis) -> Figure:
    """Reliability of the Prob-Mask and of the tumour probability, and the Prob-Mask's histogram by loss."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.5, 4.4), layout="constrained")
    for axes, curves, title in (
        (left, a.tempered(), "Prob-Mask, within 20 mm of the liver"),
        (middle, a.tumour_calibration(a.results["config"]["reference"]), "Tumour probability of a slice"),
    ):
        for name, curve in curves.items():
            axes.plot(
                curve["predicted"], curve["observed"], "o-", markersize=3, label=f"{name}  ECE {curve['ece']:.3f}"
            )
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        axes.set(xlabel="predicted", ylabel="observed", title=title)
        axes.legend(frameon=False)
    names = list(a.results["masks"])
    common = set.intersection(*(set(a.results["masks"][n]) for n in names))
    for name in names:
        total = np.sum([a.results["masks"][name][c] for c in common], axis=(0, 1))
        right.plot(CENTRES, total.cumsum() / total.sum(), label=name)
    right.axvspan(*logit([0.05, 0.95]), color="#bbbbbb", alpha=0.3, linewidth=0)
    right.set(xlim=(-12, 12), xlabel="logit (grey: probability 0.05 to 0.95)", ylabel="share of voxels up to there")
    right.set(title="Saturation, by stage 1's training")
    right.legend(frameon=False)
    return figure


def draw_coverage(a: Analysis) -> Figure:
    """Share of each case's tumour under the masks, and the groups' shares under the binary one."""
    slices = a.results["slices"]
    case = np.array(slices["case"])
    names = sorted(set(case), key=lambda n: int("".join(filter(str.isdigit, n)) or 0))
    values = {k: [np.array(slices[k])[case == n].sum() for n in names] for k in ("tumour", "prob", "binary")}
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained", width_ratios=(2, 1))
    for offset, kind in ((-0.2, "prob"), (0.2, "binary")):
        share = np.array(values[kind]) / np.where(np.array(values["tumour"]) > 0, values["tumour"], np.nan)
        left.bar(np.arange(len(names)) + offset, share, 0.38, color=COLOURS[kind], label=kind)
    left.set_xticks(range(len(names)), names, rotation=70, fontsize=8)
    left.set(ylabel="share of the tumour's volume", title="Tumour under the out-of-fold masks, by case", ylim=(0, 1.15))
    left.legend(frameon=False, loc="upper center", ncols=2)
    share = a.tumour_share()["binary"]
    right.hist(share[~np.isnan(share)], bins=20, range=(0, 1), color=COLOURS["binary"])
    right.set(yscale="log", xlabel="share of a group's tumour under the binary mask", ylabel="groups with tumour")
    return figure


def draw_calibration(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write calibration.png into ``folder``: reliability curves of ``calibrating.rows_of``, a panel per probability."""
    names = list(dict.fromkeys(row["what"] for row in rows))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(names), figsize=(6 * len(names), 6.5), layout="constrained", squeeze=False)
        for panel, name in zip(axes[0], names):
            own = [row for row in rows if row["what"] == name]
            styles = dict(zip(dict.fromkeys(row["scaled"] for row in own), ("-", "--", ":")))
            colours = {part: f"C{i}" for i, part in enumerate(dict.fromkeys(row["part"] for row in own))}
            for row in own:
                label = f"{row['part']}, {row['scaled']}: {row['ece']:.3f}"
                line = {"linestyle": styles[row["scaled"]], "color": colours[row["part"]]}
                panel.plot(row["predicted"], row["observed"], marker="o", markersize=3, label=label, **line)
            panel.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
            panel.set(xlabel="predicted", ylabel="observed", title=name)
            panel.legend(frameon=False, fontsize=7, title="ECE", loc="upper center", bbox_to_anchor=(0.5, -0.1))
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / "calibration.png") as part:
            figure.savefig(part, dpi=110)
        plt.close(figure)


PLOTS = {"roc": draw_roc, "differences": draw_differences, "reliability": draw_reliability, "coverage": draw_coverage}
