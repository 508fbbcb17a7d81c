"""Promises of both bundles about networks of any kind, and about the original system's recipe, an overlay of each."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import run_workflow, workflow_of
from monai.bundle import ConfigParser, ckpt_export
from monai.data import MetaTensor
from study import bundle as copy_bundle
from study import compare

from liver_ct import LiverCT, StudyError
from liver_ct.errors import find_study_error

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = ROOT / "bundles"
UNET = {
    "_target_": "UNet", "spatial_dims": 2, "out_channels": 1, "channels": [16, 16, 16], "strides": [2, 2],
    "num_res_units": 1, "norm": "batch",
}  # fmt: skip
BASIC = {"_target_": "BasicUNet", "spatial_dims": 2, "out_channels": 1, "features": [16] * 6, "norm": "batch"}
ATTENTION = {
    "_target_": "AttentionUnet", "spatial_dims": 2, "out_channels": 1, "channels": [16, 16, 16], "strides": [2, 2],
}  # fmt: skip
SEGRES = {"_target_": "SegResNet", "spatial_dims": 2, "out_channels": 1, "init_filters": 16, "norm": "batch"}
SWIN = {"_target_": "SwinUNETR", "spatial_dims": 2, "out_channels": 1, "feature_size": 12}
EINOPS = find_spec("einops") is not None  # SwinUNETR wants it
IF_EINOPS = pytest.param(SWIN, marks=pytest.mark.skipif(not EINOPS, reason="einops is not installed"))
DEEP = {**UNET, "channels": [16] * 8, "strides": [2] * 7}  # a multiple of 128
RESNET = {"_target_": "monai.networks.nets.resnet18", "spatial_dims": 2, "num_classes": 1}
DENSE = {"_target_": "DenseNet121", "spatial_dims": 2, "out_channels": 1}
EFFICIENT = {"_target_": "EfficientNetBN", "model_name": "efficientnet-b0", "spatial_dims": 2, "num_classes": 1,
             "pretrained": False}  # fmt: skip
SEG = {"patch": [72, 72], "offsets": [-1, 0, 1], "batch_size": 2, "volume_repeats": 1}
CLS = {"roi": [40, 40], "spacing": 8.0, "volume_repeats": 1, "studies_per_batch": 2, "groups_per_study": 4}
ONCE = {"epochs": 1, "val_interval": 1, "tracker": "none"}
ORIGINAL = {
    "liver_seg": {"patch": [64, 64], "volume_repeats": 1, "network_def#features": [16] * 6},
    "liver_cls": {"roi": [64, 64], "volume_repeats": 1, "studies_per_batch": 2},
}


def name_of(kind: dict) -> str:
    """Of a network, for the name of a test."""
    return f"{kind['_target_'].split('.')[-1]}-{len(kind.get('channels', ''))}"


def network(bundle: str, kind: dict) -> dict:
    """A network of a kind with the input channels that SEG or CLS ask for."""
    name = "n_input_channels" if "resnet" in kind["_target_"] else "in_channels"
    return {**kind, name: "$len(@offsets)" if bundle == "liver_seg" else "$@gop * (2 if @combine == 'concat' else 1)"}


def network_of(bundle: str, kind: dict) -> torch.nn.Module:
    """A network as the bundle's inference makes it, with random weights."""
    made = workflow_of(BUNDLES / bundle, "inference.json", network_def=kind)
    return made.parser.get_parsed_content("network_def")


