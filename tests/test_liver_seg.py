"""Promises of bundles/liver_seg, kept through its configs and monai.bundle's own commands."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
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
)
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from liver_ct import phantom

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "liver_seg"
CONFIGS = BUNDLE / "configs"
sys.path.append(str(BUNDLE))
QUICK = {
    "epochs": 1,
    "val_interval": 1,
    "batch_size": 2,
    "volume_repeats": 2,
    "patch": [64, 64],
    "pixdim": [4.0, 4.0, 4.0],  # half of the phantoms' pixels
    "network_def#filters": [16, 16, 16, 16, 16, 16],
}


def save_case(folder: Path, name: str, size=(48, 40, 20), spacing=(8.0, 8.0, 10.0), **knobs) -> dict[str, str]:
    """Write a phantom and its labels; returns the datalist entry."""
    ct, label, affine = phantom.make_phantom(size, spacing, **knobs)
    entry = {"image": str(folder / f"volume-{name}.nii.gz"), "label": str(folder / f"segmentation-{name}.nii.gz")}
    nib.save(nib.Nifti1Image(ct, affine), entry["image"])
    nib.save(nib.Nifti1Image(label, affine), entry["label"])
    return entry


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A datalist of two phantoms, one isolated slice and two phantoms to validate on."""
    folder = tmp_path_factory.mktemp("data")
    cases = [save_case(folder, str(seed), seed=seed) for seed in range(4)]
    middle = {}
    for key, path in cases[0].items():
        image = nib.load(path)
        middle[key] = str(folder / f"slice-{key}.nii.gz")
        nib.save(image.slicer[:, :, 12:13], middle[key])
    lists = {"training": cases[:2], "training_slices": [middle], "validation": cases[2:]}
    (folder / "datalist.json").write_text(json.dumps(lists))
    return folder


@pytest.fixture(scope="module")
def abdomen(tmp_path_factory) -> Path:
    """A phantom large enough for the shipped weights to find its liver."""
    folder = tmp_path_factory.mktemp("abdomen")
    return Path(save_case(folder, "0", size=(128, 128, 50), spacing=(3.0, 3.0, 6.0))["image"])


def train(data: Path, output: Path, *overlays: str, **knobs):
    """Run train.json with overlays in this process; returns the finished workflow."""
    places = {"datalist_file": str(data / "datalist.json"), "ckpt_dir": str(output)}
    return run_workflow(BUNDLE, "train.json", *overlays, **{**QUICK, **places, **knobs})


def bundle_run(*words):
    """``python -m monai.bundle run`` as a user types it in the bundle."""
    return warm.python("-m", "monai.bundle", "run", *words, cwd=BUNDLE)


def parser(**knobs) -> ConfigParser:
    """inference.json, ready to give its parts."""
    return inference_of(BUNDLE, **knobs)


def test_training_learns_from_volumes_and_slices_and_keeps_the_best(data, tmp_path):
    workflow = train(data, tmp_path)
    assert workflow.trainer.state.iteration == 2  # (2 volumes x 2 + 1 slice) // batch of 2
    assert {p.name for p in tmp_path.glob("*.pt")} == {"last_checkpoint_epoch=1.pt", "model.pt"}
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_killed_training_resumes_at_the_last_epoch(data, tmp_path):
    train(data, tmp_path, schedule_epochs=2)
    resumed = train(data, tmp_path, epochs=2)
    assert resumed.trainer.state.epoch == 2
    assert resumed.trainer.state.iteration == 4  # two of them are the first run's
    assert (tmp_path / "last_checkpoint_epoch=2.pt").exists()


def test_a_training_that_goes_on_draws_anew_and_each_time_alike(data, tmp_path):
    check_draws_of_one_that_goes_on(train, data, tmp_path)


def test_resumed_training_still_knows_its_best_score(data, tmp_path):
    check_best_score_is_known_again(train, data, tmp_path)


