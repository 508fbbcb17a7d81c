"""Promises of bundles/liver_cls, kept through its configs and monai.bundle's own commands."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import sqlite3
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import warm
from conftest import (
    AXCODES,
    check_best_score_is_known_again,
    check_draws_of_one_that_goes_on,
    check_one_seed_gives_one_network,
    inference_of,
    run_workflow,
    save_bad_cts,
    save_with_affine,
)
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from liver_ct import phantom

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "liver_cls"
CONFIGS = BUNDLE / "configs"
sys.path.append(str(BUNDLE))
SMALL = {"roi": [32, 32], "spacing": 8.0}
QUICK = {
    **SMALL,
    "epochs": 1,
    "val_interval": 1,
    "volume_repeats": 1,
    "studies_per_batch": 2,
    "groups_per_study": 4,
    "dynunet#filters": [16, 16, 16, 16, 16],
    "lite_unet#decoder": [16, 16, 16, 16],
}
SIZE, SPACING = (48, 40, 20), (8.0, 8.0, 10.0)


def save_prob(path: Path, prob: np.ndarray, affine: np.ndarray) -> None:
    """Write a Prob-Mask as the first stage does: uint8, scaled by 1/255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image((prob * 255).round().astype(np.uint8), affine)
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, path)


def save_case(folder: Path, name: str, **knobs) -> dict[str, str]:
    """Write a phantom, its labels and a Prob-Mask; returns the datalist entry."""
    ct, label, affine = phantom.make_phantom(SIZE, SPACING, **knobs)
    entry = {key: f"{stem}-{name}.nii.gz" for key, stem in (("image", "volume"), ("label", "segmentation"))}
    entry["prob"] = f"prob/volume-{name}/volume-{name}_prob.nii.gz"
    nib.save(nib.Nifti1Image(ct, affine), folder / entry["image"])
    nib.save(nib.Nifti1Image(label, affine), folder / entry["label"])
    save_prob(folder / entry["prob"], np.where(label > 0, 0.9, 0.0), affine)
    return {**entry, "case_id": f"volume-{name}"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with two phantoms to train on and two to validate on, and datalist_prob.json."""
    folder = tmp_path_factory.mktemp("data")
    cases = [save_case(folder, str(seed), seed=seed) for seed in range(4)]
    (folder / "datalist_prob.json").write_text(json.dumps({"training": cases[:2], "validation": cases[2:]}))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of the small network that QUICK asks for."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(parser(**QUICK).get_parsed_content("network_def").state_dict(), path)
    return path


def parser(**knobs) -> ConfigParser:
    """inference.json, ready to give its parts."""
    return inference_of(BUNDLE, **knobs)


def train(data: Path, output: Path, *overlays: str, **knobs):
    """Run train.json with overlays in this process; returns the finished workflow."""
    places = {"dataset_dir": str(data), "ckpt_dir": str(output)}
    return run_workflow(BUNDLE, "train.json", *overlays, **{**QUICK, **places, **knobs})


def bundle_run(*words, cwd: Path = BUNDLE):
    """``python -m monai.bundle run`` as a user types it."""
    return warm.python("-m", "monai.bundle", "run", *words, cwd=cwd)


def study(axcodes: str = "RAS", **knobs) -> tuple[dict, np.ndarray]:
    """A phantom as the first stage hands it over in memory, and its labels."""
    ct, label, affine = phantom.make_phantom(SIZE, SPACING, axcodes=axcodes, **knobs)
    prob = np.where(label > 0, 0.9, 0.0).astype(np.float32)
    return {k: MetaTensor(v[None].astype(np.float32), affine=affine) for k, v in (("image", ct), ("prob", prob))}, label


def slice_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("gop", [1, 3, 5])
@pytest.mark.parametrize("combine", ["multiply", "concat"])
@pytest.mark.parametrize("mask_source", ["prob", "binary", "dilated", "manual", "none"])
def test_every_arm_of_the_experiment_trains(data, tmp_path, mask_source, combine, gop):
    workflow = train(data, tmp_path, mask_source=mask_source, combine=combine, gop=gop, val_list=[])
    assert workflow.trainer.state.iteration == 1
    state = torch.load(tmp_path / "model_final.pt", weights_only=True)
    assert state["members.0.input_block.conv1.conv.weight"].shape[1] == gop * (2 if combine == "concat" else 1)


def test_training_keeps_the_best_and_draws_its_curves(data, tmp_path):
    workflow = train(data, tmp_path, epochs=2)
    assert {p.name for p in tmp_path.glob("model*.pt")} == {"model.pt", "model_final.pt"}
    assert list((tmp_path / "tensorboard").glob("events*"))
    metrics = workflow.evaluator.state.metrics
    assert {"val_auc", "val_accuracy", "val_tpr", "val_fpr"} == set(metrics)
    assert 0 <= metrics["val_auc"] <= 1


def test_training_stops_when_the_validation_no_longer_improves_and_a_resume_knows_for_how_long(data, tmp_path):
    still = {"learning_rate": 1e-30, "ema_momentum": 1e-30, "ema_warmup": 1e-30, "patience": 2}
    still["schedule_epochs"] = 9
    train(data, tmp_path, epochs=2, **still)
    resumed = train(data, tmp_path, epochs=9, **still)
    assert resumed.trainer.state.epoch == 3  # the first score, and two that are no better
    assert train(data, tmp_path / "without", epochs=4, **{**still, "patience": 0}).trainer.state.epoch == 4


def test_killed_training_resumes_at_the_last_epoch(data, tmp_path):
    train(data, tmp_path, schedule_epochs=3)
    (tmp_path / "last_checkpoint_epoch=2.pt").write_bytes(b"cut short by the kill")
    resumed = train(data, tmp_path, epochs=3)
    assert resumed.trainer.state.epoch == 3
    assert resumed.trainer.state.iteration == 3  # one of them is the first run's


def test_a_training_that_goes_on_draws_anew_and_each_time_alike(data, tmp_path):
    check_draws_of_one_that_goes_on(train, data, tmp_path)


def test_resumed_training_still_knows_its_best_score(data, tmp_path):
    check_best_score_is_known_again(train, data, tmp_path)


def test_a_validation_of_one_class_has_no_auc_and_says_so(tmp_path, caplog):
    cases = [save_case(tmp_path, str(seed), seed=seed, tumours=seed) for seed in range(2)]
    (tmp_path / "datalist_prob.json").write_text(json.dumps({"training": cases[1:], "validation": cases[:1]}))
    workflow = train(tmp_path, tmp_path / "run")
    assert np.isnan(workflow.evaluator.state.metrics["val_auc"]) and workflow.trainer.state.epoch == 1
    assert "AUC is nan: the slices are all with tumour, or all without." in caplog.text


def test_training_without_studies_says_so(tmp_path):
    with pytest.raises(SystemExit, match="ERROR .*datalist_prob.json: no study found"):
        train(tmp_path, tmp_path / "run")


@pytest.mark.parametrize("overlays", [(), ("evaluate.json",)])
def test_files_that_do_not_fit_are_named_before_training(tmp_path, overlays):
    cases = [save_case(tmp_path, str(seed), seed=seed) for seed in range(3)]
    ct, _, affine = phantom.make_phantom(SIZE, SPACING)
    save_prob(tmp_path / cases[1]["prob"], np.zeros((SIZE[0], SIZE[1], SIZE[2] - 1)), affine)
    (tmp_path / cases[2]["label"]).write_bytes(b"")
    (tmp_path / "datalist_prob.json").write_text(json.dumps({"training": cases[:1], "validation": cases[1:]}))
    with pytest.raises(SystemExit) as stop:
        train(tmp_path, tmp_path / "run", *overlays)
    first, second = str(stop.value).splitlines()
    assert first.startswith(f"ERROR {tmp_path / cases[1]['prob']}: lies on another grid")
    assert second.startswith(f"ERROR {tmp_path / cases[2]['label']}: not a readable image")


def test_groups_are_drawn_balanced_and_labelled_right():
    from scripts.cls_groups import DrawGroupsd, group_labels

    z = torch.arange(20.0)
    label = ((z >= 5) & (z < 8)).float()
    draw = DrawGroupsd(num=12, gop=3, pos_fraction=0.5, reverse_prob=0.0).set_random_state(seed=0)
    item = {"image": z.expand(1, 2, 2, 20), "label": group_labels(label > 0, 3)}
    item |= {key: torch.ones(1, 2, 2, 20) for key in ("mask", "liver")} | {"tumour": label.expand(1, 2, 2, 20)}
    item |= {"density": torch.zeros(1, 2, 2, 20)}
    groups = draw(item)
    assert sum(g["label"].amax().item() for g in groups) == 6
    for group in groups:
        below, centre, above = group["image"][:, 0, 0].tolist()
        assert group["label"].shape == (2, 2, 2) and not group["label"][1].any()
        assert group["label"].amax() == max(label[int(i)] for i in (below, centre, above))
        assert below == max(0, centre - 1) and above == min(19, centre + 1)
    turned = DrawGroupsd(num=4, gop=3, reverse_prob=1.0)(item)
    assert all(g["image"][0, 0, 0] >= g["image"][2, 0, 0] for g in turned)


def test_drawn_lesions_lie_in_the_liver_and_are_labelled():
    from scripts.cls_lesions import RandTumourd

    liver = torch.zeros(3, 48, 48)
    liver[:, 8:40, 8:32] = 1
    item = {"image": torch.zeros(3, 48, 48), "liver": liver, "label": torch.zeros(2, 48, 48)}
    draw = RandTumourd(prob=1.0).set_random_state(seed=0)
    for _ in range(20):
        out = draw(item)
        lesion = out["label"][0] > 0
        assert 0 < lesion.sum() < 0.9 * liver[0].sum() and not lesion[liver[0] == 0].any()
        assert (out["image"][:, lesion].abs() > 0.2).all() and not out["image"][:, liver[0] == 0].any()
    assert not RandTumourd(prob=0.0)(item)["label"].any()
    assert not draw({**item, "liver": liver * 0})["label"].any()


def test_shading_is_smooth_and_moves_the_liver_from_zero():
    from scripts.cls_intensity import RandShadingd

    item = {"image": torch.zeros(3, 48, 48), "label": torch.zeros(1, 48, 48)}
    shade = RandShadingd(prob=1.0).set_random_state(seed=0)
    fields = [shade(item)["image"] for _ in range(20)]
    assert sum(field.std() > 0.1 for field in fields) > 5
    for field in fields:
        assert torch.equal(field[0], field[2]) and field.diff(dim=1).abs().max() < 0.3
    assert torch.equal(RandShadingd(prob=0.0)(item)["image"], item["image"])


def test_logits_are_smoothed_by_distance_and_calibrated():
    config = parser(smooth_mm=2.0, calibration=[2.0, -1.0])
    logits, z = torch.tensor([0.0, 0.0, 4.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 4.0, 6.0, 60.0])
    out = config.get_parsed_content("score")({"pred": logits.clone(), "slice_z": z})
    weights = torch.exp(-0.5 * (torch.tensor([4.0, 2.0, 0.0, 2.0]) / 2) ** 2)
    middle = 4 / weights.sum()
    torch.testing.assert_close(torch.as_tensor(out["pred"][2]), torch.sigmoid(2 * middle - 1))
    assert out["pred"][4] == pytest.approx(torch.sigmoid(torch.tensor(-1.0)).item())  # nobody is near
    assert float(out["study_probability"]) == pytest.approx(float(out["pred"].max()))
    plain = parser(smooth_mm=0.0, calibration=[1.0, 0.0]).get_parsed_content("score")(
        {"pred": logits.clone(), "slice_z": z}
    )
    torch.testing.assert_close(torch.as_tensor(plain["pred"]), torch.sigmoid(logits))


def test_the_loss_asks_for_the_lesion_and_for_the_slice():
    from monai.losses import DiceCELoss
    from scripts.cls_loss import LesionAndSliceLoss

    loss, lesion = LesionAndSliceLoss(DiceCELoss(sigmoid=True), slice_weight=2.0), DiceCELoss(sigmoid=True)
    logits, target = torch.full((2, 1, 8, 8), -3.0), torch.zeros(2, 2, 8, 8)
    target[0, 0, 2:4, 2:4] = 1
    logits[1, 0, 5, 5] = 1.0  # one wrong pixel makes the second slice's answer
    slices = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([-3.0, 1.0]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss(logits, target), lesion(logits, target[:, :1]) + 2 * slices)


def test_area_pulls_the_sum_and_leaves_open_where():
    from monai.losses import DiceCELoss
    from scripts.cls_loss import LesionAndSliceLoss

    loss = LesionAndSliceLoss(DiceCELoss(sigmoid=True), slice_weight=0.0, area_weight=1.0)
    target = torch.zeros(1, 2, 16, 16)
    target[:, 1, 4:12, 4:12] = 20 / 64  # twenty pixels of tumour, somewhere in the liver

    def gradient(level: float) -> torch.Tensor:
        logits = torch.full((1, 1, 16, 16), level, requires_grad=True)
        loss(logits, target).backward()
        return logits.grad[0, 0, 4:12, 4:12]

    assert (gradient(-6.0) < 0).all() and (gradient(3.0) > 0).all()  # too little grows, too much shrinks
    assert gradient(-6.0).std() < 1e-6  # no pixel before the others
    target[:, 1] = target[:, 1].clamp(max=1e-6)  # of unknown area: nothing to hold the pixels to
    assert not gradient(-6.0).any()


def test_groups_without_outline_say_that_there_is_tumour():
    from scripts.cls_groups import TumourDensityd
    from scripts.cls_loss import tumour_in_group

    liver = torch.zeros(1, 8, 8, 1)
    liver[:, 2:6, 2:6] = 1
    of = TumourDensityd(spacing=2.0)
    area = of({"liver": liver, "tumour_present": 1, "tumour_area_mm2": 16.0})["density"]
    assert area.sum().item() == pytest.approx(4) and not area[liver == 0].any()  # pixels of 2 mm
    unknown = of({"liver": liver, "tumour_present": 1})["density"]
    free = of({"liver": liver, "tumour_present": 0})["density"]
    assert 0 < unknown.max() <= 1e-6 and not free.any()
    targets = torch.stack([torch.cat([torch.zeros(1, 8, 8), d[..., 0]]) for d in (area, unknown, free)])
    assert tumour_in_group(targets).tolist() == [True, True, False]


def test_grafts_lie_in_the_liver_and_keep_their_contrast():
    from scripts.cls_grafts import RandGraftd

    liver = torch.zeros(3, 48, 48)
    liver[:, 8:40, 8:32] = 1
    donor = {"image": torch.zeros(3, 48, 48), "liver": liver, "label": torch.zeros(2, 48, 48)}
    donor["label"][0, 20:30, 12:22] = 1
    donor["image"][:, 20:30, 12:22] = -2.0
    host = {"image": torch.zeros(3, 48, 48), "liver": liver, "label": torch.zeros(2, 48, 48)}
    graft = RandGraftd(prob=1.0).set_random_state(seed=0)
    assert graft(host) is not None and not graft(host)["label"].any()  # none has been seen
    graft(donor)
    for _ in range(20):
        out = graft(host)
        tumour = out["label"][0] > 0
        assert not tumour[liver[0] == 0].any() and not out["image"][:, liver[0] == 0].any()
        assert -2.7 <= out["image"].min() <= -0.6 and out["image"].max() <= 0.01  # 0.6 to 1.3 times as dark
        assert not tumour.any() or out["image"][:, tumour].mean() < -0.5
        assert not out["label"][1].any() and not host["label"].any()
    whole = {**host, "label": torch.stack([torch.zeros(48, 48), liver[0] * 1e-6])}
    assert torch.equal(graft(whole)["image"], host["image"])  # tumour without outline: left alone


def test_slices_of_a_volume_without_outlines_are_known_where_listed():
    from scripts.cls_groups import DrawGroupsd, SliceLabelsd, TumourDensityd

    item = {"label": torch.ones(1, 4, 4, 8), "liver": torch.ones(1, 4, 4, 8), "slices": torch.arange(17, 9, -1)}
    item |= {"tumour_label": False, "tumour_in": [12], "tumour_free": [17, 16]}
    known = SliceLabelsd(gop=1)(item)
    assert known["label"].tolist() == [0, 0, -1, -1, -1, 1, -1, -1]
    density = TumourDensityd(spacing=2.0)(known)
    assert density["density"].amax((0, 1, 2)).tolist() == pytest.approx([0, 0, 0, 0, 0, 1e-6, 0, 0])
    density |= {"mask": item["liver"], "tumour": torch.zeros(1, 4, 4, 8)}
    density["image"] = torch.arange(8.0).expand(1, 4, 4, 8)
    drawn = DrawGroupsd(num=6, gop=1).set_random_state(seed=0)(density)
    assert {int(group["image"].max()) for group in drawn} <= {0, 1, 5} and len(drawn) == 3
    assert SliceLabelsd(gop=1)({**item, "tumour_in": [], "tumour_free": []})["label"].tolist() == [-1] * 8


@pytest.mark.parametrize("gop, labels", [
    (1, [0, 0, 0, -1, 1, -1, 0, 0, 0, -1]),
    (3, [0, 0, -1, -1, 1, -1, -1, 0, 0, -1]),
    (5, [0, -1, 1, -1, 1, -1, 1, -1, 0, -1]),
])  # fmt: skip
def test_a_group_with_a_slice_in_doubt_is_unknown_unless_another_shows_tumour(gop, labels):
    from scripts.cls_groups import SliceLabelsd

    label = torch.ones(1, 4, 4, 10)
    label[..., 9] = 0  # above the liver: neither slice 9 itself nor its neighbours need be listed for it
    item = {"label": label, "slices": torch.arange(10), "tumour_label": False}
    item |= {"tumour_in": [4], "tumour_free": [0, 1, 2, 6, 7, 8]}  # of 3 and 5 nothing is known
    assert SliceLabelsd(gop)(item)["label"].tolist() == labels


def write_slice(folder: Path, case: dict[str, str], name: str, **known) -> dict:
    """Write a slice of a case that shows liver as a file of its own; returns its datalist entry."""
    entry = {"case_id": name, "tumour_label": False, **known}
    where = np.asanyarray(nib.load(folder / case["label"]).dataobj) > 0
    z = int(where.sum((0, 1)).argmax())
    for key in ("image", "label", "prob"):
        entry[key] = f"{name}_{key}.nii.gz"
        nib.save(nib.load(folder / case[key]).slicer[:, :, z : z + 1], folder / entry[key])
    return entry


def test_isolated_slices_and_volumes_without_outlines_train_as_far_as_they_are_known(tmp_path):
    cases = [save_case(tmp_path, str(seed), seed=seed) for seed in range(7)]
    slices = [
        write_slice(tmp_path, cases[0], "slice-0-1", tumour_present=1, tumour_area_mm2=500.0),
        write_slice(tmp_path, cases[1], "slice-1-1", tumour_present=0),
        write_slice(tmp_path, cases[2], "slice-2-1"),
    ]
    for one, other in ((cases[1], cases[2]), (cases[5], cases[6])):
        one["tumour_label"] = False
        other |= {"tumour_label": False, "tumour_in": [10], "tumour_free": [11, 12]}
    content = {"training": cases[:3], "training_slices": slices, "validation": cases[3:]}
    (tmp_path / "datalist_prob.json").write_text(json.dumps(content))
    workflow = train(tmp_path, tmp_path / "run", volume_repeats=1)
    used = [entry["case_id"] for entry in workflow.train_dataset_data]
    assert used == ["volume-0", "volume-2", "slice-0-1", "slice-1-1"]
    assert workflow.trainer.state.epoch == 1 and np.isfinite(workflow.trainer.state.output[0]["loss"])
    assert (tmp_path / "run" / "model.pt").exists()
    out = tmp_path / "eval"
    train(tmp_path, tmp_path, "evaluate.json", ckpt_path=str(tmp_path / "run" / "model.pt"), output_dir=str(out))
    rows = slice_table(out / "slices.csv")
    assert {r["case"] for r in rows} == {"volume-3", "volume-4", "volume-6"}
    assert {int(r["slice"]) for r in rows if r["case"] == "volume-6"} == {10, 11}  # 13 is unknown


@pytest.mark.parametrize("gop, positive", [(1, [5, 6]), (3, [4, 5, 6, 7]), (5, [3, 4, 5, 6, 7, 8])])
def test_a_group_is_positive_when_any_of_its_slices_shows_tumour(gop, positive):
    from scripts.cls_groups import SliceLabelsd

    label = torch.zeros(1, 8, 8, 12)
    label[:, 2:6] = 1
    label[0, 3, 3, 5:7] = 2
    assert SliceLabelsd(gop)({"label": label})["label"].nonzero().flatten().tolist() == positive


# ----------------------------------------------------------------------------------------- evaluation


def test_evaluation_scores_agree_with_its_table(data, tmp_path, weights):
    out = tmp_path / "eval"
    workflow = train(data, tmp_path, "evaluate.json", ckpt_path=str(weights), output_dir=str(out))
    rows = slice_table(out / "slices.csv")
    assert {r["case"] for r in rows} == {"volume-2", "volume-3"}
    label, p = (np.array([float(r[k]) for r in rows]) for k in ("label", "probability"))
    pairs = p[label == 1][:, None] - p[label == 0]
    metrics = workflow.evaluator.state.metrics
    assert metrics["val_auc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=2e-3)
    assert metrics["val_accuracy"] == pytest.approx(((p >= 0.5) == label).mean())
    assert metrics["val_tpr"] == pytest.approx((p >= 0.5)[label == 1].mean())
    assert metrics["val_fpr"] == pytest.approx((p >= 0.5)[label == 0].mean())
    assert (out / "metrics.csv").exists()


def test_evaluation_considers_the_liver_and_five_slices_around_it(data, tmp_path, weights):
    train(data, tmp_path, "evaluate.json", ckpt_path=str(weights), output_dir=str(tmp_path))
    for case in ("2", "3"):
        label = np.asarray(nib.load(data / f"segmentation-{case}.nii.gz").dataobj)
        liver = np.flatnonzero((label > 0).any((0, 1)))
        expected = range(max(0, liver[0] - 5), min(SIZE[2], liver[-1] + 6))
        rows = [r for r in slice_table(tmp_path / "slices.csv") if r["case"] == f"volume-{case}"]
        assert sorted(int(r["slice"]) for r in rows) == list(expected)


def test_training_twice_with_one_seed_gives_the_same_weights(data, tmp_path):
    check_one_seed_gives_one_network(train, data, tmp_path)


@pytest.mark.parametrize("overlays", [("multi_gpu_train.json",), ("evaluate.json", "multi_gpu_evaluate.json")])
def test_two_processes(data, tmp_path, weights, overlays):
    knobs = {**QUICK, "bundle_root": BUNDLE, "dataset_dir": data, "ckpt_dir": tmp_path, "output_dir": tmp_path / "eval"}
    knobs |= {"ckpt_path": weights, "studies_per_batch": 1, "tracker": "mlflow"}
    words = [w for k, v in knobs.items() for w in (f"--{k}", str(v))]
    files = str([str(CONFIGS / name) for name in ("train.json", *overlays)])
    done = warm.python(*warm.TORCHRUN, "-m", "monai.bundle", "run", "--config_file", files, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    with contextlib.closing(sqlite3.connect(tmp_path / "mlruns.db")) as store:  # rank 0 alone logs
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]
    if "evaluate.json" in overlays:
        assert {r["case"] for r in slice_table(tmp_path / "eval" / "slices.csv")} == {"volume-2", "volume-3"}
        return
    assert {"model.pt", "model_final.pt"} == {p.name for p in tmp_path.glob("model*.pt")}
    state = torch.load(tmp_path / "last_checkpoint_epoch=1.pt", weights_only=True)
    assert not any(k.startswith("module.") for k in state["model"])  # plain names, so that one process can go on
    steps = [k for k in state["model"] if k.endswith("num_batches_tracked")]
    assert steps and all(0 < state["averaged"][k] == state["model"][k] for k in steps)  # averaged at every step


# ------------------------------------------------------------------------------------------ inference


@pytest.mark.parametrize("elsewhere", [False, True])
def test_inference_from_the_command_line(data, tmp_path, elsewhere):
    config, where = (CONFIGS / "inference.json", tmp_path) if elsewhere else ("configs/inference.json", BUNDLE)
    words = ["--bundle_root", BUNDLE] if elsewhere else []
    words += ["--dataset_dir", data, "--pattern", "volume-1.nii.gz", "--prob_dir", data / "prob"]
    done = bundle_run("--config_file", config, *words, "--output_dir", tmp_path / "out", cwd=where)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "out" / "volume-1"
    assert sorted(p.name for p in folder.iterdir()) == [
        "volume-1_lesion_prob.nii.gz",
        "volume-1_slices.csv",
        "volume-1_tumour.json",
    ]
    rows = slice_table(folder / "volume-1_slices.csv")
    summary = json.loads((folder / "volume-1_tumour.json").read_text())
    p = [float(r["tumour_probability"]) for r in rows]
    assert summary["tumour_probability"] == pytest.approx(max(p), abs=1e-6)
    assert summary["flagged_slices"] == sorted(int(r["slice"]) for r in rows if float(r["tumour_probability"]) >= 0.5)


def test_without_a_mask_none_is_needed_on_disk(data, tmp_path):
    words = ["--dataset_dir", data, "--pattern", "volume-1.nii.gz", "--output_dir", tmp_path, "--mask_source", "none"]
    done = bundle_run("--config_file", "configs/inference.json", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(slice_table(tmp_path / "volume-1" / "volume-1_slices.csv")) == SIZE[2]


@pytest.mark.parametrize("axcodes", AXCODES)
def test_slices_are_named_by_their_index_in_the_file_in_every_orientation(axcodes):
    """The network sees the same in every orientation, and each slice knows where it lies in file and world."""
    config = parser(**SMALL)
    reference, _ = study(noise=0.0)
    item, label = study(axcodes, noise=0.0)
    expected, found = (config.get_parsed_content("transform")(i) for i in (reference, item))
    torch.testing.assert_close(found["image"], expected["image"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found["slice_z"], expected["slice_z"])
    axis = next(i for i, code in enumerate(axcodes) if code in "IS")
    n = label.shape[axis]
    flipped = n - 1 - expected["slices"] if axcodes[axis] == "I" else expected["slices"]
    assert found["slices"].tolist() == flipped.tolist()
    middle = [(s - 1) / 2 for s in label.shape]
    for index, z in zip(found["slices"].tolist(), found["slice_z"].tolist()):
        middle[axis] = index
        assert nib.affines.apply_affine(item["image"].affine.numpy(), middle)[2] == pytest.approx(z, abs=1e-3)


@pytest.mark.parametrize("spacing", [(8.0, 8.0, 10.0), (4.0, 4.0, 10.0), (2.0, 3.0, 10.0)])
def test_ct_of_any_resolution_looks_alike(spacing):
    extent = [n * s for n, s in zip(SIZE, SPACING)]
    size = tuple(round(e / s) for e, s in zip(extent, spacing))
    config = parser(**SMALL, combine="multiply")
    images = []
    for n, s in ((SIZE, SPACING), (size, spacing)):
        ct, label, affine = phantom.make_phantom(n, s, noise=0.0, tumours=0)
        prob = (label > 0).astype(np.float32)
        item = {k: MetaTensor(v[None].astype(np.float32), affine=affine) for k, v in (("image", ct), ("prob", prob))}
        images.append(config.get_parsed_content("transform")(item)["image"])
    depth = min(i.shape[-1] for i in images)
    assert (images[0][..., 3:depth] - images[1][..., 3:depth]).abs().mean() < 0.05


@pytest.mark.parametrize("combine", ["multiply", "concat"])
def test_the_tumour_logit_is_differentiable_with_respect_to_the_prob_mask(combine):
    config = parser(**QUICK, combine=combine)
    item, label = study()
    prob = item["prob"].as_tensor().clone().requires_grad_()
    item["prob"] = MetaTensor(prob, affine=item["image"].affine)
    image = config.get_parsed_content("transform")(item)["image"]
    network = config.get_parsed_content("network").eval()
    config.get_parsed_content("inferer")(image[None], network).sum().backward()
    assert prob.grad.abs()[0][label > 0].mean() > 0
    assert torch.isfinite(prob.grad).all()


def test_a_dilated_mask_reaches_so_many_mm_whatever_the_spacing():
    from scripts.cls_masks import SelectMaskd

    prob = torch.zeros(1, 20, 20, 12)
    prob[0, 8:12, 8:12, 5:7], prob[0, 0, 0, 0] = 0.6, 0.4
    mask = MetaTensor(prob, affine=np.diag([2.0, 1.0, 5.0, 1]))
    out = SelectMaskd("dilated", dilate_mm=5.0)({"prob": mask})["mask"][0]
    x, y, z = (out.sum(axes).nonzero().flatten().tolist() for axes in ((1, 2), (0, 2), (0, 1)))
    assert (x[0], x[-1]) == (6, 13) and (y[0], y[-1]) == (3, 16) and (z[0], z[-1]) == (4, 7)
    assert out[6, 3, 5] == 0  # a ball, not a box
    assert not SelectMaskd("dilated")({"prob": mask * 0})["mask"].any()


def test_a_word_that_a_knob_does_not_know_is_refused_with_those_it_does():
    from scripts.cls_intensity import NormaliseLiverd
    from scripts.cls_masks import CombineMaskd, SelectMaskd

    sources = "Choose one of prob, binary, dilated, manual, none."
    for make, word, line in (
        (SelectMaskd, "probability", f"mask_source is 'probability'. {sources}"),
        (SelectMaskd, None, f"mask_source is None. {sources}"),
        (CombineMaskd, "add", "combine is 'add'. Choose multiply or concat."),
        (NormaliseLiverd, "LIVER", "normalise is 'LIVER'. Choose liver or fixed."),
    ):
        with pytest.raises(ValueError, match=re.escape(line)) as error:
            make(word)
        assert str(error.value) == line


def test_the_liver_lies_at_zero_and_a_tumour_below_it():
    item, label = study(seed=1)
    config = parser(**SMALL, combine="multiply")
    image = config.get_parsed_content("transform")({**item})["image"]
    brighter = config.get_parsed_content("transform")({**item, "image": item["image"] + 20})["image"]
    assert image.median().abs() < 0.1 and image.min() < -0.8
    assert (image - brighter).abs().mean() < 0.05  # the study's own level is taken away


def test_islands_of_the_prob_mask_do_not_widen_what_is_considered():
    item, _ = study()
    plain = parser(**SMALL).get_parsed_content("transform")({k: v.clone() for k, v in item.items()})
    item["prob"][0, 2:4, 2:4, 0] = 0.9
    assert torch.equal(parser(**SMALL).get_parsed_content("transform")(item)["slices"], plain["slices"])


def test_without_any_mask_the_whole_volume_is_considered():
    item, _ = study()
    out = parser(**SMALL, mask_source="none").get_parsed_content("transform")({"image": item["image"]})
    assert out["slices"].tolist() == list(range(SIZE[2]))
    assert out["image"].max() == pytest.approx(2.0)  # (160 - 100) / 30: there is no liver to take the level from


def test_bf16_agrees_with_float32():
    item, _ = study()
    probabilities = []
    for bf16 in (False, True):
        config = parser(**SMALL, bf16=bf16, device="$torch.device('cpu')")
        network = config.get_parsed_content("network").eval()
        network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
        image = config.get_parsed_content("transform")({k: v.clone() for k, v in item.items()})["image"]
        with torch.inference_mode():
            probabilities.append(config.get_parsed_content("inferer")(image[None], network).sigmoid())
    assert probabilities[0].shape == (1, image.shape[-1])
    assert (probabilities[0] - probabilities[1]).abs().max() <= 0.02


@pytest.mark.parametrize("combine", ["multiply", "concat"])
def test_a_slice_is_judged_from_its_neighbours_in_the_same_order_as_in_training(combine):
    config = parser(**QUICK, combine=combine, bf16=False, mirrored=False)
    network, inferer = config.get_parsed_content("network").eval(), config.get_parsed_content("inferer")
    channels = 2 if combine == "concat" else 1
    volume = torch.rand(1, channels, 32, 32, 9)
    volume[:, 1:] = 1  # all liver
    group = torch.cat([volume[0, c, ..., 3:6].permute(2, 0, 1) for c in range(channels)])
    with torch.inference_mode():
        whole, alone = inferer(volume, network), inferer(group[None], network)
        volume[..., 5] = 0
        moved = (inferer(volume, network) - whole).abs()[0] > 0
    assert alone.shape == (1, 1, 32, 32)
    torch.testing.assert_close(whole[0, 4], alone.amax(), atol=1e-4, rtol=1e-4)
    assert moved[4:7].all() and not moved[:4].any() and not moved[7:].any()


def test_a_study_and_its_mirror_image_are_judged_alike():
    volume, answers = torch.rand(1, 2, 32, 32, 5), {}
    for mirrored in (False, True):
        config = parser(**QUICK, combine="concat", bf16=False, mirrored=mirrored)
        torch.manual_seed(0)
        network, inferer = config.get_parsed_content("network").eval(), config.get_parsed_content("inferer")
        network = network.members[0]  # which sees both images, as any network but an ensemble of two
        with torch.inference_mode():
            answers[mirrored] = [inferer(image, network) for image in (volume, volume.flip(3))]
    plain, both = answers[False], answers[True]
    assert (plain[0] - plain[1]).abs().max() > 1e-4
    torch.testing.assert_close(both[0], both[1])
    torch.testing.assert_close(both[0], (plain[0] + plain[1]) / 2)


@pytest.mark.parametrize("mm, in_turn", [(2.0, True), (5.0, False)])
def test_thin_slices_are_judged_in_turn_as_they_are_and_mirrored(mm, in_turn):
    volume = MetaTensor(torch.rand(2, 32, 32, 5), affine=torch.diag(torch.tensor([2.0, 2.0, mm, 1.0])))
    config = parser(**QUICK, combine="concat", bf16=False)
    network, inferer = config.get_parsed_content("network").eval(), config.get_parsed_content("inferer")
    with torch.inference_mode():
        answers = inferer.answers(volume[None], network)[0]
        both = inferer.answers(volume[None].as_tensor(), network)[0]
    assert both.shape[:2] == (5, 2)
    wanted = both[torch.arange(5), torch.tensor([0, 1, 0, 1, 0]), None] if in_turn else both
    torch.testing.assert_close(answers, wanted)
    with torch.inference_mode():
        assert inferer.answers(volume[None, ..., :1], network).shape[2] == 2  # alone, a slice is seen both ways


# ------------------------------------------------------------------------------------------ bad input


def bad_studies(folder: Path) -> list[tuple[dict[str, str], str, str]]:
    """Every kind of bad study: its entry, the key of the file to blame, and a word its error line must hold."""
    ct, label, affine = phantom.make_phantom(SIZE, SPACING)
    prob = (label > 0).astype(np.float32)
    moved = affine.copy()
    moved[2, 3] += 10
    probs = {
        "other_shape": (prob[:, :, 2:], affine, "differ in shape"),
        "other_place": (prob, moved, "mm apart"),
        "percent": (prob * 100, affine, "not probabilities"),
        "no_liver": (prob * 0.2, affine, "no liver found"),
        "of_another": (np.roll(prob, 5, axis=1), affine, "as in a mask of another CT"),
    }
    for name, (values, matrix, _) in {"good_ct": (ct, affine, ""), "good": (prob, affine, ""), **probs}.items():
        save_with_affine(folder / f"{name}.nii.gz", values, matrix)
    cts = save_bad_cts(folder, ct, affine) | {"missing.nii.gz": "no such file"}
    blamed = [(name, "good.nii.gz", "image", cause) for name, cause in cts.items()]
    blamed += [("good_ct.nii.gz", f"{name}.nii.gz", "prob", cause) for name, (_, _, cause) in probs.items()]
    blamed += [("good_ct.nii.gz", "missing.nii.gz", "prob", "no such file")]
    paths = [({"image": str(folder / i), "prob": str(folder / p)}, key, cause) for i, p, key, cause in blamed]
    return [*paths, ({"image": f"{folder}/good_ct.nii.gz"}, "image", "no prob given")]


def test_bad_studies_get_one_line_each_and_stop_no_other(data, tmp_path):
    bad = bad_studies(tmp_path)
    good = {"image": str(data / "volume-0.nii.gz"), "prob": str(data / "prob/volume-0/volume-0_prob.nii.gz")}
    named = [{**entry, "case_id": str(number)} for number, (entry, _, _) in enumerate(bad)]  # some are of one CT
    studies = json.dumps([*named, good])
    done = bundle_run(
        "--config_file", "configs/inference.json", "--datalist", studies, "--output_dir", tmp_path / "out"
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(lines) == len(bad) and "Traceback" not in done.stdout + done.stderr
    for line, (entry, key, cause) in zip(lines, bad):
        assert line.startswith(f"ERROR {entry[key]}") and cause in line
    made = [p.name for p in sorted((tmp_path / "out").rglob("*.*"))]
    assert made == ["volume-0_lesion_prob.nii.gz", "volume-0_slices.csv", "volume-0_tumour.json"]


def test_unwritable_output_is_named(data, tmp_path, capsys):
    (tmp_path / "out").write_text("a file where the folder should be")
    entry = {"image": str(data / "volume-0.nii.gz"), "prob": str(data / "prob/volume-0/volume-0_prob.nii.gz")}
    with pytest.raises(SystemExit):
        run_workflow(BUNDLE, "inference.json", datalist=[entry], output_dir=str(tmp_path / "out"))
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("ERROR") and "cannot be written" in line]) == 1


def test_both_bundles_work_in_one_process(data):
    sys.path.append(str(ROOT / "bundles" / "liver_seg"))
    seg, cls = ConfigParser(), parser(**SMALL)
    seg.read_config(ROOT / "bundles" / "liver_seg" / "configs" / "inference.json")
    ct = seg.get_parsed_content("load")({"image": str(data / "volume-0.nii.gz")})["image"]
    prob = nib.load(data / "prob/volume-0/volume-0_prob.nii.gz").get_fdata(dtype=np.float32)
    out = cls.get_parsed_content("transform")({"image": ct, "prob": MetaTensor(prob[None], affine=ct.affine)})
    assert out["image"].shape[:3] == (2, 32, 32) and out["case"] == "volume-0"
