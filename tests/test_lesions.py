"""Lesions, from the bundle's map to the list: right in mm, ml, HU and place, however the CT lies.

The networks are single convolutions with known weights: the segmenter's takes the mean HU of a neighbourhood, the
classifier's the HU of a pixel against the liver's. The CTs are ellipsoids in the patient's mm.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import cross_validate
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import bundles_with, run_workflow
from test_cascade import entries, read_mask, read_result, run

from liver_ct import LiverCT, StudyError, StudyResult
from liver_ct.chain import stages
from liver_ct.files import read_json
from liver_ct.outputs import names
from liver_ct.outputs.lesions import CANDIDATE, LESION, find_lesions, longest_diameter, name_for
from liver_ct.training import froc

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (96, 80, 40), (3.0, 4.0, 5.0)
LIVER_HU, TUMOUR_HU = 110, 50


class Ball(NamedTuple):
    """An ellipsoid: its centre and half axes in mm (RAS), and how far it is turned about the body's axis."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    turn: float = 0.0

    def holds(self, points: np.ndarray) -> np.ndarray:
        cos, sin = np.cos(np.deg2rad(self.turn)), np.sin(np.deg2rad(self.turn))
        moved = (points - self.centre) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        return (moved**2 / np.square(self.half)).sum(-1) <= 1

    @property
    def ml(self) -> float:
        return 4 / 3 * np.pi * np.prod(self.half) / 1000


BODY, LIVER = Ball((0, 0, 0), (130, 130, 1000)), Ball((20, 10, 5), (80, 75, 60))
LONG, ROUND = Ball((45, 25, 15), (27, 12, 15), 35), Ball((-20, -10, -10), (13, 13, 13))


def affine_of(axcodes: str = "LPS", tilt: tuple[float, float] = (0, 0)) -> tuple[np.ndarray, tuple[int, ...]]:
    """An affine whose grid is centred on the patient's 0, and its shape."""
    ornt = nib.orientations.axcodes2ornt(axcodes)
    order, signs = ornt[:, 0].astype(int), ornt[:, 1]
    shape, matrix = tuple(SIZE[i] for i in order), np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(order, signs)):
        matrix[world, axis] = sign * SPACING[world]
    a, b = np.deg2rad(tilt)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_y @ matrix
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine, shape


