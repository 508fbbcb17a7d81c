"""An experiment's page, from whichever files of numbers are there."""

from __future__ import annotations

from pathlib import Path

from liver_ct.experiment.calibrating import FILE, rows_of
from liver_ct.experiment.collecting import read_results
from liver_ct.experiment.plots import draw_calibration
from liver_ct.experiment.report import write_report
from liver_ct.experiment.report_parts import calibration_report, judged_report
from liver_ct.files import read_json


def write_page(folder: Path, text: Path) -> None:
    """Write the tables into ``text`` and the plots into ``folder``.

    Args:
        folder: of ``results.json``, ``judged/results.json`` or ``calibration.json``.
        text: the page; what stands around its blocks is left.

    Raises:
        StudyError: none of the files is there, or the page lacks the marks of a block.
    """
    judged = folder / "judged"
    calibrated = folder / FILE
    if (folder / "results.json").exists() or not ((judged / "results.json").exists() or calibrated.exists()):
        results = read_results(folder)
        write = judged_report if "weights" in results else write_report
        write(results, folder, text)
    if (judged / "results.json").exists():
        judged_report(read_results(judged), judged, text)
    if calibrated.exists():
        content = read_json(calibrated)
        draw_calibration(rows_of(content), folder)
        calibration_report(content, folder, text)
