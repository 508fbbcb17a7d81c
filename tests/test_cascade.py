"""Promises of scripts/cascade.py, kept on phantoms through its command and the files it leaves.

The segmenter's network is replaced by one convolution with known weights (mean HU of a neighbourhood against a
threshold), the classifier's weights by seeded random ones: nothing here depends on how well a network was trained.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cascade
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import bundle_module, bundles_with, run_workflow, save_bad_cts
from monai.bundle import ConfigParser

from liver_ct import phantom
from liver_ct.chain import stages, studies
from liver_ct.errors import StudyError
from liver_ct.files import sha256
from liver_ct.outputs import names, picture, writing
from liver_ct.outputs.results import SliceRow

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (64, 64, 24), (6.0, 6.0, 10.0)
ORIENTATIONS = ("LPS", "RAS", "SPL", "IAR", "AIL")
# What moving the Prob-Mask by up to 1/510 may do to a probability: 0.001, but 0.013 where the classifier's median liver
# HU, a whole number, falls to the other side (the weights made here are more sensitive than trained ones).
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, str]:
    """The two bundles with networks whose output is known beforehand, as arguments of the chain."""
    return bundles_with(tmp_path_factory.mktemp("bundles"), liver_seg=hu_threshold, liver_cls=random_classifier)


def hu_threshold(config: dict) -> dict[str, torch.Tensor]:
    """Make the segmenter one convolution, sure of liver where the mean of 3 x 3 x 5 voxels is above 80 HU."""
    config["offsets"], config["pixdim"] = [-2, -1, 0, 1, 2], [4.0, 4.0, 4.0]
    network = {"_target_": "torch.nn.Conv2d", "in_channels": 5, "out_channels": 1, "kernel_size": 3, "padding": 1}
    config["network_def"], config["network"] = network, "@network_def"
    low, high = config["hu_window"]
    inputs = 3 * 3 * 5
    steep = (high - low) / 8  # one unit of the logit is 8 HU
    return {
        "weight": torch.full((1, 5, 3, 3), steep / inputs),
        "bias": torch.tensor([-steep * (80 - low) / (high - low)]),
    }


def random_classifier(config: dict) -> dict[str, torch.Tensor]:
    """Seeded weights of the bundle's own network, with a bias that brings the largest logits around 0.

    Pixels of 4 mm are a quarter of the work and finer than those of the CTs here.
    """
    config["spacing"], config["roi"] = 4.0, [80, 80]
    torch.manual_seed(0)
    own = {**config, "bundle_root": str(ROOT / "bundles" / "liver_cls")}
    network = ConfigParser(own).get_parsed_content("network_def")
    with torch.no_grad():
        network.members[0].output_block.conv.conv.bias.fill_(-15)
    return network.state_dict()


def save_ct(path: Path, **knobs) -> Path:
    """Write a phantom CT."""
    ct, _, affine = phantom.make_phantom(SIZE, SPACING, **knobs)
    nib.save(nib.Nifti1Image(ct, affine), path)
    return path


def run(source: Path, output: Path, bundles: dict[str, str], **knobs) -> None:
    """The chain in this process, without picture and report unless asked for."""
    cascade.cascade(
        str(source), str(output), **{"device": "cpu", "picture": False, "report": False, **bundles, **knobs}
    )


def read_table(folder: Path) -> list[SliceRow]:
    """slices.csv as it was before it was written."""
    with (folder / "slices.csv").open() as stream:
        return [
            SliceRow(int(i), float(z), float(area), float(p) if p else None)
            for i, z, area, p in list(csv.reader(stream))[1:]
        ]


def read_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def read_mask(file: Path) -> np.ndarray:
    return nib.load(file).get_fdata()


def entries(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.fixture(scope="module")
def done(bundles, tmp_path_factory) -> tuple[Path, Path]:
    """Folder of inputs and folder of results: one phantom in several orientations, and an oblique one."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("output")
    for axcodes in ORIENTATIONS:
        save_ct(source / f"{axcodes}.nii.gz", axcodes=axcodes)
    save_ct(source / "oblique.nii.gz", tilt=(8, 5, 3))
    run(source, output, bundles, picture=True)
    return source, output