def run(bundle: str, *configs: str, **knobs):
    """Run a workflow of a bundle; returns it."""
    return run_workflow(BUNDLES / bundle, *configs, **knobs)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def train_judge_and_infer(bundle: str, site: Path, folder: Path, knobs: dict, overlays: tuple[str, ...] = ()) -> Path:
    """An epoch of training, then evaluation and inference with its weights, under ``folder``."""
    case = json.loads(site.read_text())["validation"][0]
    places = {"datalist_file": str(site), "ckpt_dir": str(folder / "runs"), "output_dir": str(folder / "eval")}
    training = {**ONCE, **places, **knobs}
    trained = run(bundle, "train.json", *overlays, **training)
    assert np.isfinite(trained.trainer.state.output[0]["loss"])
    weights = str(folder / "runs" / "model.pt")
    run(bundle, "train.json", "evaluate.json", *overlays, **training, ckpt_path=weights)
    study = {key: case[key] for key in ("image", "prob", "label")[: 3 if bundle == "liver_cls" else 1]}
    unused = ("patch", "batch_size", "volume_repeats", "studies_per_batch", "groups_per_study", "ckpt_dir")
    known = {k: v for k, v in knobs.items() if overlays or k not in unused} | {"ckpt_path": weights}
    known |= {"datalist": [study], "output_dir": str(folder / "out")}
    known |= {} if bundle == "liver_cls" else {"threshold": 0.0}
    run(bundle, "inference.json", *overlays, **known)
    return folder


@pytest.mark.parametrize("bundle, sizes", [("liver_seg", SEG), ("liver_cls", CLS)])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_a_training_stay_from_epoch_to_epoch(sites, bundle, sizes, workers):
    made = workflow_of(BUNDLES / bundle, "train.json", datalist_file=str(sites[0]), num_workers=workers, **sizes)
    loader = made.parser.get_parsed_content("train#dataloader")
    assert (loader.num_workers, loader.persistent_workers) == (workers, workers > 0)
    assert len(list(loader)) == len(list(loader)) > 0


@pytest.mark.parametrize("kind", [UNET, BASIC, ATTENTION, SEGRES, DEEP, IF_EINOPS], ids=name_of)
def test_stage_1_takes_any_network_that_gives_a_map(sites, tmp_path, kind):
    train_judge_and_infer("liver_seg", sites[0], tmp_path, {**SEG, "network_def": network("liver_seg", kind)})
    assert len(rows(tmp_path / "eval" / "val_mean_dice_raw.csv")) == 1
    assert len(list((tmp_path / "out").glob("*/*_prob.nii.gz"))) == 1


@pytest.mark.parametrize("kind", [UNET, SEGRES, RESNET, DENSE, EFFICIENT, IF_EINOPS], ids=name_of)
def test_stage_2_takes_a_network_that_gives_a_map_or_a_logit(sites, tmp_path, kind):
    knobs = {**CLS, "network_def": network("liver_cls", kind)}
    train_judge_and_infer("liver_cls", sites[0], tmp_path, knobs)
    found = {row["case"] for row in rows(tmp_path / "eval" / "slices.csv")}
    assert found == {json.loads(sites[0].read_text())["validation"][0]["case_id"]}
    assert len(list((tmp_path / "out").glob("*/*_slices.csv"))) == 1


