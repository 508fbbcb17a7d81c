"""Fixtures: synthetic CTs, small enough that a test takes a fraction of a second."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import warm
from monai.bundle import ConfigParser

from liver_ct import phantom

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

TINY = {"size": (40, 32, 20), "spacing": (9.0, 9.0, 8.0), "tumours": 1, "tumour_radius": (12.0, 18.0)}
AXCODES = ["".join(c) for axes in itertools.permutations(("LR", "PA", "IS")) for c in itertools.product(*axes)]
ROOT = Path(__file__).resolve().parents[1]
collect_ignore = ["zoo"]  # for the Model Zoo; test_zoo.py runs them in its layout
PEOPLE = {0: "person-0", 1: "person-0", 2: "volume-2", 3: "volume-3", 4: "volume-4", 28: "volume-28"}  # of `lists`
SMALL = {  # 16 filters at least: with fewer, PyTorch's channels-last backward on a CPU overruns its memory
    "liver_seg": {"network_def#filters": [16] * 6, "patch": [64, 64], "pixdim": [4.0, 4.0, 4.0], "batch_size": 2,
                  "volume_repeats": 2, "threshold": 0.01},  # one epoch teaches little: take nearly anything for liver
    "liver_cls": {"dynunet#filters": [16] * 5, "lite_unet#decoder": [16] * 4,
                  "encoder_path": "", "roi": [32, 32], "spacing": 8.0, "groups_per_study": 4},
}  # fmt: skip


def bundle_module(bundle: str, name: str):
    """A module of a bundle's scripts."""
    root = str(ROOT / "bundles" / f"liver_{bundle}")
    if root not in sys.path:
        sys.path.append(root)
    return importlib.import_module(f"scripts.{bundle}_{name}")


@pytest.fixture(scope="session", autouse=True)
def warm_workflows():
    """What a command runs as a bundle's workflow has MONAI imported when it starts."""

    def run(words) -> int:
        done = warm.python("-m", "monai.bundle", "run", *words)
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done.returncode

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("liver_ct.training.running.run_workflow", run)
        yield


@pytest.fixture(scope="session")
def reading():
    """The module that reads studies, which both bundles hold alike."""
    return bundle_module("seg", "reading")


@pytest.fixture(scope="session")
def tiny() -> dict:
    """Knobs of `phantom.make_phantom` for a whole abdomen in 25600 voxels."""
    return dict(TINY)


@pytest.fixture
def write_lits():
    """Function that writes tiny LiTS cases: write_lits(folder, [numbers], **knobs) -> folder."""

    def write(folder: Path, numbers, **knobs) -> Path:
        for number in numbers:
            phantom.write_case(folder, number, **{**TINY, **knobs})
        return folder

    return write


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> Path:
    """Both bundles with small networks in all their configs."""
    root = tmp_path_factory.mktemp("bundles")
    for name, knobs in SMALL.items():
        shutil.copytree(ROOT / "bundles" / name, root / name, ignore=shutil.ignore_patterns("models", "eval", "runs"))
        for file in ("train.json", "inference.json"):
            path = root / name / "configs" / file
            config = ConfigParser(json.loads(path.read_text()))
            for key, value in knobs.items():
                if key in config:
                    config[key] = value
            path.write_text(json.dumps(config.get()))
    return root


@pytest.fixture(scope="session")
def coarse_cls(tmp_path_factory) -> str:
    """The classification bundle at pixels of 8 mm, a sixteenth of the work: where it matters what stage 1 finds."""
    folder = tmp_path_factory.mktemp("coarse") / "liver_cls"
    shutil.copytree(ROOT / "bundles" / "liver_cls", folder, ignore=shutil.ignore_patterns("eval", "runs"))
    file = folder / "configs" / "inference.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "spacing": 8.0, "roi": [48, 48]}))
    return str(folder)


@pytest.fixture(scope="session")
def lists(tmp_path_factory) -> Path:
    """datalist.json of five training phantoms of four people, an isolated slice and a test phantom."""
    folder = tmp_path_factory.mktemp("lits")
    entries = {}
    for number, person in PEOPLE.items():
        image, label = phantom.write_case(folder, number, size=(48, 40, 20), spacing=(8.0, 8.0, 10.0))
        entries[number] = {"image": image.name, "label": label.name, "case_id": f"volume-{number}", "group": person}
    lone = {**entries[3], "case_id": "slice-3-12"}
    for key in ("image", "label"):
        image = nib.load(folder / lone[key])
        lone[key] = f"slice-{key}.nii.gz"
        nib.save(image.slicer[:, :, 12:13], folder / lone[key])
    test = entries.pop(28)
    content = {"training": list(entries.values()), "training_slices": [lone], "test": [test]}
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


@pytest.fixture(scope="session")
def sites(lists) -> list[Path]:
    """Datalists of two hospitals, for both bundles: two training phantoms and one to validate on, with Prob-Masks."""
    cases = json.loads(lists.read_text())["training"]
    for case in cases:
        case.update({key: str(lists.parent / case[key]) for key in ("image", "label")})
        label = nib.load(case["label"])
        case["prob"] = case["label"].replace("segmentation", "prob")
        nib.save(
            nib.Nifti1Image(np.where(np.asarray(label.dataobj) > 0, 0.9, 0).astype(np.float32), label.affine),
            case["prob"],
        )
    files = []
    for i, (training, validation) in enumerate(((cases[:2], cases[2:3]), (cases[2:4], cases[4:]))):
        files.append(lists.with_name(f"site-{i}.json"))
        files[-1].write_text(json.dumps({"training": training, "validation": validation}))
    return files


