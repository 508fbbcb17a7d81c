"""Phantom CTs: synthetic portal-venous abdomens with liver and tumour labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from liver_ct.cli.printing import errors_in_one_line
from liver_ct.cli.program import AGAIN, Program


def make(
    output: str,
    cases: int = 1,
    size: Sequence[int] = (256, 256, 80),
    spacing: Sequence[float] = (1.5, 1.5, 3.0),
    seed: int = 0,
    tumours: int = 3,
    noise: float = 12.0,
    axcodes: str = "LPS",
    layout: str = "lits",
    first: int = 0,
) -> None:
    """Write phantom cases and name the files.

    Args:
        output: folder to write to.
        cases: how many, numbered from FIRST, each with anatomy and tumours of its own.
        size: voxels left-right, back-front, foot-head.
        spacing: voxel size in mm along the same axes.
        seed: of the first case.
        tumours: per case.
        noise: standard deviation in HU.
        axcodes: storage order, such as LPS or RAS.
        layout: lits, msd, or dicom (a folder of slices per case, no labels).
        first: number of the first case.
    """
    from liver_ct.phantom import write_cases

    knobs = {"size": size, "spacing": spacing, "tumours": tumours, "noise": noise, "axcodes": axcodes}
    with errors_in_one_line():
        for files in write_cases(Path(output), layout, range(first, first + cases), seed, **knobs):
            print(*files)


PROGRAM = Program("phantom", __doc__, {"make": make}, stopped=AGAIN)
main = PROGRAM.run
