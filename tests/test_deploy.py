"""Promises of examples/deploy: the app gives what the chain gives, as DICOM too. `make test-deploy` runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from liver_ct import phantom

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not find_spec("monai.deploy"), reason="the MONAI Deploy App SDK is not installed (make test-deploy installs it)"
)


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """A phantom large enough for the shipped weights, pixels wider than high, files in no order, marked as lossy."""
    import pydicom

    folder = tmp_path_factory.mktemp("chain") / "series"
    ct, _, affine = phantom.make_phantom((128, 140, 50), (3.0, 2.6, 6.0), axcodes="LPS")
    for i, file in enumerate(phantom.write_dicom_series(folder, ct, affine)):
        item = pydicom.dcmread(file)
        item.LossyImageCompression = "01"
        item.save_as(folder / f"{(i * 17) % 50:02d}.dcm", enforce_file_format=True)
        file.unlink()
    return folder


@pytest.fixture(scope="module")
def study(series, tmp_path_factory) -> Path:
    """The same series in one folder with a short one of the same study, a pipe, and links that lead back."""
    import pydicom

    folder = tmp_path_factory.mktemp("study") / "CT"
    shutil.copytree(series, folder)
    uid = pydicom.uid.generate_uid()
    for name in ("07.dcm", "08.dcm"):
        item = pydicom.dcmread(folder / name)
        item.SeriesInstanceUID, item.SOPInstanceUID = uid, pydicom.uid.generate_uid()
        item.save_as(folder / f"a{name}", enforce_file_format=True)
    os.mkfifo(folder / "pipe.dcm")  # would never answer
    (folder / "back").symlink_to(folder.parent)
    (folder / "and").symlink_to(folder)
    return folder.parent


def run(script: str, source: Path, output: Path) -> subprocess.CompletedProcess:
    """The app or the chain, as a user types it."""
    command = [sys.executable, str(ROOT / script), "--input", str(source), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def liver_points(seg, sources: dict) -> np.ndarray:
    """Positions [N, 3] in RAS mm of a SEG's voxels, each frame placed by the image it refers to."""
    points = []
    for frame, item in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence):
        source = sources[item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        row, column = np.nonzero(frame)
        along, down = np.array(source.ImageOrientationPatient, dtype=float).reshape(2, 3)
        high, wide = map(float, source.PixelSpacing)
        corner = np.array(source.ImagePositionPatient, dtype=float)
        points.append(corner + column[:, None] * wide * along + row[:, None] * high * down)
    return np.concatenate(points) * [-1, -1, 1]


def test_app_gives_what_the_chain_gives(series, study, tmp_path):
    import pydicom

    done = run("examples/deploy/app.py", study, tmp_path / "app")
    assert done.returncode == 0, done.stderr[-2000:]
    assert run("scripts/cascade.py", series, tmp_path / "chain").returncode == 0
    app, chain = tmp_path / "app", tmp_path / "chain" / "series"
    for name in ("prob_mask.nii.gz", "liver_mask.nii.gz", "slices.csv"):
        assert (app / name).read_bytes() == (chain / name).read_bytes(), name
    result, expected = (json.loads((folder / "result.json").read_text()) for folder in (app, chain))
    assert result == {key: expected[key] for key in result}
    assert result["flagged_slices"] and result["liver_volume_ml"] > 100
    assert any("loss" in note for note in result["notes"])

    found = {item.Modality: item for item in map(pydicom.dcmread, app.glob("*.dcm"))}
    assert set(found) == {"SEG", "SR"}
    mask = nib.load(chain / "liver_mask.nii.gz")
    sources = {item.SOPInstanceUID: item for item in map(pydicom.dcmread, series.iterdir())}
    points = liver_points(found["SEG"], sources)
    index = np.rint(nib.affines.apply_affine(np.linalg.inv(mask.affine), points)).astype(int)
    assert {tuple(i) for i in index.tolist()} == {tuple(i) for i in np.argwhere(np.asarray(mask.dataobj)).tolist()}
    assert f"{len(result['flagged_slices'])} slices flagged" in found["SR"].ContentSequence[0].TextValue
    assert {item.StudyInstanceUID for item in found.values()} == {next(iter(sources.values())).StudyInstanceUID}


@pytest.mark.parametrize("fault, line", [
    ("gap", "some are missing"), ("twice", "two slices at one position"), ("none", "0 studies with a CT series"),
])  # fmt: skip
def test_what_the_chain_refuses_leaves_nothing(tmp_path, tiny, fault, line):
    ct, _, affine = phantom.make_phantom(**tiny)
    files = phantom.write_dicom_series(tmp_path / "series", ct, affine)
    if fault == "twice":
        (tmp_path / "series" / "again.dcm").write_bytes(files[5].read_bytes())
    for file in {"gap": files[7:8], "none": files}.get(fault, []):
        file.unlink()
    done = run("examples/deploy/app.py", tmp_path / "series", tmp_path / "out")
    assert done.returncode == 1
    (message,) = [text for text in done.stderr.splitlines() if "ERROR" in text]
    assert line in message
    assert not list((tmp_path / "out").iterdir())
