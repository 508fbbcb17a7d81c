"""`make demo`: the shipped weights find the phantom's liver, and the report is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import demo
import pytest

from liver_ct import phantom
from liver_ct.cli import demo as commands
from liver_ct.outputs import names


def test_the_phantoms_liver_is_found_and_the_report_named(tmp_path, capsys):
    demo.demo(output=str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    dice = float(next(line for line in lines if line.startswith("liver Dice")).split()[-1])
    assert dice > 0.85
    assert lines[-1] == f"open {tmp_path / 'volume-0' / 'report.html'}" and Path(lines[-1][5:]).stat().st_size > 50_000


def test_a_series_of_the_users_own(tmp_path, capsys):
    ct, _, affine = phantom.make_phantom((128, 128, 50), (3.0, 3.0, 6.0))
    phantom.write_dicom_series(tmp_path / "CT 1", ct, affine)
    demo.demo(ct=str(tmp_path / "CT 1"), output=str(tmp_path / "out"))
    assert capsys.readouterr().out.splitlines()[-1] == f"open {tmp_path / 'out' / 'CT 1' / 'report.html'}"
    written = {path.name for path in (tmp_path / "out" / "CT 1").iterdir()}
    assert written == {*names.OUTPUTS} - {*names.DICOM_OUTPUTS, *names.DICOM_OF_LESIONS}


def test_a_liver_that_is_missed_is_no_success(tmp_path, monkeypatch):
    def nothing_found(input: str, output: str, overwrite: bool) -> None:
        case = Path(output) / "volume-0"
        case.mkdir()
        shutil.copy(Path(output) / "segmentation-0.nii.gz", case / "liver_mask.nii.gz")

    monkeypatch.setattr(commands.cascade, "cascade", nothing_found)
    monkeypatch.setattr(commands, "liver_dice", lambda mask, label: 0.5)
    with pytest.raises(SystemExit, match="liver was not found"):
        demo.demo(output=str(tmp_path))
