"""Promises of training and evaluation to whoever gives them something wrong: one line, and nothing learned from it."""

from __future__ import annotations

import io
import json
import logging
import os
import runpy
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import warm
from conftest import bundle_module
from monai.bundle import ConfigParser

from liver_ct.chain.stages import read_bundle

Lists = dict[str, list[dict]]
SEG, CLS = "liver_seg", "liver_cls"
QUICK = {SEG: {"volume_repeats": 1}, CLS: {"volume_repeats": 1, "studies_per_batch": 2}}


@pytest.fixture
def give(bundles, sites, tmp_path, monkeypatch):
    """Function that runs a bundle as a command line does, in this process: exit status, errors and tracebacks."""

    def run(name: str, *configs: str, **knobs) -> tuple[int, list[str]]:
        given = {"bundle_root": str(bundles / name), "logging_file": False, "output_dir": str(tmp_path / "eval")}
        if "inference.json" not in configs:
            given |= {"datalist_file": str(sites[0]), "ckpt_dir": str(tmp_path / "run"), "tracker": "none"}
            given |= {"epochs": 1, **QUICK[name]}
        files = [str(bundles / name / "configs" / config) for config in configs or ("train.json",)]
        words = [f"--{key}={value}" for key, value in {**given, **knobs}.items()]
        monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--config_file", str(files), *words])
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        monkeypatch.setattr(logging, "raiseExceptions", False)  # a log may still go to another test's stdout
        status = 0
        try:
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        except SystemExit as e:
            status = int(e.code is not None)
            sys.stderr.write(f"{e.code or ''}\n")
        except Exception:
            status = 1
            sys.excepthook(*sys.exc_info())
        lines = sys.stderr.getvalue().splitlines()
        return status, [line for line in lines if line.startswith(("ERROR", "Traceback"))]

    return run


@pytest.fixture
def listed(sites, tmp_path):
    """Function that writes a datalist: of the first hospital, changed by a function, or any text."""

    def write(change) -> str:
        lists = json.loads(sites[0].read_text())
        path = tmp_path / "changed.json"
        path.write_text(change if isinstance(change, str) else json.dumps(change(lists) or lists))
        return str(path)

    return write


@pytest.fixture
def altered(tmp_path):
    """Function that writes a copy of an image with other voxels and returns its path."""

    def write(path: str, change, dtype=None) -> str:
        image = nib.load(path)
        values = change(np.asarray(image.dataobj))
        out = tmp_path / f"altered-{len(list(tmp_path.glob('altered-*')))}.nii.gz"
        nib.save(nib.Nifti1Image(values.astype(dtype or values.dtype), image.affine), out)
        return str(out)

    return write


@pytest.fixture(scope="module")
def networks(bundles) -> dict[str, torch.nn.Module]:
    """Both bundles' small networks, of random weights."""
    return {name: read_bundle(bundles / name).get_parsed_content("network_def") for name in (SEG, CLS)}