# ------------------------------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    "bundle, kind, line",
    [
        ("liver_seg", {**UNET, "in_channels": 5}, r"cannot take an input \[2, 3, 72, 72\] .*a 2D one of 3 channels"),
        (
            "liver_seg",
            {**RESNET, "n_input_channels": 3},
            r"answers .* with \[2, 1\]. Give one with one logit per pixel",
        ),
        ("liver_seg", {**UNET, "in_channels": 3, "out_channels": 2}, r".* with \[2, 2, 96, 96\]. Give one with one"),
        (
            "liver_cls",
            {**RESNET, "n_input_channels": 6, "num_classes": 2},
            r".* with \[2, 2\]. .* pixel, or one in all",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_one_line_before_training(sites, tmp_path, bundle, kind, line):
    knobs = {**(SEG if bundle == "liver_seg" else CLS), "datalist_file": str(sites[0]), "ckpt_dir": str(tmp_path)}
    with pytest.raises(SystemExit, match=f"^ERROR network_def: this network {line}") as stop:
        run(bundle, "train.json", **ONCE, **knobs, network_def=kind)
    assert "\n" not in str(stop.value) and not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("name", ["liver_seg", "liver_cls"])
def test_want_of_memory_is_not_laid_to_the_network(name):
    config = ConfigParser()
    config.read_config(str(ROOT / "bundles" / name / "configs" / "inference.json"))
    config.update({"bundle_root": str(ROOT / "bundles" / name)})
    sys.path.insert(1, config["bundle_root"])
    sizes = []

    def short(x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.shape)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        config.get_parsed_content("inferer")(torch.zeros(2, 6 if name == "liver_cls" else 9, 64, 64), short)
    assert len(sizes) == 1


@pytest.mark.skipif(EINOPS, reason="einops is installed")
def test_a_network_whose_package_is_missing_is_one_line(sites, tmp_path):
    knobs = {**SEG, **ONCE, "datalist_file": str(sites[0]), "ckpt_dir": str(tmp_path)}
    with pytest.raises(SystemExit, match=r"^ERROR network_def: this network lacks a .*einops.*\. Install it\.$"):
        run("liver_seg", "train.json", **knobs, network_def=network("liver_seg", SWIN))


@pytest.mark.parametrize("bundle", ["liver_seg", "liver_cls"])
def test_weights_of_another_network_are_one_line(bundle, sites, tmp_path):
    case = json.loads(sites[0].read_text())["validation"][0]
    kind = network(bundle, UNET)
    shipped = str(BUNDLES / bundle / "models" / "model.pt")
    lists = {"datalist_file": str(sites[0]), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "eval")}
    line = rf"^ERROR {shipped}: weights of another network than this network_def, a UNet \(first at "
    with pytest.raises(SystemExit, match=line):
        run(bundle, "train.json", **ONCE, **lists, network_def=kind, init_path=shipped)
    with pytest.raises(SystemExit, match=line):
        run(bundle, "train.json", "evaluate.json", **ONCE, **lists, network_def=kind, ckpt_path=shipped)
    with pytest.raises(SystemExit, match=line) as stop:
        run(bundle, "inference.json", network_def=kind, datalist=[case])
    assert "\n" not in str(stop.value)
    for content, cause in ((None, "no such weights"), (b"x" * 100, "damaged, or no weights")):
        path = tmp_path / "w.pt"
        if content:
            path.write_bytes(content)
        with pytest.raises(SystemExit, match=f"^ERROR {path}: {cause}"):
            run(bundle, "inference.json", network_def=kind, datalist=[case], ckpt_path=str(path))


@pytest.mark.parametrize("bundle, kind", [("liver_seg", UNET), ("liver_cls", RESNET)])
def test_another_network_is_exported_and_gives_the_same(bundle, kind, tmp_path):
    kind = {**kind, "in_channels" if kind is UNET else "n_input_channels": 3}
    made = network_of(bundle, kind)
    torch.save(made.state_dict(), tmp_path / "model.pt")
    files = {"meta_file": str(BUNDLES / bundle / "configs" / "metadata.json"), "bundle_root": str(BUNDLES / bundle)}
    files |= {"config_file": str(BUNDLES / bundle / "configs" / "inference.json")}
    ckpt_export("network_def", str(tmp_path / "model.ts"), str(tmp_path / "model.pt"), network_def=kind, **files)
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = made.eval()(x), torch.jit.load(tmp_path / "model.ts").eval()(x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


# ------------------------------------------------------------------------------------------------------- the chain


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """Both bundles with other networks of random weights: a U-Net, and a ResNet that gives one logit."""
    root = tmp_path_factory.mktemp("others")
    torch.manual_seed(0)
    for bundle, kind in (("liver_seg", {**UNET, "in_channels": 9}), ("liver_cls", {**RESNET, "n_input_channels": 6})):
        shutil.copytree(BUNDLES / bundle, root / bundle, ignore=shutil.ignore_patterns("model.pt", "eval", "runs"))
        file = root / bundle / "configs" / "inference.json"
        config = {**json.loads(file.read_text()), "network_def": kind}
        config |= {"threshold": 0.0} if bundle == "liver_seg" else CLS
        file.write_text(json.dumps(config))
        torch.save(network_of(bundle, kind).state_dict(), root / bundle / "models" / "model.pt")
    return root


@pytest.mark.parametrize("kind", [RESNET, DEEP, EFFICIENT], ids=name_of)
def test_the_chain_takes_other_networks_and_shows_their_regions(others, sites, tmp_path, kind):
    case = json.loads(sites[0].read_text())["validation"][0]
    cls = others / "liver_cls"
    if kind is not RESNET:
        cls = Path(shutil.copytree(cls, tmp_path / "liver_cls"))
        file = cls / "configs" / "inference.json"
        config = {**json.loads(file.read_text()), "network_def": {**kind, "in_channels": 6}}
        file.write_text(json.dumps(config))
        torch.save(network_of("liver_cls", config["network_def"]).state_dict(), cls / "models" / "model.pt")
    chain = LiverCT(device="cpu", seg_bundle=others / "liver_seg", cls_bundle=cls)
    chain.cls["regions"].lowest = 0.0
    study = chain(case["image"])
    ct = nib.load(case["image"])
    assert study.prob_mask.shape == ct.shape and 0 < study.result["study_tumour_probability"] < 1
    found = study.regions.values
    assert found.shape[:2] == (40, 40) and np.isfinite(found).all() and found.max() > 0


def test_the_chain_names_weights_of_another_network(others, tmp_path):
    seg = Path(shutil.copytree(others / "liver_seg", tmp_path / "liver_seg"))
    shutil.copy(others / "liver_cls" / "models" / "model.pt", seg / "models" / "model.pt")
    with pytest.raises(StudyError, match="model.pt: damaged, or not this bundle's weights"):
        LiverCT(device="cpu", seg_bundle=seg, cls_bundle=others / "liver_cls")


# ---------------------------------------------------------------------------------------- a network from ImageNet


ENCODER = str(BUNDLES / "liver_cls" / "models" / "imagenet.pt")
HALVES = {"dynunet#filters": [16] * 5, "lite_unet#decoder": [16] * 4}


def lite(**knobs) -> torch.nn.Module:
    """The network of liver_cls's pretrained.json, as inference makes it."""
    parser = workflow_of(BUNDLES / "liver_cls", "inference.json", "pretrained.json", **knobs).parser
    return parser.get_parsed_content("network")


@pytest.mark.parametrize("overlay, first", [
    ("pretrained.json", "stem.1.conv.weight"), ("dynunet.json", "input_block.conv1.conv.weight"),
])  # fmt: skip
def test_either_network_alone_trains_and_judges_by_an_overlay(sites, tmp_path, overlay, first):
    train_judge_and_infer("liver_cls", sites[0], tmp_path, CLS, (overlay,))
    assert "val_auc" in (tmp_path / "eval" / "metrics.csv").read_text()
    state = torch.load(tmp_path / "runs" / "model.pt", weights_only=True)
    assert state[first].shape[1] == 6
    (table,) = (tmp_path / "out").glob("*/*.csv")
    assert any(0 <= float(row["tumour_probability"] or -1) <= 1 for row in rows(table))


def test_each_of_two_networks_learns_from_its_share_of_a_batch():
    both = workflow_of(BUNDLES / "liver_cls", "train.json", **HALVES, encoder_path="").parser.get_parsed_content(
        "network"
    )
    x = torch.rand(6, 6, 32, 32)
    answers = both.train()(x)
    assert answers.shape == (6, 1, 32, 32)
    answers[::2].sum().backward()
    learns = [any(p.grad is not None and p.grad.any() for p in member.parameters()) for member in both.members]
    assert learns == [True, False]
    with torch.inference_mode():
        mean = torch.stack([member.eval()(x) for member in both.members]).mean(0)
        torch.testing.assert_close(both.eval()(x), mean)
        assert both.train()(x[:1]).shape == (1, 1, 32, 32)  # too few to share


@pytest.mark.parametrize("apart, judged", [(5.0, [7, 7]), (1.0, [4, 3])])
def test_two_networks_judge_a_study_in_turn_for_the_price_of_one(apart, judged):
    parser = workflow_of(BUNDLES / "liver_cls", "inference.json", **HALVES, bf16=False).parser
    both, inferer = parser.get_parsed_content("network").eval(), parser.get_parsed_content("inferer")
    study = MetaTensor(torch.rand(1, 2, 32, 32, 7), affine=torch.diag(torch.tensor([2.0, 2.0, apart, 1.0])))
    seen = [0, 0]

    def count(place: int):
        def hook(_module, inputs, _answer) -> None:
            seen[place] += len(inputs[0])

        return hook

    for place, member in enumerate(both.members):
        member.register_forward_hook(count(place))
    with torch.inference_mode():
        found = inferer(study, both)
        assert seen == judged
        inferer.mirrored = False
        plain, mirrored = (inferer(s, m) for s, m in zip((study, study.flip(3)), both.members))
        expected = (plain + mirrored) / 2
        if apart == 1.0:
            expected[:, ::2], expected[:, 1::2] = plain[:, ::2], mirrored[:, 1::2]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gop, combine", [(3, "concat"), (3, "multiply"), (5, "concat"), (1, "multiply")])
def test_the_filters_of_colours_become_those_of_the_image(gop, combine):
    colours = torch.load(ENCODER, weights_only=True)["stem.1.conv.weight"]
    filters = lite(gop=gop, combine=combine, encoder_path=ENCODER).stem[1].conv.weight.detach()
    assert filters.shape[1] == gop * (2 if combine == "concat" else 1)
    torch.testing.assert_close(filters[:, :gop].sum(1), colours.sum(1) / 2, atol=1e-5, rtol=1e-4)  # gray, as one HU
    assert filters[:, gop:].numel() == 0 or 0.01 < filters[:, gop:].std() < 0.03


def test_the_network_from_imagenet_answers_alike_folded_and_in_torchscript():
    torch.manual_seed(0)
    parser = workflow_of(BUNDLES / "liver_cls", "inference.json", "pretrained.json").parser
    made, x = parser.get_parsed_content("network").eval(), torch.rand(2, 6, 48, 80)
    folded = parser.get_parsed_content("folded")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        expected = made(x)
        assert expected.shape == (2, 1, 48, 80)
        torch.testing.assert_close(folded(x), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)
        torch.testing.assert_close(torch.jit.script(made)(x), expected)


def test_weights_to_begin_from_that_are_none_are_one_line(tmp_path):
    (tmp_path / "damaged.pt").write_bytes(b"x" * 100)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    for name, cause in (
        ("gone", "no such weights to begin from"), ("damaged", "damaged, or no weights to begin from"),
        ("other", "not the encoder of this network, a LiteUNet"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="LiteUNet") as error:
            lite(encoder_path=str(tmp_path / f"{name}.pt"))
        found = find_study_error(error.value)
        fix = "Fetch the bundle again, or give --encoder_path '' to begin from nothing."
        assert str(found) == f"{tmp_path / name}.pt: {cause}. {fix}"
    from_nothing, begun = (lite(encoder_path=path).stages[3][5].state_dict() for path in ("", ENCODER))
    assert all(from_nothing[key].shape == begun[key].shape for key in begun)
    assert not torch.equal(from_nothing["submodule.0.conv.weight"], begun["submodule.0.conv.weight"])


@pytest.mark.parametrize("bundle", ["liver_seg", "liver_cls"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"res_block": False}, {"dropout": 0.2}, {"norm_name": "instance"}, UNET],
    ids=["shipped", "no-residuals", "dropout", "instance-norm", "UNet"],
)
def test_the_network_with_batch_norm_folded_answers_as_the_network(bundle, changes):
    channels = 9 if bundle == "liver_seg" else 6
    change = {"network_def": {**UNET, "in_channels": channels}} if changes is UNET else {}
    own = "network_def" if bundle == "liver_seg" else "dynunet"
    change = change or {f"{own}#{key}": value for key, value in changes.items()}
    parser = workflow_of(BUNDLES / bundle, "inference.json", **change).parser
    made = parser.get_parsed_content("network").eval()
    norms = [module for module in made.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    torch.manual_seed(0)
    for norm in norms:
        for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
            values.uniform_(0.5, 1.5)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    folded = parser.get_parsed_content("folded")
    x = torch.rand(2, channels, 64, 96)
    with torch.inference_mode():
        expected = made(x)
        torch.testing.assert_close(folded(x), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)
    torch.testing.assert_close(dict(made.state_dict()), before)  # what is saved, exported and explained stays
    left = any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert left == (bool(norms) and changes not in ({}, {"res_block": False}, {"norm_name": "instance"}))


# ------------------------------------------------------------------------------------------ the original's recipe


def original(bundle: str, site: Path, folder: Path, **knobs) -> Path:
    """One epoch, evaluation and inference with the original's recipe, at a test's size."""
    return train_judge_and_infer(bundle, site, folder, {**ORIGINAL[bundle], **knobs}, ("original.json",))


def test_the_original_segments_slices_of_one_size_whatever_the_ct(sites, tmp_path):
    original("liver_seg", sites[0], tmp_path, tracker="tensorboard")
    case = json.loads(sites[0].read_text())["validation"][0]
    (prob,) = (tmp_path / "out").glob("*/*_prob.nii.gz")
    assert nib.load(prob).shape == nib.load(case["image"]).shape
    pictures = b"".join(file.read_bytes() for file in (tmp_path / "runs" / "tensorboard").glob("events*"))
    assert b"input_0" in pictures and b"output" in pictures  # CT with the label over it, and with the network's mask


@pytest.mark.parametrize(
    "kind, source, combine",
    [("18", "prob", "multiply"), ("34", "binary", "concat"), ("50", "manual", "multiply"), ("18", "none", "multiply")],
)
def test_the_original_classifies_by_a_resnet_and_the_slices_label_alone(sites, tmp_path, kind, source, combine):
    knobs = {"mask_source": source, "combine": combine, "network_def#_target_": f"monai.networks.nets.resnet{kind}"}
    original("liver_cls", sites[0], tmp_path, **knobs)
    metrics = (tmp_path / "eval" / "metrics.csv").read_text()
    assert all(name in metrics for name in ("val_auc", "val_accuracy", "val_tpr", "val_fpr"))
    state = torch.load(tmp_path / "runs" / "model.pt", weights_only=True)
    assert len(state["conv1.weight"][0]) == (6 if combine == "concat" else 3)


@pytest.mark.parametrize("bundle", ["liver_seg", "liver_cls"])
def test_the_original_s_step_is_sgd_with_clipped_gradients(bundle, sites, tmp_path):
    knobs = {**ORIGINAL[bundle], "datalist_file": str(sites[0]), "ckpt_dir": str(tmp_path)}
    parser = workflow_of(BUNDLES / bundle, "train.json", "original.json", **knobs).parser
    network, optimizer = (parser.get_parsed_content(key) for key in ("network", "optimizer"))
    before = [p.detach().clone() for p in network.parameters()]
    for p in network.parameters():
        p.grad = torch.full_like(p, 5.0)
    optimizer.step()
    for p, old in zip(network.parameters(), before):
        torch.testing.assert_close(p.detach(), old - 0.01 * 0.1)
    assert optimizer.defaults["momentum"] == 0.9
    scheduler = parser.get_parsed_content("lr_scheduler")
    each = 1 if bundle == "liver_cls" else len(parser.get_parsed_content("train#dataloader"))
    for _ in range(5 * each):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_the_original_s_values_are_the_window_from_0_to_1_times_the_mask(sites):
    case = json.loads(sites[0].read_text())["validation"][0]
    parser = workflow_of(BUNDLES / "liver_cls", "inference.json", "original.json", roi=[64, 64]).parser
    image = parser.get_parsed_content("preprocessing")({"image": case["image"], "prob": case["prob"]})["image"]
    assert image.shape[:3] == (1, 64, 64) and image.min() >= 0 and 0.4 < image.max() <= 1


def test_the_original_trains_from_one_line(sites, tmp_path):
    """As a user types it."""
    files = "['configs/train.json','configs/original.json']"
    knobs = {**ORIGINAL["liver_cls"], **ONCE, "datalist_file": sites[0], "ckpt_dir": tmp_path, "patience": 0}
    words = [word for key, value in knobs.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, *words]
    done = subprocess.run(command, cwd=BUNDLES / "liver_cls", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "model.pt").exists()


def test_a_copy_of_a_bundle_has_the_original_for_good(tmp_path):
    copies = {name: tmp_path / name for name in ORIGINAL}
    for name, copy in copies.items():
        copy_bundle(str(BUNDLES / name), str(copy))
        with pytest.raises(SystemExit, match=f"^ERROR {copy}: is there already. Choose another --output.$"):
            copy_bundle(str(BUNDLES / name), str(copy))
        parser = ConfigParser()
        parser.read_config(str(copy / "configs" / "inference.json"))
        parser.update({"bundle_root": str(copy)})
        weights = Path(parser.get_parsed_content("ckpt_path"))
        assert weights.is_relative_to(copy) and not list(copy.rglob("model.pt"))
        weights.parent.mkdir(parents=True)
        torch.manual_seed(0)
        torch.save(parser.get_parsed_content("network_def").state_dict(), weights)
    chain = LiverCT(device="cpu", seg_bundle=copies["liver_seg"], cls_bundle=copies["liver_cls"], mask_source="binary")
    assert (type(chain.seg.network).__name__, type(chain.cls.network).__name__) == ("BasicUNet", "ResNet")
    with pytest.raises(SystemExit, match="^ERROR .*liver_cls/configs/other.json: no such overlay"):
        copy_bundle(str(BUNDLES / "liver_cls"), str(tmp_path / "c"), overlay="other.json")


# ----------------------------------------------------------------------------------------- two networks, slice by slice


def table(folder: Path, *probabilities: float, label: tuple[int, ...] = (1, 1, 0, 0)) -> Path:
    """An evaluation's output folder with a slices.csv of two cases."""
    folder.mkdir()
    lines = [f"case-{i // 2},{i},{known},{p}" for i, (known, p) in enumerate(zip(label, probabilities))]
    (folder / "slices.csv").write_text("\n".join(["case,slice,label,probability", *lines]) + "\n")
    return folder


def test_two_evaluations_are_compared_slice_by_slice(tmp_path, capsys):
    one, other = table(tmp_path / "one", 0.9, 0.2, 0.1, 0.7), table(tmp_path / "other", 0.6, 0.8, 0.3, 0.4)
    compare(str(one), str(other / "slices.csv"), lists=str(tmp_path / "lists.csv"))
    printed = json.loads(capsys.readouterr().out)
    assert (printed["one_right"]["all"], printed["other_right"]["all"], printed["both_right"]) == (0, 2, 2)
    assert "cases_one_better" in printed and "patients_one_better" not in printed  # whose a case is no table tells
    assert printed["other"] == {"auc": 1.0, "accuracy": 1.0, "tpr": 1.0, "fpr": 0.0}
    assert printed["one"] == {"auc": 0.75, "accuracy": 0.5, "tpr": 0.5, "fpr": 0.5}
    found = [(row["case"], row["slice"], row["label"], row["right"]) for row in rows(tmp_path / "lists.csv")]
    assert found == [("case-0", "1", "1", "other"), ("case-1", "3", "0", "other")]
    compare(str(one), str(other), threshold=0.75)
    assert json.loads(capsys.readouterr().out)["one"]["fpr"] == 0.0


def test_evaluations_that_do_not_belong_together_are_one_line(tmp_path):
    one, other = table(tmp_path / "one", 0.9, 0.2, 0.1, 0.7), table(tmp_path / "other", 0.6, 0.8, label=(1, 0))
    with pytest.raises(SystemExit, match="^ERROR .*other: other slices or labels than in .*one. Evaluate both on one"):
        compare(str(one), str(other))
    (other / "slices.csv").write_text("case,slice\na,1\n")
    with pytest.raises(SystemExit, match="slices.csv: no table of an evaluation"):
        compare(str(one), str(other))
    with pytest.raises(SystemExit, match="^ERROR --sheet: is drawn of two arms"):
        compare(str(one), str(one), sheet=str(tmp_path / "sheet.png"))