class TestOutputs:
    def test_every_study_has_all_and_nothing_else_is_left(self, done):
        source, output = done
        assert entries(output) == {path.name.removesuffix(".nii.gz") for path in source.iterdir()}
        for folder in output.iterdir():
            assert entries(folder) == {
                "prob_mask.nii.gz", "liver_mask.nii.gz", "slices.csv", "result.json", "overview.png",
                "lesion_prob.nii.gz", "lesions.csv"
            }  # fmt: skip

    @pytest.mark.parametrize("case", [*ORIENTATIONS, "oblique"])
    def test_masks_lie_on_the_grid_of_the_ct(self, done, case):
        source, output = done
        ct = nib.load(source / f"{case}.nii.gz")
        for name in ("prob_mask", "liver_mask"):
            mask = nib.load(output / case / f"{name}.nii.gz")
            assert mask.shape == ct.shape and mask.get_data_dtype() == np.uint8
            np.testing.assert_allclose(mask.affine, ct.affine, atol=1e-4)

    def test_prob_mask_is_a_probability_and_the_liver_mask_its_largest_part(self, done):
        folder = done[1] / "LPS"
        assert nib.load(folder / "prob_mask.nii.gz").dataobj.slope == pytest.approx(1 / 255)
        prob, liver = read_mask(folder / "prob_mask.nii.gz"), read_mask(folder / "liver_mask.nii.gz")
        assert 0 <= prob.min() < 0.1 and 0.9 < prob.max() <= 1 + 1e-6  # NIfTI keeps 1/255 as a float32
        assert set(np.unique(liver)) == {0, 1} and prob[liver == 1].min() >= 0.5 - 1 / 255

    def test_table_has_a_row_per_slice_and_probabilities_where_the_liver_is(self, done):
        folder = done[1] / "LPS"
        rows, area = read_table(folder), read_mask(folder / "liver_mask.nii.gz").sum((0, 1)) * 36
        assert [row.slice for row in rows] == list(range(SIZE[2]))
        np.testing.assert_allclose([row.liver_area_mm2 for row in rows], area, atol=0.1)
        assert all(row.tumour_probability is not None for row in rows if row.liver_area_mm2 > 0)
        assert all(0 <= row.tumour_probability <= 1 for row in rows if row.tumour_probability is not None)

    def test_result_sums_up_the_table(self, done, bundles):
        result, rows = read_result(done[1] / "LPS"), read_table(done[1] / "LPS")
        considered = [row for row in rows if row.tumour_probability is not None]
        assert result["study_tumour_probability"] == max(row.tumour_probability for row in considered)
        assert result["flagged_slices"] == [row.slice for row in considered if row.tumour_probability >= 0.5]
        assert result["liver_volume_ml"] == pytest.approx(sum(row.liver_area_mm2 for row in rows) / 100, abs=0.1)
        assert result["mask_source"] == "prob" and set(result["seconds"]) >= {"read", "segment", "classify", "total"}
        weights = Path(bundles["seg_bundle"]) / "models" / "model.pt"
        assert result["bundles"]["liver_seg"]["weights_sha256"] == sha256(weights)
        assert {"version", "weights_sha256"} <= set(result["bundles"]["liver_cls"])

    @pytest.mark.parametrize("case", ORIENTATIONS)
    def test_slice_index_counts_in_the_files_own_array(self, done, case):
        source, output = done
        affine = nib.load(source / f"{case}.nii.gz").affine
        axis = next(i for i, letter in enumerate(case) if letter in "SI")
        area = read_mask(output / case / "liver_mask.nii.gz").sum(tuple({0, 1, 2} - {axis})) * 36
        rows = read_table(output / case)
        np.testing.assert_allclose([row.liver_area_mm2 for row in rows], area, atol=0.1)
        z = affine[2, axis] * np.arange(SIZE[2]) + affine[2, 3]
        np.testing.assert_allclose([row.z_mm for row in rows], z, atol=0.01)

    @pytest.mark.parametrize("case", ORIENTATIONS[1:])
    def test_orientation_does_not_change_what_is_found_at_a_height(self, done, case):
        expected, found = (sorted(read_table(done[1] / name), key=lambda row: row.z_mm) for name in ("LPS", case))
        for one, other in zip(expected, found):
            assert other.tumour_probability == pytest.approx(one.tumour_probability, abs=1e-4)
            assert other.liver_area_mm2 == pytest.approx(one.liver_area_mm2, rel=1e-3)

    def test_heights_of_an_oblique_ct_are_those_of_its_slice_centres(self, done):
        ct = nib.load(done[0] / "oblique.nii.gz")
        middle = [(n - 1) / 2 for n in ct.shape[:2]]
        z = [(ct.affine @ [*middle, k, 1])[2] for k in range(ct.shape[2])]
        np.testing.assert_allclose([row.z_mm for row in read_table(done[1] / "oblique")], z, atol=0.01)


