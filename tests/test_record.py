"""Promises of result.json as a record, of its schema, and of summary.csv over many studies."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import threading
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest
import torch
from test_cascade import SIZE, SPACING, bundles, entries, read_result, run, save_ct, stamps  # noqa: F401

import liver_ct
from liver_ct import LiverCT, files, phantom
from liver_ct.chain import folder
from liver_ct.chain.progress import Progress
from liver_ct.files import sha256
from liver_ct.outputs import folders, names
from liver_ct.outputs.lesions import Lesions, find_lesions

SCHEMA = json.loads(Path(liver_ct.__file__).with_name("outputs").joinpath("result.schema.json").read_text())
UNITS = {"_mm": "mm", "_ml": "ml", "_hu": "HU", "_minus_liver": "HU", "probability": "0..1", "threshold": "0..1"}
FORMULA, MINUS = '=HYPERLINK("http:__x")', "-1+1"


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def write_series(target: Path) -> Path:
    """A DICOM series of somebody, with a file beside it that is none of its slices."""
    for file in phantom.write_dicom_series(target, *phantom.make_phantom(SIZE, SPACING)[::2]):
        slice_ = pydicom.dcmread(file)
        slice_.PatientName, slice_.PatientID = "SECRET^PATIENT", "SECRET-ID"
        slice_.save_as(file)
    (target / "readme.txt").write_text("exported")
    return target


@pytest.fixture(scope="module")
def done(bundles, tmp_path_factory) -> tuple[Path, Path, datetime]:  # noqa: F811
    """Folder of inputs, folder of results, and when they were begun: files, a series, and what is no image."""
    source, output = tmp_path_factory.mktemp("SECRET-in"), tmp_path_factory.mktemp("SECRET-out") / "out"
    save_ct(source / "volume-2.nii.gz")
    save_ct(source / f"{FORMULA}.nii.gz", seed=1)
    write_series(source / "series")
    (source / f"{MINUS}.nii.gz").write_bytes(b"no image")
    begun = datetime.now(timezone.utc).replace(microsecond=0)
    with pytest.raises(SystemExit):
        run(source, output, bundles, report=True, dicom_output=True)
    return source, output, begun


@pytest.fixture(scope="module")
def study(bundles):  # noqa: F811
    """A study in memory."""
    ct, _, affine = phantom.make_phantom(SIZE, SPACING)
    return LiverCT(device="cpu", **bundles).run(ct, affine, case="made")


def lesions(study) -> Lesions:
    """Two lesions, of the second of which it is not known how it differs from the liver."""
    prob = np.zeros(SIZE, np.uint8)
    prob[20:24, 30:33, 10:13], prob[40:42, 30:32, 12:14] = 250, 200
    found = find_lesions(prob, study.ct, study.liver_mask, study.affine)
    return found._replace(found=(found.found[0], found.found[1]._replace(hu_minus_liver=None)), shown_as="candidate")


class TestSchema:
    @pytest.mark.parametrize("case", ["volume-2", "series", FORMULA])
    def test_results_of_files_and_series_fit(self, done, case):
        validator().validate(read_result(done[1] / case))

    @pytest.mark.parametrize("what", ["as it is", "without notes", "with lesions", "without lesions", "without report"])
    def test_results_of_arrays_fit(self, study, tmp_path, what):
        changes = {
            "without notes": {"notes": ()},
            "with lesions": {"lesions": lesions(study)},
            "without lesions": {"lesions": lesions(study)._replace(found=())},
        }.get(what, {})
        outputs = () if what == "without report" else ("report",)
        dataclasses.replace(study, **changes).save(tmp_path / "made", outputs)
        result = read_result(tmp_path / "made")
        validator().validate(result)
        assert ("liver_volume_range_ml" in result) == bool(outputs) and "input_path_sha256" not in result
        assert (result["input_sha256"], result["input_files"]) == (None, 0)
        assert len(result["lesions"] or ()) == (2 if what == "with lesions" else 0)
        assert bool(result["notes"]) == (what != "without notes")

    @pytest.mark.parametrize("key, value", [
        ("begun", "26.11.2026"), ("begun", "2026-11-26T04:40:00+01:00"), ("input_sha256", "none"), ("patient", "name"),
        ("precision", "double"), ("study_tumour_probability", 1.2), ("flagged_slices", [-1]), ("form", "another"),
        ("notes", None), ("seconds", {"read": 1}),
    ])  # fmt: skip
    def test_what_is_no_record_is_refused(self, done, key, value):
        with pytest.raises(jsonschema.ValidationError):
            validator().validate(read_result(done[1] / "series") | {key: value})

    def test_nothing_may_be_missing_but_what_is_of_files_and_reports_alone(self, done):
        result = read_result(done[1] / "series")
        for key in {*result} - {"input_path_sha256", "liver_volume_range_ml"}:
            with pytest.raises(jsonschema.ValidationError):
                validator().validate({name: value for name, value in result.items() if name != key})

    def test_every_field_is_described_with_its_unit(self, done):
        described = dict(fields(SCHEMA))
        for name, text in described.items():
            assert text, name
            for ending, unit in UNITS.items():
                assert not name.endswith(ending) or unit in text, name
        for bundle, knobs in read_result(done[1] / "series")["settings"].items():
            assert {f"settings.{bundle}.{knob}" for knob in knobs} <= {*described}


def fields(schema: dict, above: str = ""):
    """Name and description of each field that a schema knows."""
    for part in schema.get("$defs", {}).values():
        yield from fields(part)
    for name, field in schema.get("properties", {}).items():
        if "$ref" not in field and above != "versions.":
            yield above + name, field.get("description")
        yield from fields(field, f"{above}{name}.")


class TestRecord:
    def test_it_says_when(self, done):
        for folder_ in (done[1] / "volume-2", done[1] / "series"):
            result = read_result(folder_)
            begun, finished = (datetime.fromisoformat(result[key]) for key in ("begun", "finished"))
            assert done[2] <= begun <= finished <= datetime.now(timezone.utc)
            assert (finished - begun).total_seconds() <= result["seconds"]["total"] + 2

    def test_it_says_on_what_and_with_which_versions(self, done):
        result = read_result(done[1] / "series")
        assert result["device_type"] == "cpu" and len(result["device"]) > 2
        assert result["precision"] == "float32"  # as these bundles are set
        libraries = {name: version(name) for name in ("torch", "monai", "numpy", "nibabel", "itk-io", "highdicom")}
        assert libraries.items() <= result["versions"].items()
        assert result["versions"]["liver-ct"] == liver_ct.__version__
        assert result["versions"]["python"] == platform.python_version()
        assert "highdicom" not in read_result(done[1] / "volume-2")["versions"]  # no DICOM was written

    @pytest.mark.parametrize("one", [True, False])
    @pytest.mark.parametrize("other", [True, False])
    def test_precision_is_what_the_networks_compute_in(self, bundles, one, other):  # noqa: F811
        chain, seen = LiverCT(device="cpu", **bundles), []
        for stage, bf16 in ((chain.seg, one), (chain.cls, other)):
            stage["inferer"].bf16 = bf16
            for network in getattr(stage.network, "members", [stage.network]):  # of an ensemble, each is called
                network.register_forward_hook(lambda _network, _inputs, answer: seen.append(answer.dtype))
        ct, _, affine = phantom.make_phantom(SIZE, SPACING)
        said = chain.run(ct, affine, regions=False).result["precision"]
        assert {*seen} == {getattr(torch, name) for name in said.split(", ")}
        assert said.split(", ") == list(dict.fromkeys("bfloat16" if bf16 else "float32" for bf16 in (one, other)))

    def test_each_knob_is_told_as_it_was_set_and_no_folder(self, bundles, done):  # noqa: F811
        settings = read_result(done[1] / "series")["settings"]
        for bundle, knobs in settings.items():
            config = json.loads(
                Path(bundles[bundle.replace("liver_", "") + "_bundle"], "configs/inference.json").read_text()
            )
            assert {"threshold", "hu_window", "bf16"} < {*knobs}
            set_by_others = {key for key in knobs if str(config[key]).startswith(("@", "$"))} | {"smallest_ml"}
            plain = {key: value for key, value in knobs.items() if key not in set_by_others}
            assert {key: config[key] for key in plain} == plain
        assert settings["liver_seg"]["smallest_ml"] == 100  # the chain's own
        assert settings["liver_cls"]["alternate_mm"] == 2.5 and settings["liver_cls"]["calibration"]
        assert settings["liver_cls"]["mask_source"] == "prob"

    def test_another_mask_source_and_an_expression_are_told_as_their_values(self, bundles, tmp_path):  # noqa: F811
        copy = shutil.copytree(bundles["cls_bundle"], tmp_path / "cls")
        config = json.loads((copy / "configs" / "inference.json").read_text()) | {"threshold": "$0.2 + 0.2"}
        (copy / "configs" / "inference.json").write_text(json.dumps(config))
        ct, _, affine = phantom.make_phantom(SIZE, SPACING)
        chain = LiverCT(device="cpu", seg_bundle=bundles["seg_bundle"], cls_bundle=copy, mask_source="binary")
        knobs = chain.run(ct, affine).result["settings"]["liver_cls"]
        assert (knobs["mask_source"], knobs["threshold"]) == ("binary", 0.4)

    def test_checksums_are_those_of_the_files_that_were_read(self, done, bundles):  # noqa: F811
        file, series = (read_result(done[1] / case) for case in ("volume-2", "series"))
        assert (file["input_sha256"], file["input_files"]) == (sha256(done[0] / "volume-2.nii.gz"), 1)
        command = "sha256sum *.dcm | cut -c-64 | LC_ALL=C sort | tr -d '\\n' | sha256sum"  # as docs/record.md says
        said = subprocess.run(command, shell=True, cwd=done[0] / "series", capture_output=True, text=True).stdout
        assert (series["input_sha256"], series["input_files"]) == (said[:64], SIZE[2])
        for stage, known in series["bundles"].items():
            weights = Path(bundles[stage.replace("liver_", "") + "_bundle"], "models", "model.pt")
            assert known["weights_sha256"] == sha256(weights)

    def test_detached_voxels_are_files_too_and_each_is_read_for_its_checksum_once(
        self,
        bundles,  # noqa: F811
        tmp_path,
        monkeypatch,
    ):
        import itk

        ct = save_ct(tmp_path / "ct.nii.gz")
        itk.imwrite(itk.imread(str(ct)), str(tmp_path / "ct.mhd"))
        chain, read = LiverCT(device="cpu", **bundles), []
        monkeypatch.setattr(files, "sha256", lambda file: (read.append(file.name), sha256(file))[1])
        result = chain(tmp_path / "ct.mhd", regions=False).result
        assert result["input_files"] == 2
        (voxels,) = (file.name for file in tmp_path.glob("ct.*raw"))
        assert sorted(read) == ["ct.mhd", voxels]

    def test_a_file_that_was_replaced_has_another_checksum(self, tmp_path):
        checksum, file, other = files.Checksums(), tmp_path / "ct.nii", tmp_path / "other.nii"
        file.write_bytes(b"one")
        before = checksum(file)
        other.write_bytes(b"two")
        os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        other.replace(file)  # of the same size, and of the same time
        assert checksum(file) == sha256(file) != before

    def test_no_patient_and_no_folder_is_in_it(self, done):
        for file in [*done[1].glob("*/result.json"), done[1] / "summary.csv", done[1] / "index.html"]:
            assert "SECRET" not in file.read_text(encoding="utf-8"), file


class TestFinishedBefore:
    def test_neither_time_nor_machine_nor_version_alone_does_a_study_again(self, bundles, tmp_path):  # noqa: F811
        ct, output = save_ct(tmp_path / "ct.nii.gz"), tmp_path / "out"
        run(ct, output, bundles, report=True)
        result = read_result(output / "ct")
        elsewhere = {
            "begun": "2001-01-01T00:00:00+00:00",
            "finished": "2001-01-01T00:01:00+00:00",
            "device": "another",
            "device_type": "cuda",
            "precision": "float16",
            "versions": {"liver-ct": "9.0.0", "python": "9"},
        }
        (output / "ct" / "result.json").write_text(json.dumps(result | elsewhere))
        before = stamps(output / "ct")
        run(ct, output, bundles, report=True)
        assert stamps(output / "ct") == before
        (row,) = read_summary(output)
        assert (row["device"], row["precision"], row["liver_ct"]) == ("another", "float16", "9.0.0")

    def test_a_result_of_version_0_6_is_left_and_listed(self, bundles, tmp_path):  # noqa: F811
        ct, output = save_ct(tmp_path / "ct.nii.gz"), tmp_path / "out"
        run(ct, output, bundles, report=True)
        new = {"form", "begun", "finished", "device", "device_type", "precision", "versions", "settings"}
        new |= {"input_sha256", "input_files", "lesions", "lesions_shown_as", "flagged_without_lesion"}
        result = read_result(output / "ct")
        old = {key: value for key, value in result.items() if key not in new}
        (output / "ct" / "result.json").write_text(json.dumps(old))
        before = stamps(output / "ct")
        run(ct, output, bundles, report=True)
        assert stamps(output / "ct") == before
        (row,) = read_summary(output)
        assert row["liver_volume_ml"] == str(result["liver_volume_ml"]) and row["begun"] == row["device"] == ""


def read_summary(output: Path) -> list[dict[str, str]]:
    with (output / "summary.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class TestSummary:
    def test_it_has_a_row_for_each_study_sorted_by_case(self, done):
        rows = read_summary(done[1])
        assert [row["status"] for row in rows] == ["failed", "finished", "finished", "finished"]
        cases = sorted([FORMULA, MINUS, "series", "volume-2"])
        assert [row["case"].removeprefix("'") for row in rows] == cases
        for row in rows[1:]:
            result = read_result(done[1] / row["case"].removeprefix("'"))
            assert row["study_tumour_probability"] == str(result["study_tumour_probability"])
            assert row["flagged_slices"] == str(len(result["flagged_slices"]))
            assert row["seconds"] == str(result["seconds"]["total"]) and row["error"] == ""
            assert row["input_sha256"] == result["input_sha256"] and row["begun"] == result["begun"]
            assert row["notes"] == " ".join(result["notes"]) and row["notes"]

    def test_a_failed_study_has_its_line_without_its_folders(self, done):
        row = read_summary(done[1])[0]
        assert row["error"].startswith(f"'{MINUS}.nii.gz: not a readable image") and row["liver_volume_ml"] == ""

    def test_no_cell_is_a_formula(self, done):
        for row in read_summary(done[1]):
            assert not [text for text in row.values() if text.lstrip().startswith(("=", "+", "-", "@"))]

    def test_lesions_are_counted_and_the_largest_is_told(self, study, tmp_path):
        largest = max(lesion.diameter_mm for lesion in lesions(study).found)
        dataclasses.replace(study, lesions=lesions(study)).save(tmp_path / "many")
        dataclasses.replace(study, lesions=lesions(study)._replace(found=())).save(tmp_path / "none")
        dataclasses.replace(study, lesions=None).save(tmp_path / "unknown")
        assert folder.list_studies(tmp_path, Progress()) == 0
        told = [(row["lesions"], row["largest_lesion_mm"], row["lesions_shown_as"]) for row in read_summary(tmp_path)]
        assert told == [("2", str(largest), "candidate"), ("0", "", "candidate"), ("", "", "")]

    def test_the_index_leads_to_it(self, done):
        assert '<a href="summary.csv" download>' in (done[1] / "index.html").read_text(encoding="utf-8")

    def test_runs_that_share_a_folder_write_one_after_the_other(self, study, tmp_path):
        """So that the last to write has seen what all have published."""
        study.save(tmp_path / "first")
        other = threading.Thread(target=folder.list_studies, args=(tmp_path, Progress()))
        with folders.alone(tmp_path):
            other.start()
            time.sleep(0.5)
            assert entries(tmp_path) == {"first"}
            study.save(tmp_path / "second")
        other.join()
        assert [row["case"] for row in read_summary(tmp_path)] == ["first", "second"]
        assert entries(tmp_path) == {"first", "second", names.SUMMARY, names.INDEX}

    def test_a_study_of_its_name_is_called_otherwise(self):
        assert names.safe_name("summary.csv") == "_summary.csv" and names.safe_name("SUMMARY.CSV") == "_SUMMARY.CSV"

    def test_a_summary_in_a_series_folder_is_none_of_its_files(self, tmp_path):
        from liver_ct.chain.studies import fingerprint

        series = write_series(tmp_path / "series")
        before = fingerprint(series)
        (series / "summary.csv").write_text("case\n")
        assert fingerprint(series) == before

    def test_a_place_that_is_taken_is_one_clear_line(self, study, tmp_path):
        study.save(tmp_path / "study")
        (tmp_path / "summary.csv").mkdir()
        said = []
        progress = Progress()
        progress.failed = said.append
        assert folder.list_studies(tmp_path, progress) == 1
        assert len(said) == 1 and "summary.csv: " in said[0] and (tmp_path / "index.html").is_file()