def workflow_of(bundle: str | Path, *configs: str, **knobs):
    """A workflow of a bundle, of these of its configs, ready to run."""
    from monai.bundle import create_workflow

    kind = "inference" if "inference.json" in configs else "train"
    files = [str(Path(bundle) / "configs" / name) for name in configs]
    return create_workflow(config_file=files, workflow_type=kind, bundle_root=str(bundle), logging_file=False, **knobs)


def run_workflow(bundle: str | Path, *configs: str, **knobs):
    """Run a workflow of a bundle; returns it."""
    workflow = workflow_of(bundle, *configs, **knobs)
    workflow.run()
    workflow.finalize()
    return workflow


def inference_of(bundle: Path, **knobs):
    """A bundle's inference.json, ready to give its parts."""
    from monai.bundle import ConfigParser

    config = ConfigParser()
    config.read_config(bundle / "configs" / "inference.json")
    config.update({"bundle_root": str(bundle), **knobs})
    return config


def bundles_with(root: Path, **networks) -> dict[str, str]:
    """Copies of the bundles under ``root``, as arguments of the chain, with other weights.

    ``networks``, by the bundles' names, return a state dict; they may change the inference.json that they are given.
    """
    import torch

    for name, network in networks.items():
        shutil.copytree(ROOT / "bundles" / name, root / name, ignore=shutil.ignore_patterns("models", "eval", "runs"))
        (root / name / "models").mkdir()
        file = root / name / "configs" / "inference.json"
        config = json.loads(file.read_text()) | {"bf16": False}  # bfloat16 would blur comparisons
        weights = network(config)
        file.write_text(json.dumps(config))
        torch.save(weights, root / name / "models" / "model.pt")
    return {"seg_bundle": str(root / "liver_seg"), "cls_bundle": str(root / "liver_cls")}


def save_bad_cts(folder: Path, ct: np.ndarray, affine: np.ndarray) -> dict[str, str]:
    """Write ``ct`` [x, y, z] in every way that no bundle takes; returns a word of the error line for each file name."""
    ct = ct.astype(np.float32)
    nan, broken = affine.copy(), affine.copy()
    nan[0, 3], broken[0] = np.nan, 0
    images = {
        "mr": (np.abs(ct), affine, "not the HU of a CT"),
        "flat": (ct[:, :, 10], affine, "2D"),
        "phases": (np.stack([ct, ct], -1), affine, "4D"),
        "nan": (np.where(ct > 100, np.nan, ct), affine, "NaN or infinite"),
        "inf": (np.where(ct > 100, np.inf, ct), affine, "NaN or infinite"),
        "nan_affine": (ct, nan, "affine holds NaN"),
        "singular": (ct, broken, "singular"),
    }
    for name, (values, matrix, _) in images.items():
        save_with_affine(folder / f"{name}.nii.gz", values, matrix)
    whole = (folder / "nan.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.nii.gz").write_bytes(b"")
    causes = {name: cause for name, (_, _, cause) in images.items()}
    causes |= {"cut": "not a readable", "empty": "empty"}
    return {f"{name}.nii.gz": cause for name, cause in causes.items()}


def save_with_affine(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """Write an image whose affine nibabel need not like."""
    image = nib.Nifti1Image(values.astype(np.float32), None)
    image.header.set_sform(affine, code=1)
    nib.save(image, path)


def check_draws_of_one_that_goes_on(train, data: Path, folder: Path) -> None:
    """Its last batch is another than that of the epoch before, and the same from two copies of one checkpoint."""
    first = train(data, folder / "one", schedule_epochs=2)
    shutil.copytree(folder / "one", folder / "other")
    ends = [train(data, folder / name, epochs=2) for name in ("one", "other")]
    before, after, again = ([item["image"] for item in run.trainer.state.batch] for run in (first, *ends))
    assert len(before) == len(after) and not all((a == b).all() for a, b in zip(before, after))
    assert all((a == b).all() for a, b in zip(after, again, strict=True))


def check_one_seed_gives_one_network(train, data: Path, folder: Path) -> None:
    """Two trainings end with the same weights."""
    import torch

    for name in ("first", "second"):
        train(data, folder / name, epochs=1)
    paths = [folder / name / "last_checkpoint_epoch=1.pt" for name in ("first", "second")]
    first, second = (torch.load(path, weights_only=True)["averaged"] for path in paths)
    assert first and all(torch.equal(first[key], second[key]) for key in first)


def check_best_score_is_known_again(train, data: Path, folder: Path) -> None:
    """A training that goes on keeps a model that was better than all that come."""
    import torch

    first = train(data, folder, schedule_epochs=2)
    path = folder / "last_checkpoint_epoch=1.pt"
    state = torch.load(path, weights_only=True)
    score = first.evaluator.state.metrics[first.evaluator.state.key_metric_name]
    assert state["best"]["_saved"][0][0] == pytest.approx(score, abs=1e-3)
    state["best"]["_saved"] = [(2.0, "model.pt")]  # better than can be
    torch.save(state, path)
    (folder / "model.pt").write_bytes(b"the best")
    train(data, folder, epochs=2)
    assert (folder / "model.pt").read_bytes() == b"the best"