@pytest.fixture
def weights(networks, tmp_path):
    """Function that writes weights for a bundle: weights(name) -> path."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.pt"
        torch.save(networks[name].state_dict(), path)
        return path

    return write


def lone(found: tuple[int, list[str]]) -> str:
    """The one line of a run that failed."""
    status, lines = found
    assert status == 1 and len(lines) == 1, lines
    assert lines[0].startswith("ERROR ") and lines[0].endswith((".", "?"))
    return lines[0]


def last(folder: Path) -> Path:
    (path,) = folder.glob("last_checkpoint_epoch=*.pt")
    return path


# ------------------------------------------------------------------------------------------------- going on


CHANGES = {
    SEG: {"batch_size": 1, "offsets": [-4, -3, -2, -1, 0, 1, 2, 3, 4], "network_def#act_name": "relu"},
    CLS: {"seed": 5, "mask_source": "manual", "studies_per_batch": 1, "dynunet#dropout": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("name", [SEG, CLS])
def test_a_training_goes_on_with_the_settings_it_was_begun_with_only(give, sites, listed, tmp_path, name):
    whole = {"schedule_epochs": 2}
    assert give(name, **whole) == (0, [])
    folder, before = tmp_path / "run", last(tmp_path / "run").read_bytes()
    begun = torch.load(last(folder), weights_only=True)["settings"]
    other = listed(lambda lists: {**lists, "training": lists["training"][:1] * 2})
    torch.save(torch.load(last(folder), weights_only=True)["averaged"], tmp_path / "start.pt")
    changes = {**CHANGES[name], "learning_rate": 0.1, "datalist_file": other, "init_path": tmp_path / "start.pt"}
    line = lone(give(name, **changes, epochs=3))
    assert line.startswith(f"ERROR {folder}: its training was begun with other settings: ")
    assert line.endswith(" (schedule_epochs is --epochs where not given). Give the same, or another --ckpt_dir.")
    for knob in ("schedule_epochs", *changes):
        setting = "network_def" if "#" in knob else knob  # of the network all is recorded as one
        assert f" {setting} {begun[setting]}, now " in line
    assert last(folder).read_bytes() == before

    moved = shutil.copy(sites[0], sites[0].with_name("moved.json"))  # what a list says counts, not where it lies
    shutil.copytree(folder, tmp_path / "older")
    state = torch.load(last(folder), weights_only=True)
    torch.save({key: value for key, value in state.items() if key != "settings"}, last(tmp_path / "older"))
    assert give(name, epochs=2, datalist_file=moved) == (0, [])
    assert give(name, epochs=2, ckpt_dir=tmp_path / "older") == (0, [])  # of a version that kept no record
    ends = [
        torch.load(place / "last_checkpoint_epoch=2.pt", weights_only=True) for place in (folder, tmp_path / "older")
    ]
    assert all(torch.equal(ends[0]["averaged"][key], value) for key, value in ends[1]["averaged"].items())
    line = lone(give(name, epochs=1, **whole))
    assert line.startswith(f"ERROR {folder}: holds 2 epochs of training, more than --epochs 1. Ask for 2 or more, or ")


# ---------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("name", [SEG, CLS])
def test_a_training_that_diverges_ends_with_one_line_and_leaves_good_weights(give, tmp_path, name):
    (tmp_path / "run").mkdir()
    for kept in ("model.pt", "model_final.pt"):
        (tmp_path / "run" / kept).write_bytes(b"good")
    steps = {"volume_repeats": 4, "val_interval": 1, **({"studies_per_batch": 2} if name == CLS else {})}
    line = lone(give(name, learning_rate=1e30, **steps))
    assert line.startswith("ERROR --learning_rate: the ") and "Lower it" in line
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"model.pt", "model_final.pt"}
    assert all(path.read_bytes() == b"good" for path in (tmp_path / "run").iterdir())


def test_weights_that_are_none_are_refused(give, networks, tmp_path):
    network = networks[SEG]
    nan = {key: value * np.nan if value.is_floating_point() else value for key, value in network.state_dict().items()}
    words = {"nan": "weights that are not finite (first at ", "whole": "no state dict but other objects, which are",
             "list": "no state dict. Save the network's state_dict()."}  # fmt: skip
    for content, name in ((nan, "nan"), (network, "whole"), ([1, 2], "list")):
        path = tmp_path / f"{name}.pt"
        torch.save(content, path)
        assert lone(give(SEG, init_path=path)).startswith(f"ERROR {path}: {words[name]}")
        assert lone(give(SEG, "train.json", "evaluate.json", ckpt_path=path)).startswith(f"ERROR {path}: {words[name]}")


@pytest.mark.parametrize("name", [SEG, CLS])
@pytest.mark.parametrize("configs", [("inference.json",), ("train.json", "evaluate.json")])
def test_a_checkpoint_is_not_taken_for_the_weights_that_a_training_keeps(
    give, networks, sites, tmp_path, name, configs
):
    path, state = tmp_path / "last_checkpoint_epoch=1.pt", networks[name].state_dict()
    torch.save({"model": state, "averaged": state}, path)
    case = json.loads(sites[0].read_text())["training"][:1]
    listed = {"datalist": case} if configs == ("inference.json",) else {}
    line = lone(give(name, *configs, ckpt_path=path, **listed))
    assert line.startswith(f"ERROR {path}: a checkpoint to go on from, ") and "Give the model.pt beside it" in line


# --------------------------------------------------------------------------------------------------- knobs


@pytest.mark.parametrize(
    "name, knob, values, words",
    [
        (SEG, "epochs", [0, "abc", 1.5], "a whole number from 1"),
        (SEG, "batch_size", [-1, "x"], "a whole number from 1"),
        (SEG, "schedule_epochs", [0], "a whole number from 1"),
        (SEG, "val_interval", [0], "a whole number from 1"),
        (SEG, "learning_rate", [0, -0.1, "nan"], "a number above 0"),
        (SEG, "pixdim", [[2, -2, 4], 2], "three numbers above 0"),
        (SEG, "patch", [64], "two whole numbers from 1"),
        (SEG, "hu_window", [[200, 0]], "two numbers, the lower first"),
        (SEG, "lesion_prob", [3], "a number from 0 to 1"),
        (SEG, "ema_momentum", [0], "a number above 0, up to 1"),
        (SEG, "offsets", [[], [0, 1.5], [0, 1, 2], [-1, 0, 1, 2]], "a list of whole numbers, 0 in its middle"),
        (SEG, "device", ["foo"], "a device that PyTorch has here, such as cpu"),
        (SEG, "grid", [[256, 256]], "three whole numbers from 1 or None, or None"),
        (SEG, "show_masks", ["no"], "True or False"),
        (CLS, "gop", [0, 2, "x"], "an odd whole number from 1"),
        (CLS, "patience", [-1], "a whole number from 0"),
        (CLS, "spacing", [0], "a number above 0, or None"),
        (CLS, "pos_fraction", [2], "a number from 0 to 1, or None"),
        (CLS, "calibration", [[-1, 0]], "two numbers, the first above 0"),
        (CLS, "slice_weight", [-1], "a number from 0"),
    ],
)  # fmt: skip
def test_a_knob_that_makes_no_sense_is_one_line(give, tmp_path, name, knob, values, words):
    for value in values:
        assert lone(give(name, **{knob: value})) == f"ERROR --{knob} {value}: makes no sense. Give {words}."
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, knob, values, words",
    [
        (SEG, "temperature", [-1, 0], "a number above 0"),
        (SEG, "threshold", [50], "a number from 0 to 1"),
        (SEG, "hu_window", [[200, 0]], "two numbers, the lower first"),
        (SEG, "pixdim", [[2, 2]], "three numbers above 0"),
        (SEG, "coarse_step", [0], "a whole number from 1"),
        (SEG, "smallest_ml", [-1], "a number from 0"),
        (SEG, "bf16", ["no"], "True or False, or None"),
        (SEG, "offsets", [[0, 1, 2], 5], "a list of whole numbers, 0 in its middle"),
        (SEG, "device", ["foo"], "a device that PyTorch has here, such as cpu"),
        (CLS, "calibration", [[-1, 0]], "two numbers, the first above 0"),
        (CLS, "unit_hu", [0], "a number above 0"),
        (CLS, "hu_window", [[160, -40]], "two numbers, the lower first"),
        (CLS, "mirrored", ["no"], "True or False"),
        (CLS, "margin", [-3], "a whole number from 0"),
        (CLS, "fixed_level", ["x"], "a number"),
        (CLS, "gop", [2], "an odd whole number from 1"),
        (CLS, "lesion_outline", [10], "a number from 0 to 1"),
    ],
)  # fmt: skip
def test_a_knob_of_inference_that_makes_no_sense_is_one_line(bundles, monkeypatch, name, knob, values, words):
    monkeypatch.syspath_prepend(bundles / name)
    for value in values:
        config = ConfigParser()
        config.read_config(bundles / name / "configs" / "inference.json")
        config.update({knob: value})
        with pytest.raises(SystemExit) as refused:
            config.get_parsed_content("checks#knobs")
        assert str(refused.value) == f"ERROR --{knob} {value}: makes no sense. Give {words}."


@pytest.mark.parametrize("name, knobs, line", [
    (SEG, {"temperature": -1}, "ERROR --temperature -1: makes no sense."),
    (CLS, {"mask_source": "porb"}, "--mask_source is 'porb'. Choose one of prob, binary, dilated, manual, none."),
    (SEG, {"network_def#filterz": [16]}, "inference.json: TypeError: DynUNet.__init__() got an unexpected"),
    (CLS, {"datalist": "list.json"}, "--datalist list.json: is no list. Give '[{\"image\": path}, ...]'"),
    (CLS, {"datalist": [{"image": 3}]}, "--datalist: its entry 1 names no image. Give '[{\"image\": path}, ...]'"),
])  # fmt: skip
def test_what_inference_cannot_begin_with_is_one_line(give, weights, tmp_path, name, knobs, line):
    assert line in lone(give(name, "inference.json", ckpt_path=str(weights(name)), **knobs))
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize("name", [SEG, CLS])
def test_cts_of_one_name_are_refused_before_either_is_lost(give, sites, weights, tmp_path, name):
    case = json.loads(sites[0].read_text())["training"][0]
    for folder in ("a", "b"):
        (tmp_path / "cts" / folder).mkdir(parents=True)
        shutil.copy(case["image"], tmp_path / "cts" / folder / "ct.nii.gz")
    places = {"dataset_dir": tmp_path / "cts", "pattern": "*/*.nii.gz", "ckpt_path": weights(name)}
    status, lines = give(name, "inference.json", **places)
    assert status == 1 and [line.partition(",")[0] for line in lines] == [
        f"ERROR {tmp_path}/cts/{folder}/ct.nii.gz: another CT is named ct" for folder in ("a", "b")
    ]
    assert not (tmp_path / "eval").exists()
    named = [{"image": case["image"], "prob": case["prob"], "case_id": number} for number in (1, 2)]
    assert give(name, "inference.json", ckpt_path=weights(name), datalist=named[:1]) == (0, [])
    assert [each.name for each in (tmp_path / "eval").iterdir()] == ["1"]


@pytest.mark.parametrize("name", [SEG, CLS])
def test_a_schedule_that_ends_before_the_training_is_one_line(give, name, tmp_path):
    line = lone(give(name, epochs=3, schedule_epochs=2))
    assert line.startswith("ERROR --schedule_epochs 2: fewer than --epochs 3, ") and line.endswith("as many or more.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, settings", [(SEG, {"hu_window": [-100, 300]}), (CLS, {"mask_source": "binary"})])
@pytest.mark.parametrize("configs", [("inference.json",), ("train.json", "evaluate.json")])
def test_weights_that_learned_with_other_knobs_say_so(bundles, tmp_path, monkeypatch, caplog, name, settings, configs):
    monkeypatch.syspath_prepend(bundles / name)
    config = ConfigParser()
    config.read_config([str(bundles / name / "configs" / file) for file in configs])
    config.update({"ckpt_path": str(tmp_path / "model.pt")})
    known = {"gop": 3, "pixdim": [4, 4, 4]}  # the same
    torch.save({"settings": {**known, **settings}}, tmp_path / "last_checkpoint_epoch=1.pt")
    config.get_parsed_content("checks#trained")
    (key,) = settings
    ((line),) = caplog.messages
    assert line.startswith(f"{tmp_path}/model.pt: trained with {key} ") and line.endswith(f". Give --{key} as it was.")
    assert "@checks::trained" in (config["initialize"] if len(configs) == 1 else config["checks#before"])


@pytest.mark.parametrize("bundle", ["seg", "cls"])
def test_a_training_too_short_to_be_validated_says_so(caplog, bundle):
    knobs = bundle_module(bundle, "knobs")
    for schedule, interval, validation in ((4, 4, ["a"]), (3, 4, []), (3, 4, ["a"])):
        assert not caplog.messages
        knobs.require_schedule(1, schedule, interval, validation)
    cause = "more than the 3 epochs: none is validated, and no model.pt kept"
    assert caplog.messages == [f"--val_interval 4: {cause}. Give 3 or less."]


def test_patience_without_validation_says_so(caplog):
    require_schedule = bundle_module("cls", "knobs").require_schedule
    require_schedule(4, 4, 1, ["a"], patience=2)
    assert not caplog.messages
    require_schedule(4, 4, 1, [], patience=2)
    assert caplog.messages == ["--patience 2: the datalist has no validation, so nothing stops early. Give it some."]


@pytest.mark.parametrize("knob, choice", [
    ("mask_source", "one of prob, binary, dilated, manual, none"),
    ("combine", "multiply or concat"),
    ("normalise", "liver or fixed"),
])  # fmt: skip
def test_a_misspelt_word_is_one_line(give, knob, choice):
    assert lone(give(CLS, **{knob: "porb"})) == f"ERROR --{knob} is 'porb'. Choose {choice}."


def test_any_other_error_is_one_line_and_keeps_its_traceback_for_who_asks(give, monkeypatch):
    line = lone(give(SEG, **{"network_def#filterz": "[16]"}))
    assert "train.json: TypeError: " in line and "unexpected keyword argument 'filterz'. Check the knobs" in line
    assert "MONAI_DEBUG=1" in line
    monkeypatch.setenv("MONAI_DEBUG", "1")
    status, lines = give(SEG, **{"network_def#filterz": "[16]"})
    assert status == 1 and not [line for line in lines if line.startswith("ERROR")] and len(lines) > 1


@pytest.mark.parametrize("overlay", [(), ("evaluate.json",)])
@pytest.mark.parametrize("name", [SEG, CLS])
def test_a_training_from_another_folder_asks_for_the_bundle_s(bundles, tmp_path, name, overlay):
    files = str([str(bundles / name / "configs" / file) for file in ("train.json", *overlay)])
    (tmp_path / "scripts").mkdir()  # of another project, as this one's own
    done = warm.python("-m", "monai.bundle", "run", "--config_file", files, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "Traceback"))]
    assert done.returncode == 1
    assert lines == ["ERROR --bundle_root .: the scripts of the bundle are not there. Give its folder."]


@pytest.mark.parametrize("name, overlay", [(SEG, ()), (CLS, ()), (SEG, ("evaluate.json",)), (CLS, ("evaluate.json",))])
def test_a_folder_that_cannot_be_written_to_is_named_first(give, tmp_path, name, overlay):
    knob = "output_dir" if overlay else "ckpt_dir"
    (tmp_path / "file").write_text("")
    shipped = Path(__file__).parents[1] / "bundles" / name / "models" / "model.pt"
    weights = {"ckpt_path": shipped} if overlay else {}
    line = lone(give(name, "train.json", *overlay, **{knob: tmp_path / "file"}, **weights))
    assert line.startswith(f"ERROR {tmp_path / 'file'}: cannot be written to (") and f"another --{knob}." in line


# ---------------------------------------------------------------------------------------------- datalists


@pytest.mark.parametrize("text, cause", [
    ("", "empty, cut short or no JSON"),
    ('{"training": [{"ima', "empty, cut short or no JSON"),
    ("null", "holds no lists by section"),
    ("[]", "holds no lists by section"),
    ('{"training": {"image": "a"}}', "'training' is no list"),
    ('{"training": ["a.nii.gz"]}', "entry 1 of 'training' has no image"),
    ('{"training": [{"label": "a.nii.gz"}]}', "entry 1 of 'training' has no image"),
    ('{"training": [{"image": "a.nii.gz", "label": 3}]}', "entry 1 of 'training' has no label"),
    ('\ufeff{"trainig": [{"image": "a.nii.gz"}]}', "no study found. Check the names of its lists"),
])  # fmt: skip
def test_a_file_that_is_no_datalist_is_named(give, listed, text, cause):
    for name in (SEG, CLS):
        path = listed(text)
        assert lone(give(name, datalist_file=path)).startswith(f"ERROR {path}: {cause}")


@pytest.mark.parametrize("name", [SEG, CLS])
def test_a_case_to_learn_from_and_to_validate_with_is_refused(give, listed, name):
    path = listed(lambda lists: lists["validation"].append(lists["training"][0]))
    line = lone(give(name, datalist_file=path))
    assert f": is in the training and in the validation of {path}. Leave it in one of them." in line


@pytest.mark.parametrize("name", [SEG, CLS])
@pytest.mark.parametrize("path_of", ["link", "detour"])
def test_a_ct_with_two_paths_is_one(give, listed, tmp_path, name, path_of):
    def change(lists: Lists) -> None:
        case = {key: value for key, value in lists["training"][0].items() if key != "group"}
        first, link = Path(case["image"]), tmp_path / "other.nii.gz"
        link.symlink_to(first)
        other = link if path_of == "link" else f"{first.parent}/../{first.parent.name}/{first.name}"
        lists["validation"] = [case | {"image": str(other)}]

    path = listed(change)
    line = lone(give(name, datalist_file=path))
    assert f": is in the training and in the validation of {path}. Leave it in one of them." in line


def test_a_person_to_learn_from_and_to_validate_with_is_refused(give, listed):
    def change(lists: Lists) -> None:
        lists["validation"][0]["group"] = lists["training"][0]["group"]

    path = listed(change)
    line = lone(give(CLS, datalist_file=path))
    assert f"is of a person (group) who is in the training of {path}, too. Leave each person in one of them." in line


@pytest.mark.parametrize("name", [SEG, CLS])
def test_a_section_that_is_not_there_is_named(give, sites, name):
    line = lone(give(name, "train.json", "evaluate.json", section="validaton"))
    assert line == f"ERROR {sites[0]}: has no section 'validaton'. Give one of training, validation."


@pytest.mark.parametrize("name, shown, target", [(SEG, 0, "liver"), (CLS, 1, "tumour")])
def test_labels_that_show_nothing_to_learn_are_refused(give, listed, altered, name, shown, target):
    def change(lists: Lists) -> None:
        for case in lists["training"]:
            case["label"] = altered(case["label"], lambda label: np.minimum(label, shown))

    path = listed(change)
    assert lone(give(name, datalist_file=path)).startswith(f"ERROR {path}: no label to train on shows any {target}.")


@pytest.mark.parametrize("name, key, change, cause", [
    (SEG, "label", lambda v: (v > 0) * 255, "labels other than 0, 1 and 2"),
    (SEG, "label", lambda v: v * 0.7, "labels other than 0, 1 and 2"),
    (CLS, "prob", lambda v: (v > 0) * 255.0, "values 0 to 255 are not probabilities"),
    (CLS, "prob", lambda v: v * np.nan, "NaN or infinite voxels"),
])  # fmt: skip
def test_a_file_of_impossible_values_is_one_line(give, listed, altered, weights, name, key, change, cause):
    made = []

    def spoil(lists: Lists) -> None:
        for case in (lists["training"][0], lists["validation"][0]):
            case[key] = altered(case[key], change, np.float32)
            made.append(case[key])

    path = listed(spoil)
    line = lone(give(name, datalist_file=path))
    assert line.startswith((f"ERROR {made[0]}: ", f"ERROR {made[1]}: ")) and cause in line
    line = lone(give(name, "train.json", "evaluate.json", datalist_file=path, ckpt_path=weights(name)))
    assert line.startswith(f"ERROR {made[1]}: ") and cause in line


@pytest.mark.parametrize("configs", [("train.json",), ("train.json", "evaluate.json")])
def test_a_prob_mask_of_another_ct_is_noted(give, listed, altered, weights, caplog, configs):
    wrong = {}

    def swap(lists):
        for section in ("training", "validation"):
            case = lists[section][0]
            case["prob"] = wrong[section] = altered(case["prob"], lambda mask: np.roll(mask * 0 + (mask > 0.5), 20, 0))

    knobs = {"datalist_file": listed(swap), "ckpt_path": weights(CLS)}
    assert give(CLS, *configs, **knobs) == (0, [])
    lines = [line for line in caplog.messages if "as in a mask of another CT" in line]
    read = ["validation"] if "evaluate.json" in configs else ["training", "validation"]
    assert {line.partition(": ")[0] for line in lines} == {wrong[section] for section in read}
    assert all("% of what it takes for liver is fat, lung or air" in line for line in lines)


def test_a_file_that_a_loader_s_process_reads_is_named_too(give, listed, altered):
    path = listed(
        lambda lists: lists["training"][0].update(label=altered(lists["training"][0]["label"], lambda v: v + 5))
    )
    line = lone(give(SEG, datalist_file=path, cache_rate=0, num_workers=1))
    assert "altered-0.nii.gz: labels other than 0, 1 and 2." in line


@pytest.mark.parametrize("told, cause", [
    ({"tumour_present": 2}, "tumour_present is 2 in the datalist. Give 0 or 1."),
    ({"tumour_label": False, "tumour_in": [5, 999]}, "tumour_in lists slice 999, which the CT does not have."),
    ({"tumour_label": False, "tumour_free": [9, 10]}, "tell of no group of 3 slices whether it shows tumour."),
])  # fmt: skip
def test_what_a_datalist_tells_of_slices_must_be_possible(give, listed, told, cause):
    path = listed(lambda lists: lists["training"][0].update(told))
    assert cause in lone(give(CLS, datalist_file=path))


@pytest.mark.parametrize("name, table", [(SEG, "val_mean_dice_raw.csv"), (CLS, "slices.csv")])
def test_a_name_in_another_code_page_is_evaluated(give, listed, weights, tmp_path, name, table):
    odd = tmp_path / os.fsdecode(b"M\xfcller.nii.gz")  # of Windows-1252

    def change(lists: Lists) -> None:
        case = lists["validation"][0]
        del case["case_id"]  # so that the file names it
        case["image"] = str(shutil.copy(case["image"], odd))

    knobs = {"datalist_file": listed(change), "ckpt_path": weights(name)}
    assert give(name, "train.json", "evaluate.json", **knobs) == (0, [])
    assert "M\\udcfcller" in (tmp_path / "eval" / table).read_text(encoding="utf-8")


def test_labels_without_liver_are_named_by_an_evaluation(give, listed, altered, weights, caplog):
    def empty(lists: Lists) -> None:
        lists["validation"][0]["label"] = altered(lists["validation"][0]["label"], lambda label: label * 0)

    assert give(SEG, "train.json", "evaluate.json", datalist_file=listed(empty), ckpt_path=weights(SEG)) == (0, [])
    assert "its label shows no liver. It counts in no metric." in caplog.text