def make_ct(tumours: tuple[Ball, ...] = (LONG, ROUND), **knobs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CT int16, labels as in LiTS, and affine."""
    affine, shape = affine_of(**knobs)
    points = nib.affines.apply_affine(affine, np.stack(np.indices(shape), -1))
    labels = LIVER.holds(points).astype(np.uint8)
    for tumour in tumours:
        labels[tumour.holds(points)] = 2
    soft = np.where(BODY.holds(points), -90, -1000)
    ct = np.select([labels == 2, labels == 1], [TUMOUR_HU, LIVER_HU], soft)
    return (ct + np.random.default_rng(0).normal(0, 3, shape)).round().astype(np.int16), labels, affine


def pixels_of(config: dict) -> dict[str, torch.Tensor]:
    """Make the segmenter one convolution, sure of liver where the mean of 5 slices is above 0 HU, tumour too."""
    config["offsets"], config["hu_window"] = [-2, -1, 0, 1, 2], [-200, 200]
    config["network_def"] = {"_target_": "torch.nn.Conv2d", "in_channels": 5, "out_channels": 1, "kernel_size": 1}
    config["network"] = "@network_def"
    return {"weight": torch.full((1, 5, 1, 1), 20.0), "bias": torch.tensor([-50.0])}


def darkness(config: dict, at: float = -1.0) -> dict[str, torch.Tensor]:
    """Make the classifier sure of tumour where a pixel is 30 HU below the liver, and all around it is liver."""
    config |= {"calibration": [1.0, 0.0], "smooth_mm": 0.0}
    config["network_def"] = {"_target_": "torch.nn.Conv2d", "in_channels": 6, "out_channels": 1, "kernel_size": 5}
    config["network_def"]["padding"] = 2
    weight = torch.zeros(1, 6, 5, 5)
    weight[0, 1, 2, 2], weight[0, 3:] = -10.0, 2000 / 75
    return {"weight": weight, "bias": torch.tensor([10.0 * at - 2000])}


def make_bundles(root: Path, at: float = -1.0) -> dict[str, str]:
    """Both bundles with those networks, as arguments of the chain."""
    return bundles_with(root, liver_seg=pixels_of, liver_cls=lambda config: darkness(config, at))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, str]:
    return make_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def chain(bundles) -> LiverCT:
    return LiverCT(device="cpu", **bundles)


@pytest.fixture(scope="module")
def study(chain) -> StudyResult:
    ct, _, affine = make_ct()
    return chain.run(ct, affine, "ct", regions=False)


def write_ct(file: Path, **knobs) -> Path:
    ct, _, affine = make_ct((LONG, ROUND), **knobs)
    nib.save(nib.Nifti1Image(ct, affine), file)
    return file


def read_lesions(folder: Path) -> list[dict[str, str]]:
    with (folder / "lesions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


class TestList:
    @pytest.mark.parametrize(
        ("axcodes", "tilt"),
        [("LPS", (0, 0)), ("RAS", (0, 0)), ("SPL", (0, 0)), ("IAR", (0, 0)), ("LPS", (11, 7)), ("AIL", (-9, 6))],
    )
    def test_holds_both_tumours_however_the_ct_lies(self, chain, axcodes, tilt):
        ct, labels, affine = make_ct(axcodes=axcodes, tilt=tilt)
        study = chain.run(ct, affine, regions=False)
        assert [lesion.number for lesion in study.lesions.found] == [1, 2]
        axis = int(np.argmax(np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
        heights = nib.affines.apply_affine(affine, np.argwhere(labels > 0))[:, 2]
        assert len({row.slice for row in study.rows}) == SIZE[2] and np.ptp(heights) > 100
        for ball in (LONG, ROUND):
            right, anterior, up = ball.centre
            found = min(study.lesions.found, key=lambda one: np.abs(np.subtract(one.centre_mm[2], up)))
            np.testing.assert_allclose(found.centre_mm, (-right, -anterior, up), atol=1.5)
            assert found.diameter_mm == pytest.approx(2 * max(ball.half[:2]), abs=4)
            assert found.volume_ml == pytest.approx(ball.ml, rel=0.3)
            assert found.mean_hu == pytest.approx(TUMOUR_HU, abs=15)
            assert found.hu_minus_liver == pytest.approx(found.mean_hu - LIVER_HU, abs=1.5)
            inside = np.argwhere(study.lesions.labels == found.number)[:, axis]
            assert (found.first_slice, found.last_slice) == (inside.min(), inside.max())
            assert found.first_slice < found.key_slice < found.last_slice
            middle = (np.linalg.inv(affine) @ [*ball.centre, 1])[axis]
            assert abs(found.key_slice - middle) <= 2

    def test_a_lesion_lies_in_flagged_slices_and_flagged_slices_without_one_are_named(self, study):
        flagged = set(study.summary.flagged_slices)
        for lesion in study.lesions.found:
            assert flagged & set(range(lesion.first_slice, lesion.last_slice + 1))
        listed = {index for one in study.lesions.found for index in range(one.first_slice, one.last_slice + 1)}
        assert study.result["flagged_without_lesion"] == sorted(flagged - listed)

    def test_no_pixel_is_surer_than_its_slice(self, study):
        for row in study.rows:
            highest = study.lesions.prob[..., row.slice].max() / 255
            assert highest <= (row.tumour_probability or 0) + 1 / 255

    def test_nothing_can_be_written_into_it(self, study):
        for values in (study.lesions.prob, study.lesions.labels):
            with pytest.raises(ValueError, match="read-only"):
                values[...] = 0

    def test_a_liver_without_tumour_has_an_empty_list(self, chain, tmp_path):
        ct, _, affine = make_ct(())
        study = chain.run(ct, affine, regions=False)
        study.save(tmp_path / "case", [])
        result = read_result(tmp_path / "case")
        assert not result["flagged_slices"] and result["lesions"] == [] and result["flagged_without_lesion"] == []
        assert read_lesions(tmp_path / "case") == [] and read_mask(tmp_path / "case" / "lesion_prob.nii.gz").max() < 0.5

    def test_what_is_small_is_left_out(self):
        prob = np.zeros((20, 20, 10), np.uint8)
        prob[2:4, 2:4, 2], prob[10:16, 10:16, 3:7] = 255, 200
        found = find_lesions(prob, prob, prob * 0, np.eye(4), smallest_ml=0.01)
        assert [(one.probability, one.volume_ml) for one in found.found] == [(0.784, 0.144)]
        assert found.found[0].hu_minus_liver is None and set(np.unique(found.labels)) == {0, 1}
        assert [one.probability for one in find_lesions(prob, prob, prob * 0, np.eye(4)).found] == [1.0, 0.784]

    def test_a_part_that_nowhere_reaches_the_threshold_is_none(self):
        prob = np.full((5, 5, 5), 100, np.uint8)
        assert not find_lesions(prob, prob, prob, np.eye(4)).found
        assert len(find_lesions(prob, prob, prob, np.eye(4), threshold=0.39).found) == 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.9)])
def test_the_longest_diameter_is_in_mm_whichever_way_it_runs(spacing):
    turned = np.array([[0.8, 0], [0.6, 0], [0, 1]]) * spacing  # pixel axes in space
    disk = np.hypot(*(np.indices((61, 61)) - 30)) <= 20
    assert longest_diameter(disk, turned) == pytest.approx(41 * max(spacing), rel=0.03)
    assert longest_diameter(np.eye(30, dtype=bool), turned) == pytest.approx(np.hypot(*spacing) * 30, rel=0.04)
    assert longest_diameter(np.ones((1, 1), bool), turned) == pytest.approx(max(spacing))
    assert longest_diameter(np.zeros((3, 3), bool), turned) == 0


def test_they_are_lesions_only_where_enough_are_found():
    found, false = "lesion_sensitivity_over_2_cm", "false_lesions_per_person"
    assert name_for({found: 0.7, false: 1.0}) == LESION
    for figures in ({}, {found: 0.9}, {found: 0.69, false: 0.1}, {found: 0.9, false: 1.1}):
        assert name_for(figures) == CANDIDATE
    metrics = read_json(ROOT / "bundles" / "liver_cls" / "configs" / "metadata.json")["eval_metrics"]
    assert {found, false} <= set(metrics)


class TestFiles:
    @pytest.fixture(scope="class")
    def done(self, bundles, tmp_path_factory) -> tuple[Path, Path]:
        source = tmp_path_factory.mktemp("source")
        ct = write_ct(source / "ct.nii.gz", axcodes="SPL", tilt=(8, 5))
        run(ct, source / "out", bundles)
        return ct, source / "out" / "ct"

    def test_the_map_lies_on_the_grid_of_the_ct(self, done):
        ct, image = nib.load(done[0]), nib.load(done[1] / "lesion_prob.nii.gz")
        assert image.shape == ct.shape and image.get_data_dtype() == np.uint8
        assert image.dataobj.slope == pytest.approx(1 / 255)
        np.testing.assert_allclose(image.affine, ct.affine, atol=1e-4)
        assert 0.9 < image.get_fdata().max() <= 1

    def test_the_table_and_the_result_say_the_same(self, done):
        result, rows = read_result(done[1]), read_lesions(done[1])
        assert result["lesions_shown_as"] in (LESION, CANDIDATE) and len(rows) == len(result["lesions"]) == 2
        probabilities = [lesion["probability"] for lesion in result["lesions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        for row, lesion in zip(rows, result["lesions"]):
            centre = [float(row.pop(name)) for name in ("x_mm", "y_mm", "z_mm")]
            assert centre == lesion.pop("centre_mm")
            assert {name: float(value) for name, value in row.items()} == lesion

    def test_finished_studies_are_left_and_what_is_lacking_is_made(self, done, bundles, capsys):
        table, folder = done[1] / "lesions.csv", done[1]
        before = {name: (folder / name).read_bytes() for name in ("lesions.csv", "lesion_prob.nii.gz")}
        stamp = table.stat().st_mtime_ns
        run(done[0], folder.parent, bundles)
        assert table.stat().st_mtime_ns == stamp and "finished before" in capsys.readouterr().out
        for name in before:
            (folder / name).unlink()
            run(done[0], folder.parent, bundles)
            assert (folder / name).read_bytes() == before[name]
        run(done[0], folder.parent, bundles, overwrite=True)
        assert table.read_bytes() == before["lesions.csv"]

    def test_results_of_a_version_without_lesions_are_made_anew(self, bundles, tmp_path):
        ct, folder = write_ct(tmp_path / "ct.nii.gz"), tmp_path / "out" / "ct"
        run(ct, tmp_path / "out", bundles)
        for name in names.LESION_OUTPUTS:
            (folder / name).unlink()
        result = read_result(folder)
        result["bundles"]["liver_cls"]["config_sha256"] = "another"
        for name in ("lesions", "lesions_shown_as", "flagged_without_lesion"):
            result.pop(name)
        (folder / "result.json").write_text(json.dumps(result))
        run(ct, tmp_path / "out", bundles)
        assert len(read_lesions(folder)) == 2 and entries(folder) == {*names.ALWAYS, *names.LESION_OUTPUTS}

    def test_they_are_written_with_the_others_or_not_at_all(self, bundles, tmp_path, monkeypatch, capsys):
        ct = write_ct(tmp_path / "ct.nii.gz")

        def full(*_args, **_kwargs):
            raise StudyError(f"{tmp_path}: no space. Free some.")

        monkeypatch.setattr("liver_ct.chain.pipeline.save_map", full)
        with pytest.raises(SystemExit):
            run(ct, tmp_path / "out", bundles)
        assert "no space" in capsys.readouterr().err and not (tmp_path / "out" / "ct").exists()

    def test_the_bundle_alone_writes_the_same_map(self, done, bundles, tmp_path):
        entry = {"image": str(done[0]), "prob": str(done[1] / "prob_mask.nii.gz")}
        knobs = {"datalist": [entry], "output_dir": str(tmp_path), "device": "$torch.device('cpu')"}
        run_workflow(bundles["cls_bundle"], "inference.json", **knobs)
        assert entries(tmp_path / "ct") == {"ct_slices.csv", "ct_tumour.json", "ct_lesion_prob.nii.gz"}
        alone, chained = tmp_path / "ct" / "ct_lesion_prob.nii.gz", done[1] / "lesion_prob.nii.gz"
        np.testing.assert_allclose(read_mask(alone), read_mask(chained), atol=0.05)


def test_a_network_of_one_logit_a_slice_has_no_lesions_and_that_is_said(tmp_path):
    bundles = make_bundles(tmp_path)
    file = Path(bundles["cls_bundle"], "configs", "inference.json")
    network = {"_target_": "monai.networks.nets.resnet10", "spatial_dims": 2, "n_input_channels": 6, "num_classes": 1}
    config = json.loads(file.read_text()) | {"network_def": network}
    file.write_text(json.dumps(config))
    module = stages.read_bundle(Path(bundles["cls_bundle"])).get_parsed_content("network_def")
    torch.save(module.state_dict(), tmp_path / "liver_cls" / "models" / "model.pt")
    ct = write_ct(tmp_path / "ct.nii.gz")
    run(ct, tmp_path / "out", bundles)
    result = read_result(tmp_path / "out" / "ct")
    assert result["lesions"] is result["lesions_shown_as"] is result["flagged_without_lesion"] is None
    assert entries(tmp_path / "out" / "ct") == {*names.ALWAYS}
    run(ct, tmp_path / "out", bundles)


class TestMeasured:
    def test_on_outlines_by_the_command(self, tmp_path):
        """Two people in one fold: both tumours of the first are found, the second's brightness hides its only one."""
        bundles, masks, output = make_bundles(tmp_path), tmp_path / "masks", tmp_path / "cls"
        masks.mkdir()
        training = []
        for person, tumours in (("one", (LONG, ROUND)), ("two", (ROUND,))):
            ct, labels, affine = make_ct(tumours)
            if person == "two":
                ct[labels == 2] = LIVER_HU
                ct[20:26, 40:46, 20:23] = np.where(labels[20:26, 40:46, 20:23] == 1, TUMOUR_HU, ct[20:26, 40:46, 20:23])
            prob = np.where(labels > 0, 1.0, 0).astype(np.float32)
            entry = {"case_id": person, "group": person}
            for key, values in (("image", ct), ("label", labels), ("prob", prob)):
                nib.save(nib.Nifti1Image(values, affine), masks / f"{person}_{key}.nii.gz")
                entry[key] = f"{person}_{key}.nii.gz"
            training.append(entry)
        (masks / "folds.json").write_text(json.dumps({"one": 0, "two": 0}))
        (masks / "datalist_prob.json").write_text(json.dumps({"training": training, "training_slices": []}))
        words = {"masks": str(masks), "output": str(output), "bundle": bundles["cls_bundle"]}
        with pytest.raises(SystemExit, match="no fold with a model.pt"):
            cross_validate.lesions(**words)
        shutil.copytree(tmp_path / "liver_cls" / "models", output / "fold-0")
        cross_validate.lesions(**words)
        result = json.loads((output / "lesions.json").read_text())
        assert (result["people"], result["studies"]) == (2, 2)
        assert result["lesions"] == {"under_1_cm": 0, "1_to_2_cm": 0, "over_2_cm": 3}
        assert result["at_threshold"]["over_2_cm"] == pytest.approx(2 / 3, abs=1e-3)
        assert result["at_threshold"]["false_per_person"] == 0.5
        maps = sorted(output.rglob("*_lesion_prob.nii.gz"))

        def drawn_anew(**knobs) -> list[bool]:
            before = [file.stat().st_mtime_ns for file in maps]
            cross_validate.lesions(**words, **knobs)
            return [file.stat().st_mtime_ns != stamp for file, stamp in zip(maps, before)]

        assert drawn_anew() == drawn_anew(lesion_outline=0.2) == [False, False]  # a list's knob changes no map
        assert drawn_anew(smooth_mm=0.0) == [True, True]
        mask = nib.load(masks / "two_prob.nii.gz")
        nib.save(nib.Nifti1Image(mask.get_fdata(dtype=np.float32) * 0.9, mask.affine), masks / "two_prob.nii.gz")
        assert drawn_anew(smooth_mm=0.0) == [False, True]
        weights = torch.load(output / "fold-0" / "model.pt", weights_only=True)
        torch.save({key: value + 0.01 for key, value in weights.items()}, output / "fold-0" / "model.pt")
        assert drawn_anew(smooth_mm=0.0) == [True, True]

    def test_figures_are_right_on_known_lists(self):
        def study(person: str, found: list[float], false: list[float], mm: float = 25) -> froc.Judged:
            size = np.full(len(found), mm)
            return froc.Judged(person, size, np.array(found), size + 2, np.array(false))

        studies = [study("a", [0.9, 0.6], [0.7, 0.2]), study("b", [0.4, 0], [0.3]), study("b", [0.8], [0.5], mm=5)]
        result = froc.figures(studies, 0.55)
        assert result["lesions"] == {"under_1_cm": 1, "1_to_2_cm": 0, "over_2_cm": 4}
        found = result["at_threshold"]
        assert (found["over_2_cm"], found["under_1_cm"], found["false_per_person"]) == (0.5, 1.0, 0.5)
        assert "1_to_2_cm" not in found and found["interval_95"]["over_2_cm"][0] == 0
        assert result["at_one_false_per_person"]["thresholds"] == [0.4, 0.4]
        assert result["at_one_false_per_person"]["over_2_cm"] == 0.75
        assert result["froc"]["over_2_cm"] == [0.25, 0.5, 0.75, 0.75, 0.75]
        assert result["left_out"]["thresholds"] == [0.4, 0.6]
        assert result["diameter_error_mm"]["median"] == 2.0
