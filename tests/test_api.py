"""Promises of the Python API: one answer for a file, an image and an array, and the command's files from it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from test_cascade import bundles, entries, read_mask, read_result, read_table, run, save_ct  # noqa: F401

import liver_ct
from liver_ct import LiverCT, MaskSource, Output, StudyError, StudyResult, phantom
from liver_ct.chain.stages import load_weights
from liver_ct.outputs import names
from liver_ct.outputs.findings import findings

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (64, 64, 24), (6.0, 6.0, 10.0)  # as save_ct's


@pytest.fixture(scope="module")
def chain(bundles) -> LiverCT:  # noqa: F811
    return LiverCT(device="cpu", **bundles)


@pytest.fixture(scope="module")
def commands(bundles, tmp_path_factory) -> tuple[Path, Path]:  # noqa: F811
    """An oblique CT, and the folder that the command makes of it."""
    folder = tmp_path_factory.mktemp("commands")
    ct = save_ct(folder / "ct.nii.gz", tilt=(8, 5, 3), axcodes="SPL")
    run(ct, folder / "out", bundles, picture=True, report=True)
    return ct, folder / "out" / "ct"


@pytest.fixture(scope="module")
def study(chain, commands) -> StudyResult:
    """What the chain finds in that CT, a second later at least, to which records tell when they were begun."""
    time.sleep(1)
    return chain(commands[0])


@pytest.fixture(scope="module")
def array() -> tuple[np.ndarray, np.ndarray]:
    """A CT and its affine."""
    return phantom.make_phantom(SIZE, SPACING)[::2]


class TestAnswer:
    def test_it_is_what_the_command_writes(self, study, commands):
        folder = commands[1]
        for name, mask in (("prob_mask", study.prob_mask), ("liver_mask", study.liver_mask)):
            np.testing.assert_allclose(mask, read_mask(folder / f"{name}.nii.gz"), atol=1 / 510 + 1e-6)
        np.testing.assert_array_equal(study.affine, nib.load(commands[0]).affine)
        assert [row.slice for row in study.rows] == [row.slice for row in read_table(folder)]
        written = read_result(folder)
        assert study.result | {"begun": None} == {key: written[key] for key in study.result} | {"begun": None}
        assert study.result["begun"] > written["begun"]  # another run
        assert {*written} - {*study.result} == {"seconds", "finished", "liver_volume_range_ml"}
        assert study.volume_range_ml == tuple(written["liver_volume_range_ml"])
        assert {"read", "segment", "classify"} <= {*study.seconds} <= {*written["seconds"]}

    def test_arrays_lie_on_the_grid_of_the_ct(self, study, commands):
        ct = nib.load(commands[0])
        np.testing.assert_array_equal(study.ct, np.asarray(ct.dataobj))
        assert study.prob_mask.shape == study.liver_mask.shape == ct.shape
        assert (study.prob_mask.dtype, study.liver_mask.dtype) == (np.float32, np.uint8)

    def test_nothing_can_be_written_into_it(self, study):
        with pytest.raises(dataclasses.FrozenInstanceError):
            study.case = "another"
        for values in (study.ct, study.affine, study.prob_mask, study.liver_mask, *study.regions):
            with pytest.raises(ValueError, match="read-only"):
                values[...] = 0
        study.result["bundles"].clear()
        study.result["flagged_slices"].append(-1)
        assert study.result["bundles"] and -1 not in study.result["flagged_slices"]

    def test_what_is_changed_in_its_record_reaches_no_other_study(self, chain, array):
        one = chain.run(*array, regions=False)
        one.record["bundles"].clear()
        assert chain.run(*array, regions=False).result["bundles"]

    def test_it_is_shown_in_one_line(self, study):
        assert re.fullmatch(
            r"<StudyResult ct: highest slice .* flagged .* ml    NOTE: .*Slices lie 10 mm apart.*>", repr(study)
        )

    def test_a_path_an_image_and_an_array_give_the_same(self, chain, study, commands):
        image = nib.load(commands[0])
        answers = {
            "image": chain(image),
            "array": chain.run(np.asarray(image.dataobj), image.affine, case="ct"),
            "floats": chain.run(image.get_fdata(), image.affine, case="ct"),
        }
        for answer in answers.values():
            np.testing.assert_array_equal(answer.prob_mask, study.prob_mask)
            np.testing.assert_array_equal(answer.liver_mask, study.liver_mask)
            np.testing.assert_array_equal(answer.affine, study.affine)
            assert answer.rows == study.rows and answer.summary == study.summary and answer.case == "ct"
            assert answer.result["input"] is None and answer.result["mask_source"] == study.result["mask_source"]

    def test_a_device_of_pytorch_s_a_number_as_name_and_an_affine_but_for_rounding(self, bundles, array):  # noqa: F811
        chain, (ct, affine) = LiverCT(device=torch.device("cpu"), **bundles), array
        affine = affine + np.array([[0], [0], [0], [1e-17]])
        assert chain.run(ct, affine, case=0, regions=False).result["case"] == "0"
        with pytest.raises(StudyError, match="^7: values are not the HU"):
            chain.run(ct + 1024, affine, case=7)

    def test_a_dicom_series_gives_what_its_array_gives(self, chain, array, tmp_path):
        phantom.write_dicom_series(tmp_path / "series", *array)
        series = chain(str(tmp_path / "series"))
        image = nib.Nifti1Image(series.ct, series.affine)
        np.testing.assert_array_equal(chain(image).prob_mask, series.prob_mask)
        assert series.case == "series" and len(series.files) == SIZE[2]

    def test_a_stored_scale_is_applied(self, chain, commands, tmp_path):
        image = nib.load(commands[0])
        header = image.header.copy()
        header.set_slope_inter(2, -1024)
        scaled = nib.Nifti1Image(np.asarray(image.dataobj, float), image.affine, header)
        nib.save(scaled, tmp_path / "scaled.nii")
        one, other = chain(tmp_path / "scaled.nii"), chain(nib.load(tmp_path / "scaled.nii"))
        assert one.rows == other.rows
        np.testing.assert_array_equal(one.ct, other.ct)


class TestFiles:
    def test_saved_files_are_the_commands_to_the_byte(self, study, commands, tmp_path):
        study.save(tmp_path / "case")
        assert entries(tmp_path / "case") == entries(commands[1]) and entries(tmp_path) == {"case"}
        for name in ("prob_mask.nii.gz", "liver_mask.nii.gz", "slices.csv", "overview.png"):
            assert (tmp_path / "case" / name).read_bytes() == (commands[1] / name).read_bytes(), name
        mine, theirs = read_result(tmp_path / "case"), read_result(commands[1])
        when = {"begun": None, "finished": None, "seconds": None}
        assert mine | when == theirs | when

    @pytest.mark.parametrize("outputs", [[], ["picture"], [Output.REPORT]])
    def test_what_is_not_asked_for_is_not_written(self, study, tmp_path, outputs):
        study.save(tmp_path / "case", outputs)
        more = {name for output in outputs for name in Output(output).files}
        assert entries(tmp_path / "case") == {*names.ALWAYS, *names.LESION_OUTPUTS} | more

    def test_each_writer_takes_the_study(self, study, commands, tmp_path):
        liver_ct.write_picture(study, tmp_path / "picture.png")
        liver_ct.write_report(study, tmp_path / "report.html")
        liver_ct.write_masks(study, tmp_path / "masks")
        assert (tmp_path / "picture.png").read_bytes() == (commands[1] / "overview.png").read_bytes()
        assert "<h1>ct</h1>" in (tmp_path / "report.html").read_text()
        assert entries(tmp_path / "masks") == {"prob_mask.nii.gz", "liver_mask.nii.gz"}
        assert entries(tmp_path) == {"picture.png", "report.html", "masks"}

    def test_a_mask_that_was_corrected_is_the_one_that_is_written(self, study, tmp_path):
        emptied = dataclasses.replace(study, liver_mask=np.zeros(study.ct.shape, bool))
        liver_ct.write_masks(emptied, tmp_path)
        assert not read_mask(tmp_path / "liver_mask.nii.gz").any() and read_mask(tmp_path / "prob_mask.nii.gz").any()
        whole = dataclasses.replace(study, liver_mask=np.ones(study.ct.shape))
        assert whole.liver_mask.dtype == np.uint8 and whole.liver_mask.all()

    @pytest.mark.parametrize("change, cause", [
        (lambda mask: mask[1:], "has the shape .*, its CT"),
        (lambda mask: mask * np.uint8(255), "other values than 0 and 1"),
        (lambda mask: mask.astype(np.int64) * 257, "other values than 0 and 1"),
        (lambda mask: mask * 0.5, "other values than 0 and 1"),
    ])  # fmt: skip
    def test_a_mask_that_is_none_is_refused(self, study, change, cause):
        with pytest.raises(StudyError, match=f"ct: liver_mask .*{cause}"):
            dataclasses.replace(study, liver_mask=change(study.liver_mask))

    def test_dicom_is_for_dicom(self, chain, study, array, tmp_path):
        phantom.write_dicom_series(tmp_path / "series", *array)
        liver_ct.write_dicom(chain(tmp_path / "series"), tmp_path / "dicom")
        assert entries(tmp_path / "dicom") == {*names.DICOM_OUTPUTS}
        for work in (
            lambda: liver_ct.write_dicom(study, tmp_path / "no"),
            lambda: study.save(tmp_path / "no", ["dicom"]),
        ):
            with pytest.raises(StudyError, match="not a DICOM series"):
                work()
        assert entries(tmp_path) == {"series", "dicom"}

    def test_a_folder_that_is_no_result_is_never_replaced(self, study, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(StudyError, match="holds notes.txt, which is none of this program's"):
            study.save(tmp_path)
        assert entries(tmp_path) == {"notes.txt"}


class TestRefusals:
    @pytest.mark.parametrize(
        "change, cause",
        [
            (lambda ct, affine: (np.clip(ct + 1024, 0, None), affine), "values are not the HU of a CT"),
            (lambda ct, affine: (np.where(ct < -200, 0, ct), affine), "% of it is 0 exactly, where air is -1000"),
            (lambda ct, affine: (ct, np.full((4, 4), np.nan)), "its affine holds NaN"),
            (lambda ct, affine: (ct, np.diag([6.0, 0, 10, 1])), "its affine is singular"),
            (lambda ct, affine: (ct, affine.T), "last row is not 0 0 0 1"),
            (lambda ct, affine: (ct, affine[:3]), "not 4 x 4"),
            (lambda ct, affine: (ct, None), "not 4 x 4"),
            (lambda ct, affine: (ct[..., 10], affine), "a 2D image"),
            (lambda ct, affine: (np.stack([ct, ct], -1), affine), "4D"),
            (lambda ct, affine: (np.where(ct == ct.max(), np.nan, ct), affine), "NaN or infinite voxels"),
            (lambda ct, affine: (ct.astype(complex), affine), "voxels of type complex128"),
            (
                lambda ct, affine: (np.clip(ct, None, 40), affine),
                "the highest, 40: cut off there, or the sign is turned",
            ),
            (
                lambda ct, affine: (np.minimum(ct, np.random.default_rng(0).integers(20, 41, ct.shape)), affine),
                "no liver",
            ),
        ],
    )
    def test_an_array_that_is_no_ct_is_one_clear_line(self, chain, array, change, cause):
        with pytest.raises(StudyError) as refused:
            chain.run(*change(*array), case="mine")
        line = str(refused.value)
        assert line.startswith("mine: ") and cause in line and line.endswith(".") and "\n" not in line

    @pytest.mark.parametrize(
        "fields", [{"sform_code": 0, "qform_code": 0}, {"pixdim": [1, 3, 3, 3]}, {"xyzt_units": 5}]
    )
    def test_what_a_header_says_against_itself_is_refused_in_an_image_too(self, chain, commands, tmp_path, fields):
        image = nib.load(commands[0])
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), tmp_path / "ct.nii")
        with (tmp_path / "ct.nii").open("r+b") as file:
            header = nib.Nifti1Header.from_fileobj(file, check=False)
            for name, value in fields.items():
                header[name] = np.resize(value, header[name].shape)
            file.seek(0)
            file.write(header.binaryblock)
        causes = []
        for ct in (tmp_path / "ct.nii", nib.load(tmp_path / "ct.nii")):
            with pytest.raises(StudyError) as refused:
                chain(ct)
            causes.append(str(refused.value).removeprefix(str(tmp_path / "ct.nii")).removeprefix("ct"))
        assert causes[0] == causes[1]

    @pytest.mark.parametrize("unit, factor", [("meter", 1e-3), ("micron", 1e3)])
    def test_units_of_an_image_count(self, chain, study, commands, unit, factor):
        image = nib.load(commands[0])
        header = image.header.copy()
        header.set_xyzt_units(unit)
        affine = np.diag([factor, factor, factor, 1]) @ image.affine
        found = chain(nib.Nifti1Image(np.asarray(image.dataobj), affine, header))
        np.testing.assert_allclose(found.affine, study.affine, rtol=1e-4, atol=1e-3)
        assert abs(found.summary.liver_volume_ml / study.summary.liver_volume_ml - 1) < 0.02

    def test_an_image_whose_format_says_nothing_of_the_patient_is_refused(self, chain, array, tmp_path):
        voxels = array[0].astype(np.int16)
        nib.save(nib.AnalyzeImage(voxels, array[1]), tmp_path / "ct.img")
        freesurfer = nib.MGHImage(voxels, array[1])
        freesurfer.header["goodRASFlag"] = 0
        nib.save(freesurfer, tmp_path / "ct.mgh")
        blank = bytearray((tmp_path / "ct.mgh").read_bytes())
        blank[28:30] = b"\0\0"  # goodRASFlag, which nibabel sets
        (tmp_path / "ct.mgh").write_bytes(blank)
        for image in (nib.load(tmp_path / "ct.img"), nib.load(tmp_path / "ct.mgh"), nib.Nifti1Image(voxels, None)):
            with pytest.raises(StudyError, match="how the patient lies"):
                chain(image)
        said = nib.MGHImage(voxels, array[1])
        np.testing.assert_array_equal(chain(said).ct, voxels)

    def test_a_file_is_named(self, chain, tmp_path):
        (tmp_path / "ct.nii.gz").write_bytes(b"no image")
        for name, cause in (("ct.nii.gz", "not a readable image"), ("nowhere", "no such file")):
            with pytest.raises(StudyError, match=cause) as refused:
                chain(tmp_path / name)
            assert str(refused.value).startswith(str(tmp_path / name))

    def test_what_is_no_ct_at_all(self, chain, array):
        with pytest.raises(TypeError):
            chain(array[0])

    @pytest.mark.parametrize(
        "knobs, cause",
        [
            ({"mask_source": "manual"}, "prob, binary, dilated, none"),
            ({"device": "tpu"}, "cpu or cuda"),
            ({"seg_bundle": "nowhere"}, "no bundle"),
        ],
    )
    def test_a_chain_that_cannot_be(self, bundles, knobs, cause):  # noqa: F811
        with pytest.raises(StudyError, match=cause):
            LiverCT(**{"device": "cpu", **bundles, **knobs})

    @pytest.mark.parametrize(
        "stage, knobs, line",
        [
            ("seg_bundle", {"temperature": -1}, "temperature -1: makes no sense. Give a number above 0."),
            ("cls_bundle", {"combine": "add"}, "combine is 'add'. Choose multiply or concat."),
        ],
    )
    def test_a_bundle_whose_knobs_make_no_sense(self, bundles, tmp_path, stage, knobs, line):  # noqa: F811
        shutil.copytree(bundles[stage], tmp_path / "bundle")
        file = tmp_path / "bundle" / "configs" / "inference.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | knobs))
        with pytest.raises(StudyError) as refused:
            LiverCT(**{"device": "cpu", **bundles, stage: tmp_path / "bundle"})
        assert str(refused.value) == f"{file}: {line}"

    def test_of_a_checkpoint_the_averaged_weights_are_taken(self, tmp_path):
        one, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        torch.save({"model": one.state_dict(), "averaged": other.state_dict()}, tmp_path / "last.pt")
        loaded = load_weights(one, tmp_path / "last.pt", torch.device("cpu"))
        assert torch.equal(loaded.weight, other.weight)

    def test_another_bundle_whose_scripts_have_the_names_of_this_one_s(self, bundles, tmp_path):  # noqa: F811
        shutil.copytree(bundles["seg_bundle"], tmp_path / "older")
        with (tmp_path / "older" / "scripts" / "seg_io.py").open("a") as file:
            file.write("# older\n")
        with pytest.raises(StudyError, match="older: its seg_io.py is not that of .* Run each bundle in a process"):
            LiverCT(**{"device": "cpu", **bundles, "seg_bundle": tmp_path / "older"})

    def test_an_output_that_is_not_known(self, study, tmp_path):
        with pytest.raises(ValueError, match="video"):
            study.save(tmp_path / "case", ["video"])
        assert not entries(tmp_path)


def test_mask_source_reaches_the_classifier(bundles, chain, study, commands):  # noqa: F811
    binary = LiverCT(device="cpu", mask_source=MaskSource.BINARY, **bundles)(commands[0])
    assert binary.result["mask_source"] == "binary" and binary.rows != study.rows
    assert json.dumps(binary.result)
    assert "mask_source" in binary.result["note_codes"] and "mask_source" not in study.result["note_codes"]


def test_without_a_mask_nothing_beside_the_liver_is_a_lesion():
    ct, _, affine = phantom.make_phantom((96, 96, 50), (4, 4, 5))
    blind = LiverCT(device="cpu", mask_source="none").run(ct, affine)
    outside = blind.liver_mask == 0
    assert blind.lesions.found and not blind.lesions.prob[outside].any() and not blind.lesions.labels[outside].any()
    said = " ".join(findings(blind.result, blind.rows))
    assert "beside the liver" in said and "Nothing outside" not in said
    seen = blind.result | {"mask_source": "prob"}
    assert "Nothing outside the liver" in " ".join(findings(seen, blind.rows))


def test_the_package_alone_imports_nothing_slow():
    names_in_it = "import sys, liver_ct; dir(liver_ct); print({*sys.modules} & {'torch', 'monai', 'nibabel', 'numpy'})"
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {names_in_it}"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_every_name_is_there():
    assert all(getattr(liver_ct, name) for name in liver_ct.__all__)
    with pytest.raises(AttributeError):
        liver_ct.nothing  # noqa: B018


def test_the_program_of_the_documentation_runs(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{program}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert entries(tmp_path / "out" / "phantom") == {*names.ALWAYS, *names.LESION_OUTPUTS, names.PICTURE, names.REPORT}