class TestChain:
    def test_equals_the_bundles_run_one_after_the_other_through_files(self, done, bundles, tmp_path):
        source, output = done
        ct = tmp_path / "ct"
        ct.mkdir()
        shutil.copy(source / "LPS.nii.gz", ct)
        run_bundle(bundles["seg_bundle"], dataset_dir=str(ct), output_dir=str(tmp_path / "seg"))
        run_bundle(
            bundles["cls_bundle"], dataset_dir=str(ct), prob_dir=str(tmp_path / "seg"), output_dir=str(tmp_path / "cls")
        )
        for name, postfix in (("prob_mask", "prob"), ("liver_mask", "seg")):
            through_file = read_mask(tmp_path / "seg" / "LPS" / f"LPS_{postfix}.nii.gz")
            np.testing.assert_array_equal(read_mask(output / "LPS" / f"{name}.nii.gz"), through_file)
        through_files = read_probabilities(tmp_path / "cls" / "LPS" / "LPS_slices.csv")
        in_memory = read_probabilities(output / "LPS" / "slices.csv")
        assert np.ptp(list(in_memory.values())) > 5 * TOLERANCE  # else the comparison would say nothing
        assert in_memory == pytest.approx(through_files, abs=TOLERANCE)

    @torch.inference_mode()
    def test_nothing_but_the_uint8_step_lies_between(self, done, bundles):
        ct, stored = str(done[0] / "LPS.nii.gz"), str(done[1] / "LPS" / "prob_mask.nii.gz")
        seg, cls = (stages.Stage(Path(bundles[key]), torch.device("cpu")) for key in ("seg_bundle", "cls_bundle"))
        image = seg["load"]({"image": ct})["image"]
        prob = seg["restore"](seg.infer(seg["transform"]({"image": image})))["prob"]
        read = cls["load"]({"image": ct, "prob": stored})
        np.testing.assert_array_equal(read["image"], image)
        np.testing.assert_allclose(read["prob"], prob, atol=1 / 510 + 1e-6)
        rounded = cls.infer(cls["transform"]({"image": image, "prob": (prob * 255).round() / 255}))
        np.testing.assert_allclose(cls.infer(cls["transform"](read))["pred"], rounded["pred"], atol=1e-4)

    @pytest.mark.parametrize("mask_source", ["binary", "none"])
    def test_mask_source_reaches_the_classifier(self, done, bundles, tmp_path, mask_source):
        run(done[0] / "LPS.nii.gz", tmp_path, bundles, mask_source=mask_source)
        assert read_result(tmp_path / "LPS")["mask_source"] == mask_source
        shipped = read_probabilities(done[1] / "LPS" / "slices.csv")
        assert read_probabilities(tmp_path / "LPS" / "slices.csv") != pytest.approx(shipped, abs=1e-4)

    def test_weights_are_loaded_once_for_many_studies(self, done, bundles, tmp_path, monkeypatch):
        loads = []
        monkeypatch.setattr(torch, "load", lambda *a, load=torch.load, **k: loads.append(k) or load(*a, **k))
        for name in ("a", "b"):
            (tmp_path / "in").mkdir(exist_ok=True)
            shutil.copy(done[0] / "LPS.nii.gz", tmp_path / "in" / f"{name}.nii.gz")
        run(tmp_path / "in", tmp_path / "out", bundles, jobs=1)
        assert len(loads) == 2 and all(k["weights_only"] for k in loads)


