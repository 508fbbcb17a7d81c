"""Mutated files: each is refused by one line or read as it was, within 2 GB and 20 s; `make fuzz` tries 10,000."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import warm
from fuzz.fields import value_around
from fuzz.judging import AS_SAID, BAD_LINE, CHANGED, REFUSED, SAME, Answer, judge, judge_line
from fuzz.mutating import Mutant
from fuzz.samples import SIZE, SPACING, Sample

from liver_ct.phantom import make_phantom

PROGRAM = Path(__file__).parent / "fuzz" / "run.py"


@pytest.fixture(scope="module")
def truth() -> Answer:
    ct, _, affine = make_phantom(SIZE, SPACING)
    return Answer(ct, affine)


@pytest.mark.slow
def test_300_mutants_are_refused_or_read_as_they_were():
    options = ["--count", "300", "--chained", "10", "--workers", "1", "--docs", "None"]
    done = subprocess.run([sys.executable, str(PROGRAM), "many", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("300 mutants", "| refused by one line |", "10 through the whole chain"):
        assert text in done.stdout


@pytest.mark.slow
def test_a_mutant_can_be_made_again(tmp_path):
    files = []
    for folder in ("a", "b"):
        words = ["one", "--number", "7", "--seed", "3", "--keep", tmp_path / folder]
        done = warm.python(PROGRAM, *words)
        assert done.returncode == 0 and "--number 7 --seed 3" in done.stdout
        files.append({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()})
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "sample, field, change, kind",
    [
        ("NIfTI .nii", "srow_x", lambda a: moved(a, 8), CHANGED),  # the qform says otherwise
        ("NIfTI .nii", "srow_x", lambda a: moved(a, 0.5), SAME),
        ("NIfTI .nii", "srow_y", lambda a: tilted(a, 1), AS_SAID),
        ("NIfTI .nii", "srow_y", lambda a: tilted(a, 8), CHANGED),
        ("NRRD raw", "space origin", lambda a: moved(a, 8), AS_SAID),
        ("NRRD raw", "space origin", lambda a: moved(a, 1e6), CHANGED),  # no body lies there
        ("MHA raw", "Offset", lambda a: scaled(a, 1.1), CHANGED),  # the origin says nothing of values
        ("NIfTI .nii", "scl_slope", lambda a: scaled(a, 1.1), AS_SAID),
        ("NIfTI .nii", "scl_slope", lambda a: scaled(a, 10), CHANGED),
        ("DICOM series", "RescaleSlope", lambda a: scaled(a, 1.1), CHANGED),  # of one slice
        ("DICOM series", "RescaleSlope (in all)", lambda a: scaled(a, 1.1), AS_SAID),
        ("DICOM series", "files empty", lambda a: shorter(a), CHANGED),
        ("DICOM series", "slices lost at an end", lambda a: shorter(a), AS_SAID),
        ("DICOM series", "names", lambda a: turned_over(a), SAME),
        ("DICOM series", "names", lambda a: Answer(a.voxels[..., ::-1], a.affine), CHANGED),
    ],
)
def test_a_changed_answer_is_a_defect_unless_the_file_says_so(truth, sample, field, change, kind):
    mutant = Mutant(Sample(sample, {}), frozenset({field}), 0, "")
    assert judge(mutant, change(truth), truth)[0] == kind


@pytest.mark.parametrize("pixels, kind", [(1, SAME), (0, CHANGED)])
def test_as_many_voxels_may_differ_as_bytes_of_pixels_were_changed(truth, pixels, kind):
    voxels = truth.voxels.copy()
    voxels[3, 4, 5] += 100
    mutant = Mutant(Sample("MHA raw", {}), frozenset({"pixels"}), pixels, "")
    assert judge(mutant, Answer(voxels, truth.affine), truth)[0] == kind


def test_bytes_within_a_value_of_a_text_header_are_that_value():
    data = b"NRRD0004\nspace origin: (-190.5,1,2)\nencoding: raw\n\n\0\0"
    at = data.index(b"190")
    assert value_around("ct.nrrd", data, at, at + 3) == "space origin"
    assert value_around("ct.nrrd", data, at, at + 30) is None
    assert value_around("ct.nrrd", data, at - 5, at) is None
    assert value_around("ct.nrrd", data, len(data) - 1, len(data)) is None
    assert value_around("ct.nii", bytes(400), 280, 284) is None


@pytest.mark.parametrize(
    "line, kind",
    [
        ("/in/a/slice_1.dcm: Rows is missing. Send it again.", REFUSED),
        ("/in/a: 3 of 20 slices are empty. Send it again.", REFUSED),
        ("/in/a: its values are \x1b[31m. Give HU.", BAD_LINE),
        ("/in/a: two\nlines. Send it again.", BAD_LINE),
        ("tuple index out of range", BAD_LINE),
    ],
)
def test_a_refusal_is_one_printable_line_that_names_the_study(line, kind):
    assert judge_line(line, "/in/a")[0] == kind


def moved(answer: Answer, mm: float) -> Answer:
    """The same voxels elsewhere."""
    affine = answer.affine.copy()
    affine[0, 3] += mm
    return Answer(answer.voxels, affine)


def tilted(answer: Answer, mm: float) -> Answer:
    """Slices that lean by so many mm from one to the next."""
    affine = answer.affine.copy()
    affine[1, 2] += mm
    return Answer(answer.voxels, affine)


def scaled(answer: Answer, factor: float) -> Answer:
    """Other values."""
    return Answer(answer.voxels * factor, answer.affine)


def shorter(answer: Answer) -> Answer:
    """Without the last two slices."""
    return Answer(answer.voxels[..., :-2], answer.affine)


def turned_over(answer: Answer) -> Answer:
    """The same CT, stored from the other end."""
    affine = answer.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SIZE[2] - 1], [0, 0, 0, 1]])
    return Answer(answer.voxels[..., ::-1], affine)