@pytest.mark.parametrize("overlays", [(), ("evaluate.json",)])
def test_pairs_that_do_not_fit_are_named_before_training(tmp_path, overlays):
    cases = [save_case(tmp_path, str(seed), seed=seed) for seed in range(3)]
    label = nib.load(cases[1]["label"])
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:, :, 1:], label.affine), cases[1]["label"])
    Path(cases[2]["label"]).unlink()
    (tmp_path / "datalist.json").write_text(json.dumps({"training": cases[:1], "validation": cases[1:]}))
    with pytest.raises(SystemExit) as stop:
        train(tmp_path, tmp_path / "run", *overlays)
    lines = str(stop.value).splitlines()
    assert [line.split(": ")[1].split(".")[0] for line in lines] == [
        "lies on another grid than its CT", "no such label"
    ]  # fmt: skip
    assert all(line.startswith(f"ERROR {case['label']}") for line, case in zip(lines, cases[1:]))


def test_training_without_studies_says_so(tmp_path):
    with pytest.raises(SystemExit, match="ERROR .*datalist.json: no study found"):
        train(tmp_path, tmp_path / "run")


def stack() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """An item of five even slices, and where its liver is, both [5, 48, 48]."""
    liver = torch.zeros(5, 48, 48)
    liver[:, 8:40, 8:32] = 1
    return {"image": torch.full((5, 48, 48), 0.5), "label": liver.clone(), "offsets": torch.arange(-2, 3)}, liver


def test_drawn_lesions_stay_in_the_liver_and_leave_its_label():
    from scripts.seg_lesions import RandLesiond

    item, liver = stack()
    draw = RandLesiond("image", "label", prob=1.0).set_random_state(seed=0)
    for _ in range(20):
        out = draw(item)
        changed = (out["image"] - 0.5).abs() > 1e-6
        assert changed.any() and not (changed & (liver == 0)).any()
        assert torch.equal(out["label"], liver) and (item["image"] == 0.5).all()
    assert torch.equal(RandLesiond("image", "label", prob=0.0)(item)["image"], item["image"])


def test_a_shifted_level_moves_the_liver_alone():
    from scripts.seg_lesions import RandLiverLeveld

    item, liver = stack()
    shift = RandLiverLeveld("image", "label", prob=1.0, shift=0.3).set_random_state(seed=0)
    levels = set()
    for _ in range(10):
        out = shift(item)["image"]
        assert (out[liver == 0] == 0.5).all() and out[liver > 0].unique().numel() == 1
        levels.add(round(float(out[liver > 0][0]), 3))
    assert len(levels) > 5
    assert all(0.2 <= level <= 0.8 for level in levels) and any(level < 0.5 for level in levels)


def test_a_drawn_mass_lies_beside_the_liver():
    from scripts.seg_lesions import RandMassd

    item, liver = stack()
    draw = RandMassd("image", "label", prob=1.0, radius=(6, 12)).set_random_state(seed=0)
    drawn = 0
    for _ in range(20):
        out = draw(item)
        changed = (out["image"] - 0.5).abs() > 0.01
        assert not (changed & (liver > 0)).any() and torch.equal(out["label"], liver)
        drawn += bool(changed.any())
    assert drawn > 15
    for label in (torch.zeros_like(liver), torch.ones_like(liver)):  # nothing to lie beside, no place for it
        assert torch.equal(draw({**item, "label": label})["image"], item["image"])


def test_training_sees_the_slices_that_inference_does():
    from scripts.seg_inferer import adjacent_slices
    from scripts.seg_slices import RandSliceStackd

    offsets = [-8, -4, -2, -1, 0, 1, 2, 4, 8]
    volume = torch.rand(1, 6, 5, 17)
    plain = RandSliceStackd(offsets, closer=1.0, alone_prob=0.0)
    out = plain({"image": volume, "label": (volume > 0.5).float()})
    assert torch.equal(out["image"], adjacent_slices(volume[0], torch.tensor([8]), offsets)[0])
    assert torch.equal(out["label"][4], (volume[0, ..., 8] > 0.5).float())
    alone = RandSliceStackd(offsets, alone_prob=1.0)({"image": volume, "label": volume})
    assert all(torch.equal(plane, volume[0, ..., 8]) for plane in alone["image"])
    lone = plain({"image": volume[..., :1], "label": volume[..., :1]})  # an isolated slice is its own neighbour
    assert all(torch.equal(plane, volume[0, ..., 0]) for plane in lone["image"])


def test_training_twice_with_one_seed_gives_the_same_weights(data, tmp_path):
    check_one_seed_gives_one_network(train, data, tmp_path)


