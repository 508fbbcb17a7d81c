"""What the Model Zoo expects of the bundles, beside what test_package.py checks of their archives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, load, onnx_export

from liver_ct.zoo.archives import ZOO_NAMES

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"liver_seg": (1, 9, 64, 64), "liver_cls": (1, 6, 144, 144)}
KNOBS = {  # that make what the network sees of a CT, and what becomes of its answer
    "liver_seg": (
        "offsets", "pixdim", "grid", "hu_window", "temperature", "threshold", "network_def", "network", "bf16",
    ),
    "liver_cls": (
        "mask_source", "dilate_mm", "combine", "gop", "spacing", "roi", "margin", "normalise", "fixed_level", "unit_hu",
        "hu_window", "threshold", "smooth_mm", "calibration", "dynunet", "lite_unet", "network_def", "network", "bf16",
    ),
}  # fmt: skip


@pytest.fixture
def zoo(tmp_path) -> Path:
    """A checkout of the Model Zoo with nothing but these bundles and their tests."""
    for folder, name in ZOO_NAMES.items():
        skip = shutil.ignore_patterns("__pycache__", "eval", "runs")
        shutil.copytree(ROOT / "bundles" / folder, tmp_path / "models" / name, ignore=skip)
    shutil.copytree(
        ROOT / "tests" / "zoo", tmp_path / "ci" / "unit_tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def test_train_evaluate_and_inference_of_both_bundles_on_random_nifti(zoo):
    """The unit tests for the zoo (tests/zoo), run as its CI does: in its layout, from its root."""
    tests = [f"test_{name}" for name in ZOO_NAMES.values()]
    env = {**os.environ, "PYTHONPATH": str(zoo / "ci" / "unit_tests"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", "unittest", *tests], cwd=zoo, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Ran 4 tests" in done.stderr


@pytest.mark.parametrize("name", ZOO_NAMES)
def test_exports_equal_the_network(name, tmp_path, monkeypatch):
    bundle = ROOT / "bundles" / name
    monkeypatch.syspath_prepend(bundle)  # as the zoo's CI has it
    files = {
        "meta_file": "configs/metadata.json",
        "config_file": "configs/inference.json",
        "ckpt_file": "models/model.pt",
    }
    files = {key: str(bundle / path) for key, path in files.items()} | {"bundle_root": str(bundle)}
    x = torch.rand(SHAPES[name])
    documented = re.search(r'--input_shape "(.*?)"', (bundle / "docs" / "README.md").read_text())
    assert documented is None or json.loads(documented[1]) == list(x.shape)
    ckpt_export("network_def", filepath=str(tmp_path / "model.ts"), **files)
    onnx = str(tmp_path / "model.onnx")
    onnx_export("network_def", filepath=onnx, use_trace=True, input_shape=list(x.shape), **files)
    network = load(name, bundle_dir=str(bundle.parent), source="monaihosting", workflow_type="inference")
    with torch.inference_mode():
        expected = network.eval()(x)
        exported = torch.jit.load(tmp_path / "model.ts").eval()(x)
    assert expected.shape == (1, 1, *x.shape[2:])
    torch.testing.assert_close(exported, expected, atol=1e-4, rtol=1e-3)
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    onnx_out = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(onnx_out, expected.numpy(), atol=1e-3)


@pytest.mark.parametrize("name", ZOO_NAMES)
def test_training_and_inference_prepare_a_study_alike(name):
    """The shared knobs and the network of both configs must not drift apart."""
    configs = ROOT / "bundles" / name / "configs"
    inference, training = (json.loads((configs / f"{kind}.json").read_text()) for kind in ("inference", "train"))
    for key in KNOBS[name]:
        assert inference[key] == training[key], key


@pytest.mark.parametrize("name", ZOO_NAMES)
def test_shipped_weights_are_a_plain_state_dict(name):
    weights = torch.load(ROOT / "bundles" / name / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