def run_bundle(root: str, **knobs: str) -> None:
    """`python -m monai.bundle run` of a bundle's inference config, in this process."""
    run_workflow(root, "inference.json", device=torch.device("cpu"), **knobs)


def read_probabilities(file: Path) -> dict[int, float]:
    """Probability by slice index, of the chain's table and of the classifier's."""
    with file.open() as stream:
        return {
            int(row["slice"]): float(row["tumour_probability"])
            for row in csv.DictReader(stream)
            if row["tumour_probability"]
        }


def assert_same_table(one: Path, other: Path) -> None:
    """Up to the order in which threads add up."""
    one, other = (read_probabilities(folder / "slices.csv") for folder in (one, other))
    assert one == pytest.approx(other, abs=1e-5)


class TestManyStudies:
    @pytest.fixture(scope="class")
    def folder(self, done, tmp_path_factory) -> Path:
        """Five phantoms, and a file that is none."""
        source = tmp_path_factory.mktemp("many")
        for name in ORIENTATIONS:
            shutil.copy(done[0] / f"{name}.nii.gz", source)
        (source / "broken.nii.gz").write_bytes(b"no image")
        return source

    @pytest.mark.parametrize("jobs", [1, 3])
    def test_side_by_side_is_the_same_and_a_bad_one_stops_none(self, folder, done, bundles, tmp_path, capfd, jobs):
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(4)  # as many jobs as asked for, whatever the machine has
            with pytest.raises(SystemExit) as stop:
                run(folder, tmp_path, bundles, jobs=jobs)
        finally:
            torch.set_num_threads(threads)
        assert stop.value.code == 1 and capfd.readouterr().err.count("ERROR") == 1
        assert entries(tmp_path) == set(ORIENTATIONS)
        for name in ORIENTATIONS:
            for file in ("prob_mask.nii.gz", "liver_mask.nii.gz"):
                assert (tmp_path / name / file).read_bytes() == (done[1] / name / file).read_bytes()
            assert_same_table(tmp_path / name, done[1] / name)

    def test_processes_share_the_studies(self, folder, done, bundles, tmp_path):
        ended = subprocess.run(self.command(folder, tmp_path, bundles), capture_output=True, text=True, timeout=300)
        lines = [line.split(":")[0] for line in ended.stdout.splitlines() if "highest slice" in line]
        assert ended.returncode == 1 and sorted(lines) == sorted(ORIENTATIONS), ended.stderr  # each once
        assert len([line for line in ended.stderr.splitlines() if line.startswith("ERROR")]) == 1
        for name in ORIENTATIONS:
            assert_same_table(tmp_path / name, done[1] / name)

    def test_none_leaves_before_the_last_has_done_what_is_for_one_alone(self, tmp_path):
        """torchrun stops the others as soon as one exits with an error."""
        script = tmp_path / "slow.py"
        script.write_text(
            "import pathlib, sys, time\nfrom liver_ct.chain.crew import Crew\n"
            "def last():\n    time.sleep(1)\n    pathlib.Path('index').write_text('x')\n    return 1\n"
            "sys.exit(bool(Crew().finish(1, last)))\n"
        )
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
        path = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        ended = subprocess.run(words, cwd=tmp_path, env=path, capture_output=True, text=True)
        assert ended.returncode == 1 and (tmp_path / "index").exists(), ended.stderr

    def test_a_second_run_does_what_dead_workers_left(self, folder, bundles, tmp_path):
        (tmp_path / "in").mkdir()
        for copy in range(4):  # enough to be killed in the middle
            for name in ORIENTATIONS:
                shutil.copy(folder / f"{name}.nii.gz", tmp_path / "in" / f"{name}-{copy}.nii.gz")
        command = self.command(tmp_path / "in", tmp_path / "out", bundles)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
            line = next(line for line in first.stdout if "highest slice" in line)
            workers = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
            os.kill(int(workers[0]), signal.SIGKILL)
            done_before = [line, *(line for line in first.stdout if "highest slice" in line)]
        assert len(workers) == 2 and first.returncode and len(done_before) < 20
        second = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert second.returncode == 0, second.stderr
        assert entries(tmp_path / "out") == {f"{name}-{copy}" for name in ORIENTATIONS for copy in range(4)}
        assert second.stdout.count("finished before") >= len(done_before)

    def test_no_job_is_refused(self, folder, bundles, tmp_path):
        with pytest.raises(SystemExit, match="--jobs 0"):
            run(folder, tmp_path, bundles, jobs=0)

    def command(self, source: Path, output: Path, bundles: dict[str, str]) -> list[str]:
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        words += [str(ROOT / "scripts" / "cascade.py"), "--input", str(source), "--output", str(output)]
        words += ["--picture", "false", "--report", "false", "--device", "cpu"]
        return words + [word for key, value in bundles.items() for word in (f"--{key}", value)]