def test_training_can_start_from_weights(data, tmp_path):
    train(data, tmp_path / "first", epochs=1)
    state = torch.load(tmp_path / "first" / "last_checkpoint_epoch=1.pt", map_location="cpu", weights_only=True)
    start = tmp_path / "start.pt"
    torch.save(state["averaged"], start)
    train(data, tmp_path / "second", epochs=1, init_path=str(start), learning_rate=1e-30, weight_decay=0.0)
    after = torch.load(tmp_path / "second" / "last_checkpoint_epoch=1.pt", map_location="cpu", weights_only=True)
    weights = [key for key in state["averaged"] if key.endswith(("weight", "bias"))]
    assert weights and all(torch.equal(after["model"][key], state["averaged"][key]) for key in weights)
    for key in weights:  # the average begins there, too, not at the random start
        torch.testing.assert_close(after["averaged"][key], state["averaged"][key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
def test_dice_weight_chooses_between_bce_and_dice(data, tmp_path, dice_weight):
    loss = train(data, tmp_path, dice_weight=dice_weight).parser.get_parsed_content("loss")
    logits, target = torch.randn(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert torch.isclose(loss(logits, target), bce) == (dice_weight == 0.0)


def test_evaluation_writes_every_metric_per_case(data, tmp_path):
    train(data, tmp_path)
    train(data, tmp_path, "evaluate.json", ckpt_path=str(tmp_path / "model.pt"), output_dir=str(tmp_path / "eval"))
    for metric in ("val_mean_dice", "slice_dice", "surface_dice_2mm", "hd95_mm"):
        rows = (tmp_path / "eval" / f"{metric}_raw.csv").read_text().splitlines()
        assert len(rows) == 3 and "volume-2" in rows[1] and "volume-3" in rows[2]


def test_evaluation_measures_are_right_on_known_masks():
    from scripts.seg_metrics import HausdorffDistanceMm, SliceDice, SurfaceDiceMm

    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    true, found = (MetaTensor(torch.zeros(1, 20, 20, 10), affine=affine) for _ in range(2))
    true[:, 4:12, 4:12, 2:8] = 1
    found[:, 6:14, 4:12, 2:8] = 1  # two voxels, 4 mm, to the side
    assert float(SliceDice()([found], [true])) == pytest.approx(2 * 48 / 128)
    assert float(HausdorffDistanceMm(include_background=True)([found], [true])) == pytest.approx(4.0)
    assert float(SurfaceDiceMm([4.0], include_background=True)([found], [true])) == pytest.approx(1.0)
    assert float(SurfaceDiceMm([2.0], include_background=True)([found], [true])) < 0.9


@pytest.mark.parametrize("overlays", [("multi_gpu_train.json",), ("evaluate.json", "multi_gpu_evaluate.json")])
def test_two_processes(data, tmp_path, overlays):
    torch.save(
        parser(**{"network_def#filters": [16] * 6}).get_parsed_content("network_def").state_dict(), tmp_path / "w.pt"
    )
    knobs = {**QUICK, "datalist_file": data / "datalist.json", "ckpt_dir": tmp_path, "output_dir": tmp_path / "eval"}
    knobs |= {"ckpt_path": tmp_path / "w.pt"} if "evaluate.json" in overlays else {}
    knobs |= {"tracker": "mlflow"}
    words = [w for k, v in knobs.items() for w in (f"--{k}", str(v))]
    files = str([f"configs/{name}" for name in ("train.json", *overlays)])
    done = warm.python(*warm.TORCHRUN, "-m", "monai.bundle", "run", "--config_file", files, *words, cwd=BUNDLE)
    assert done.returncode == 0, done.stderr[-2000:]
    with contextlib.closing(sqlite3.connect(tmp_path / "mlruns.db")) as store:  # rank 0 alone logs
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]
    made = tmp_path / ("eval/slice_dice_raw.csv" if "evaluate.json" in overlays else "last_checkpoint_epoch=1.pt")
    assert made.exists()
    if made.suffix == ".pt":  # plain names, so that one process can go on with it
        state = torch.load(made, weights_only=True)
        assert not any(k.startswith("module.") for k in state["model"])
        steps = [k for k in state["model"] if k.endswith("num_batches_tracked")]
        assert all(0 < state["averaged"][k] == state["model"][k] for k in steps) and steps  # averaged at every step


@pytest.mark.parametrize("elsewhere", [False, True])
def test_inference_from_the_command_line(abdomen, tmp_path, elsewhere):
    words = ["--dataset_dir", abdomen.parent, "--pattern", "volume-*", "--output_dir", tmp_path / "out"]
    if elsewhere:  # and without MONAI in memory
        words = map(str, ["--config_file", CONFIGS / "inference.json", "--bundle_root", BUNDLE, *words])
        command = [sys.executable, "-m", "monai.bundle", "run", *words]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    else:
        done = bundle_run("--config_file", "configs/inference.json", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    ct = nib.load(abdomen)
    prob, mask = (nib.load(tmp_path / "out" / "volume-0" / f"volume-0_{kind}.nii.gz") for kind in ("prob", "seg"))
    for image in (prob, mask):
        assert image.shape == ct.shape and image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, ct.affine, atol=1e-4)
    assert prob.dataobj.slope == pytest.approx(1 / 255, rel=1e-6)
    assert 0 <= prob.get_fdata().min() < prob.get_fdata().max() <= 1
    assert set(np.unique(mask.dataobj)) == {0, 1}
    true = np.asarray(nib.load(str(abdomen).replace("volume", "segmentation")).dataobj) > 0
    found = np.asarray(mask.dataobj) > 0
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.8


@pytest.mark.parametrize("configs", [["train"], ["train", "evaluate"], ["inference"]])
def test_slices_that_are_not_around_the_one_to_segment_are_refused(tmp_path, configs):
    files = str([str(CONFIGS / f"{name}.json") for name in configs])
    done = bundle_run("--config_file", files, "--offsets", "[-2,-1,1]", "--output_dir", tmp_path / "out")
    line = "ERROR --offsets [-2, -1, 1]: makes no sense. Give a list of whole numbers, 0 in its middle."
    assert done.returncode == 1 and [each for each in done.stderr.splitlines() if "ERROR" in each] == [line]


def test_bad_studies_get_one_line_each_and_stop_no_other(abdomen, tmp_path):
    ct, _, affine = phantom.make_phantom((48, 40, 20), (8.0, 8.0, 10.0))
    bad = save_bad_cts(tmp_path, ct, affine) | {"missing.nii.gz": "no such file", "specks.nii.gz": "no liver"}
    bad = {tmp_path / name: cause for name, cause in bad.items()}
    specks = np.where(np.random.default_rng(0).random((40, 40, 20)) < 0.02, 100, -1000)  # gone on the working grid
    nib.save(nib.Nifti1Image(specks.astype(np.int16), affine), tmp_path / "specks.nii.gz")
    studies = [*({"image": str(p)} for p in bad), {"image": str(abdomen)}]  # right after "no liver", which fails late
    done = bundle_run("--config_file", "configs/inference.json", "--datalist", json.dumps(studies),
                      "--output_dir", tmp_path / "out")  # fmt: skip
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(lines) == len(bad) and "Traceback" not in done.stdout + done.stderr
    for line, (path, cause) in zip(lines, bad.items()):
        assert line.startswith(f"ERROR {path}") and cause in line
    assert [p.name for p in sorted((tmp_path / "out").rglob("*.*"))] == ["volume-0_prob.nii.gz", "volume-0_seg.nii.gz"]


def test_unwritable_output_is_named(abdomen, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    done = bundle_run("--config_file", "configs/inference.json", "--datalist", json.dumps([{"image": str(abdomen)}]),
                      "--output_dir", tmp_path / "out")  # fmt: skip
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "cannot be written" in line]


@pytest.mark.parametrize("axcodes", AXCODES)
def test_round_trip_keeps_geometry_in_every_orientation(axcodes, tmp_path):
    """A block marked in the CT comes back where it was, on the CT's own grid."""
    spacing = {"L": 1.7, "P": 2.9, "I": 5.3}
    codes = ["L" if c in "LR" else "P" if c in "PA" else "I" for c in axcodes]
    shape = tuple({"L": 37, "P": 30, "I": 21}[c] for c in codes)
    transform = nib.orientations.axcodes2ornt(axcodes)
    affine = np.zeros((4, 4))
    for axis, (world, flip) in enumerate(transform):
        affine[int(world), axis] = flip * spacing[codes[axis]]
    affine[:, 3] = (-31.5, 12.25, 700, 1)
    ct = np.full(shape, -100, np.float32)
    block = tuple(slice(n // 4, n // 4 + n // 3) for n in shape)
    ct[block] = 160
    nib.save(nib.Nifti1Image(ct, affine), tmp_path / "ct.nii")

    config = parser()
    item = config.get_parsed_content("preprocessing")({"image": str(tmp_path / "ct.nii")})
    # logits of the network that finds what is bright; at 0.5 sharp, rounding would decide
    bright = 160 / config["hu_window"][1]
    item["pred"] = MetaTensor(item["image"].as_tensor() / bright * 8 - 3.9)
    item = config.get_parsed_content("restore")(item)

    assert item["prob"].shape[1:] == shape
    np.testing.assert_allclose(item["prob"].affine.numpy(), affine, atol=1e-5)
    found = item["pred"][0].numpy().astype(bool)
    overlap = 2 * found[block].sum() / (found.sum() + np.prod([s.stop - s.start for s in block]))
    assert overlap > 0.85
    centre = np.argwhere(found).mean(0)
    np.testing.assert_allclose(centre, [(s.start + s.stop - 1) / 2 for s in block], atol=0.4)


def test_bf16_agrees_with_float32(abdomen):
    probs = []
    for bf16 in (False, True):
        config = parser(bf16=bf16, device="$torch.device('cpu')")
        network = config.get_parsed_content("network").eval()
        network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
        image = config.get_parsed_content("preprocessing")({"image": str(abdomen)})["image"]
        with torch.inference_mode():
            probs.append(config.get_parsed_content("inferer")(image[None], network).sigmoid())
    assert probs[0].max() > 0.9
    assert (probs[0] - probs[1]).abs().max() <= 0.02


def shipped(**knobs) -> tuple[ConfigParser, torch.nn.Module]:
    """The inference config on the CPU with the shipped weights."""
    config = parser(device="$torch.device('cpu')", **knobs)
    network = config.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    return config, network


@torch.inference_mode()
def test_the_coarse_pass_loses_no_liver(tmp_path):
    """A scan twice as long as its abdomen: fewer slices are looked at, and those of the liver come out the same."""
    ct, _, affine = phantom.make_phantom((80, 64, 80), (5.0, 5.0, 8.0))
    nib.save(nib.Nifti1Image(ct, affine), tmp_path / "ct.nii.gz")
    out, seen = {}, {}
    for step in (1, 4):
        config, network = shipped(bf16=False, coarse_step=step)
        item = config.get_parsed_content("preprocessing")({"image": str(tmp_path / "ct.nii.gz")})
        slices = []
        network.register_forward_pre_hook(lambda _, x, slices=slices: slices.append(len(x[0])))
        logits = config.get_parsed_content("inferer")(item["image"][None], network)[0]
        out[step], seen[step] = config.get_parsed_content("restore")({**item, "pred": logits}), sum(slices)
    assert seen[1] == item["image"].shape[-1] and seen[4] < 0.7 * seen[1]
    assert torch.equal(out[1]["pred"], out[4]["pred"]) and out[1]["pred"].any()
    lost = out[1]["prob"].amax((0, 1, 2)) - out[4]["prob"].amax((0, 1, 2))
    liver = out[1]["pred"].amax((0, 1, 2)) > 0
    assert lost[liver].abs().max() < 1e-6  # other slices lie in a batch with it: rounding


@torch.inference_mode()
@pytest.mark.parametrize("volume", [torch.zeros(1, 1, 64, 64, 13), torch.zeros(1, 1, 64, 64, 1)])
def test_the_coarse_pass_looks_everywhere_where_it_finds_nothing(volume):
    config, network = shipped(coarse_step=4)
    logits = config.get_parsed_content("inferer")(volume, network)
    assert logits.shape == volume.shape and (logits > -20).all()


@pytest.mark.parametrize(
    "able, faster",
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"avx512_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_bf16_is_taken_where_a_cpu_is_faster_by_it(monkeypatch, able, faster):
    from scripts import seg_precision

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert seg_precision.cpu_has_bf16() is faster


@torch.inference_mode()
def test_a_cpu_whose_bf16_goes_wrong_computes_in_float32(abdomen, monkeypatch):
    from scripts import seg_precision

    monkeypatch.setattr(seg_precision, "cpu_has_bf16", lambda: True)
    out = []
    for broken in (False, True):
        config, network = shipped()
        if broken:  # as if the CPU's bfloat16 unit dropped what is small
            network.register_forward_hook(lambda _, x, y: y * 0 if torch.is_autocast_enabled("cpu") else y)
        inferer = config.get_parsed_content("inferer")
        image = config.get_parsed_content("preprocessing")({"image": str(abdomen)})["image"]
        with pytest.warns(UserWarning, match="float32 is used") if broken else contextlib.nullcontext():
            out.append(inferer(image[None], network).sigmoid())
        assert inferer.bf16 is not broken
    assert out[1].max() > 0.9 and (out[0] - out[1]).abs().max() <= 0.02


@pytest.mark.parametrize(
    "old, new", [((31, 40, 17), (12, 15, 9)), ((12, 15, 9), (31, 40, 17)), ((31, 15, 9), (12, 40, 9))]
)
def test_resampling_is_torchs_average_and_interpolation(old, new):
    from scripts.seg_resampling import resize_volume

    volume = torch.randint(-1000, 1000, (1, *old), dtype=torch.int16)
    volume[:, : old[0] // 2] = 0
    shrunk = [min(sizes) for sizes in zip(old, new)]
    expected = torch.nn.functional.adaptive_avg_pool3d(volume.float(), shrunk)
    expected = torch.nn.functional.interpolate(expected[None], size=new, mode="trilinear", align_corners=False)[0]
    for view in (volume, volume.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)):  # either order in memory
        torch.testing.assert_close(resize_volume(view, new), expected, atol=2e-2, rtol=1e-5)
    leaf = volume.float().requires_grad_()
    resize_volume(leaf, new).sum().backward()
    assert (leaf.grad > 0).all()  # also where the volume is 0


def test_the_liver_is_the_largest_component():
    from scipy import ndimage
    from scripts.seg_errors import StudyError
    from scripts.seg_io import TakeLiverd

    torch.manual_seed(0)
    prob = torch.nn.functional.avg_pool3d(torch.rand(1, 30, 26, 22), 3, stride=1, padding=1)
    liver = TakeLiverd("pred", threshold=0.55, prob_key="prob")({"pred": MetaTensor(prob)})
    parts, _ = ndimage.label((prob[0] > 0.55).numpy(), np.ones((3, 3, 3)))  # as MONAI's, which asks for scikit-image
    expected = torch.from_numpy(parts == 1 + np.bincount(parts.ravel())[1:].argmax())[None].float()
    assert 0 < expected.sum() < (prob > 0.55).sum()
    assert torch.equal(liver["pred"].float(), expected) and torch.equal(liver["prob"], prob)
    nothing = MetaTensor(prob * 0, meta={"filename_or_obj": "ct.nii.gz"})
    assert not TakeLiverd("pred", required=False)({"pred": nothing})["pred"].any()
    with pytest.raises(StudyError, match="ct.nii.gz: no liver found"):
        TakeLiverd("pred")({"pred": nothing})


def test_temperature_softens_the_prob_mask_and_leaves_the_liver_mask(abdomen):
    out = []
    for temperature in (1.0, 2.0):
        config = parser(temperature=temperature)
        item = config.get_parsed_content("transform")(config.get_parsed_content("load")({"image": str(abdomen)}))
        logits = 8 * (item["image"].as_tensor() - 0.5)  # any network's
        out.append(config.get_parsed_content("restore")({**item, "pred": logits}))
    plain, soft = (o["prob"].as_tensor() for o in out)
    assert soft.max() < plain.max() and ((soft - 0.5).abs() <= (plain - 0.5).abs() + 0.05).all()
    assert (out[0]["pred"] != out[1]["pred"]).float().mean() < 0.005  # but for the interpolation's rim


def test_a_slice_depends_on_its_neighbours():
    config = parser()
    network, inferer = config.get_parsed_content("network").eval(), config.get_parsed_content("inferer")
    inferer.coarse_step = 1
    volume = torch.rand(1, 1, 64, 64, 30)
    changed = volume.clone()
    changed[..., 15] = 0
    with torch.inference_mode():
        moved = (inferer(volume, network) - inferer(changed, network)).abs().amax((0, 1, 2, 3))
    assert moved.nonzero().flatten().tolist() == sorted(15 - offset for offset in config["offsets"])