def test_a_bundle_whose_code_is_not_the_imported_is_refused(tmp_path, monkeypatch):
    """Python keeps what it has imported: the results would be another version's, under this one's name."""
    bundle_module("seg", "io")
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copytree(ROOT / "bundles" / "liver_seg", tmp_path / "seg", ignore=shutil.ignore_patterns("models", "runs"))
    stages.read_bundle(tmp_path / "seg")
    (tmp_path / "seg" / "scripts" / "seg_io.py").write_text("")
    with pytest.raises(StudyError, match="its seg_io.py is not that of .*Run each bundle in a process of its own"):
        stages.read_bundle(tmp_path / "seg")


class TestResume:
    @pytest.fixture
    def study(self, bundles, tmp_path) -> tuple[Path, Path, dict[str, str]]:
        ct = save_ct(tmp_path / "ct.nii.gz")
        run(ct, tmp_path / "out", bundles)
        return ct, tmp_path / "out", bundles

    def test_a_finished_study_is_left_as_it_is(self, study):
        before = stamps(study[1] / "ct")
        run(*study)
        assert stamps(study[1] / "ct") == before

    @pytest.mark.parametrize(
        "knobs", [{"overwrite": True}, {"mask_source": "binary"}, {"picture": True}, {"report": True}]
    )
    def test_done_again_when_something_else_is_asked_for(self, study, knobs):
        before = stamps(study[1] / "ct")
        run(*study, **knobs)
        assert stamps(study[1] / "ct")["result.json"] != before["result.json"]
        assert entries(study[1]) == {"ct", *(["index.html", "summary.csv"] if "report" in knobs else [])}

    def test_what_is_there_already_stays_when_more_is_asked_for(self, study):
        run(*study, picture=True)
        before = stamps(study[1] / "ct")
        run(*study, report=True)
        after = stamps(study[1] / "ct")
        assert after["overview.png"] == before["overview.png"] and {"overview.png", "report.html"} <= {*after}
        run(*study)
        assert stamps(study[1] / "ct") == after
        file = study[1] / "ct" / "result.json"  # as if a GPU had made it, whose figures differ by a little
        file.write_text(json.dumps({**json.loads(file.read_text()), "precision": "float16"}))
        (study[1] / "ct" / "report.html").unlink()
        run(*study, report=True)
        again = stamps(study[1] / "ct")
        assert {*again} == {*after} and not any(again[name] == after[name] for name in after)

    def test_done_again_when_the_input_changed(self, study):
        before = read_probabilities(study[1] / "ct" / "slices.csv")
        save_ct(study[0], seed=1)
        run(*study)
        assert read_probabilities(study[1] / "ct" / "slices.csv") != before

    def test_done_again_when_the_result_is_not_whole(self, study):
        (study[1] / "ct" / "result.json").write_text("{")
        run(*study)
        assert read_result(study[1] / "ct")["case"] == "ct"

    def test_a_killed_run_leaves_no_half_study_and_the_next_one_finishes(self, bundles, tmp_path, monkeypatch):
        ct, output = save_ct(tmp_path / "ct.nii.gz"), tmp_path / "out"
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # a kill cleans nothing up
            patch.setattr(writing, "write_rows", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(ct, output, bundles)
        assert entries(output) == {".partial"} and entries(output / ".partial" / "ct")
        run(ct, output, bundles)
        assert entries(output) == {"ct"} and entries(output / "ct") == {*names.ALWAYS, *names.LESION_OUTPUTS}


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def save_bad_studies(folder: Path) -> dict[str, str]:
    """Write one study of every bad kind; returns a word of the message to expect for each."""
    ct, _, affine = phantom.make_phantom(SIZE, SPACING)
    words = save_bad_cts(folder, ct, affine) | {"cut.nii.gz": "cut short"}
    liverless = np.minimum(ct, np.random.default_rng(0).integers(20, 41, ct.shape))
    nib.save(nib.Nifti1Image(liverless.astype(np.int16), affine), folder / "liverless.nii.gz")
    (folder / "text.mha").write_text("not an image")
    phantom.write_dicom_series(folder / "series", ct, affine)
    slice_ = sorted((folder / "series").iterdir())[7]
    slice_.write_bytes(slice_.read_bytes()[: slice_.stat().st_size // 2])
    return words | {"liverless.nii.gz": "no liver", "text.mha": "readable", "series": "slice"}


class TestBadInput:
    def test_good_studies_are_finished_and_each_bad_one_has_its_line(self, bundles, tmp_path, capfd):
        source, output = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        expected = save_bad_studies(source)
        save_ct(source / "a_good.nii.gz")
        save_ct(source / "z_good.nii.gz", seed=1)
        with pytest.raises(SystemExit) as stop:
            run(source, output, bundles)
        assert stop.value.code == 1
        assert entries(output) == {"a_good", "z_good"}
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == len(expected)
        for name, word in expected.items():
            own = [line for line in lines if line.startswith(f"ERROR {source / name}")]
            assert any(word in line.split(": ", 1)[1] and line.endswith(".") for line in own), (name, own)

    @pytest.mark.parametrize(
        "knobs, word",
        [
            ({"source": "nowhere"}, "no such file"),
            ({"source": "."}, "holds no CT"),
            ({"source": "ct", "output": "file/out"}, "Not a directory"),
            ({"source": "ct", "mask_source": "manual"}, "prob, binary, dilated, none"),
            ({"source": "ct", "seg_bundle": "nowhere"}, "no bundle"),
            ({"source": "ct", "device": "tpu"}, "cpu or cuda"),
        ],
    )
    def test_a_call_that_cannot_work_ends_with_one_line(self, bundles, tmp_path, knobs, word):
        (tmp_path / "file").touch()
        source = tmp_path / knobs.pop("source")
        if source.name == "ct":
            source = save_ct(tmp_path / "ct.nii.gz")
        output = tmp_path / knobs.pop("output", "out")
        with pytest.raises(SystemExit) as stop:
            run(source, output, {**bundles, **knobs})
        line = stop.value.code  # Python prints a text to stderr and exits with status 1
        assert line.startswith("ERROR ") and word in line and "\n" not in line

    def test_weights_of_another_network_are_refused(self, bundles, tmp_path):
        shutil.copytree(bundles["seg_bundle"], tmp_path / "seg")
        torch.save({"weight": torch.zeros(1)}, tmp_path / "seg" / "models" / "model.pt")
        with pytest.raises(SystemExit, match="model.pt: damaged, or not this bundle's weights"):
            run(save_ct(tmp_path / "ct.nii.gz"), tmp_path / "out", {**bundles, "seg_bundle": str(tmp_path / "seg")})

    def test_a_full_disk_leaves_nothing_behind(self, bundles, tmp_path, capsys):
        ct = save_ct(tmp_path / "ct.nii.gz")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as on a full disk, writing stops midway
        try:
            with pytest.raises(SystemExit):
                run(ct, tmp_path / "out", bundles)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert entries(tmp_path / "out") == set()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("ERROR ") and "cannot be written" in line

    def test_a_folder_that_is_no_result_is_never_replaced(self, bundles, tmp_path, capsys):
        ct = save_ct(tmp_path / "ct.nii.gz")
        (tmp_path / "out" / "ct").mkdir(parents=True)
        (tmp_path / "out" / "ct" / "notes.txt").write_text("mine")
        with pytest.raises(SystemExit):
            run(ct, tmp_path / "out", bundles, overwrite=True)
        assert (tmp_path / "out" / "ct" / "notes.txt").read_text() == "mine"
        assert "in the way" in capsys.readouterr().err


class TestDicom:
    @pytest.fixture(scope="class")
    def pair(self, bundles, tmp_path_factory) -> tuple[Path, Path]:
        """Results of one CT as a NIfTI file and as a DICOM series, and the folder they are in."""
        folder = tmp_path_factory.mktemp("dicom")
        (folder / "in").mkdir()
        ct, _, affine = phantom.make_phantom(SIZE, SPACING)
        nib.save(nib.Nifti1Image(ct, affine), folder / "in" / "nifti.nii.gz")
        phantom.write_dicom_series(folder / "in" / "series", ct, affine)
        run(folder / "in", folder / "out", bundles)
        return folder / "out" / "nifti", folder / "out" / "series"

    def test_a_series_gives_what_the_same_nifti_gives(self, pair):
        for name in ("prob_mask.nii.gz", "liver_mask.nii.gz"):
            one, other = (nib.as_closest_canonical(nib.load(folder / name)) for folder in pair)
            np.testing.assert_allclose(other.affine, one.affine, atol=1e-3)
            np.testing.assert_allclose(other.get_fdata(), one.get_fdata(), atol=1 / 255 + 1e-6)
        one, other = (sorted(read_table(folder), key=lambda row: row.z_mm) for folder in pair)
        for a, b in zip(one, other):
            assert b.z_mm == pytest.approx(a.z_mm, abs=0.01)
            assert b.tumour_probability == pytest.approx(a.tumour_probability, abs=1e-3)

    def test_nothing_of_the_patient_reaches_the_outputs(self, bundles, tmp_path, capfd):
        pydicom = pytest.importorskip("pydicom")
        series = tmp_path / "series"
        phantom.write_dicom_series(series, *phantom.make_phantom(SIZE, SPACING)[::2])
        for path in series.iterdir():
            slice_ = pydicom.dcmread(path)
            slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate = (
                "Secret^Name",
                "Secret-ID",
                "not a date Secret",
            )
            slice_.save_as(path)
        run(series, tmp_path / "out", bundles, picture=True, report=True)
        written = [path.read_bytes() for path in (tmp_path / "out" / "series").iterdir()]
        written += [gzip.decompress(data) for data in written if data[:2] == b"\x1f\x8b"]
        assert not any(b"Secret" in data for data in written)
        assert "Secret" not in "".join(capfd.readouterr())


class TestFindingStudies:
    def test_files_and_series_are_found_at_any_depth_and_the_rest_is_passed_over(self, tmp_path):
        for name in (
            "a.nii.gz", "deep/er/b.mha", "c.NRRD", "volume-1.nii", "segmentation-1.nii", "notes.txt", ".hidden.nii.gz",
            ".partial/d/prob_mask.nii.gz", "scan/slice.dcm", "cd/DICOMDIR",
        ):  # fmt: skip
            touch(tmp_path / name)
        (tmp_path / "cd" / "0001").mkdir()
        (tmp_path / "cd" / "0001" / "IM1").write_bytes(bytes(128) + b"DICM")
        for name in names.OUTPUTS:
            touch(tmp_path / "results" / "a" / name)
        found = {study.case: study.path.relative_to(tmp_path) for study in studies.find_studies(tmp_path)}
        assert found == {
            "a": Path("a.nii.gz"), "b": Path("deep/er/b.mha"), "c": Path("c.NRRD"), "volume-1": Path("volume-1.nii"),
            "scan": Path("scan"), "0001": Path("cd/0001"),
        }  # fmt: skip

    def test_studies_of_one_name_are_told_apart_by_their_path(self, tmp_path):
        for name in ("ann/ct.nii.gz", "bob/ct.nii.gz", "bob/CT.mha", "bob-ct.nii.gz", "mri.nii.gz"):
            touch(tmp_path / name)
        cases = [study.case.lower() for study in studies.find_studies(tmp_path)]
        assert len(set(cases)) == 5 and {"ann-ct", "mri"} <= set(cases)

    def test_a_loop_of_links_ends_and_a_link_keeps_its_name(self, tmp_path):
        touch(tmp_path / "store" / "0a1b.nii.gz")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "patient.nii.gz").symlink_to(tmp_path / "store" / "0a1b.nii.gz")
        (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
        assert [study.case for study in studies.find_studies(tmp_path / "data")] == ["patient"]


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


class TestPicture:
    def test_suspicious_slices_are_the_likeliest_ones_well_apart(self):
        p = [None, 0.1, 0.8, 0.9, 0.85, 0.2, 0.6, None]
        rows = [SliceRow(i, 5.0 * i, 1.0, value) for i, value in enumerate(p)]
        assert picture.most_suspicious(rows, count=2, apart_mm=12) == [3, 6]

    def test_planes_are_shown_with_the_patients_right_on_the_left(self):
        ct = np.zeros((8, 6))
        ct[-1, -1] = 100  # rightmost and foremost, as RAS arrays run
        figure, axes = plt.subplots()
        picture._draw_plane(axes, ct, np.zeros_like(ct), (0, 8, 0, 6))
        (image,) = axes.images
        row, column = np.argwhere(image.get_array() == 100)[0]
        assert image.origin == "lower" and (row, column) == (5, 0)
        plt.close(figure)


def test_the_command_line(bundles, tmp_path):
    save_ct(tmp_path / "in.nii.gz")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "empty.nii.gz").touch()
    shutil.copy(tmp_path / "in.nii.gz", tmp_path / "bad" / "1_2.nii.gz")  # a name that Fire alone would take for 12
    command = [sys.executable, str(ROOT / "scripts" / "cascade.py"), "--input", "bad", "--output", "1.10"]
    options = ["--mask_source", "none", "--device", "cpu", "--overwrite", "false", "--picture", "true"]
    paths = [word for key, value in bundles.items() for word in (f"--{key}", value)]
    ended = subprocess.run([*command, *options, *paths], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("ERROR ") and "empty.nii.gz: the file is empty." in line
    assert "1_2: highest slice" in ended.stdout
    assert entries(tmp_path / "1.10" / "1_2") == set(names.OUTPUTS) - {*names.DICOM_OUTPUTS, *names.DICOM_OF_LESIONS}
