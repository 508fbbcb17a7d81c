"""The bundles' unit tests for the Model Zoo (tests/zoo), run as its CI does: in its layout, from its root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from liver_ct.zoo.archives import ZOO_NAMES

ROOT = Path(__file__).resolve().parents[1]


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
    tests = [f"test_{name}" for name in ZOO_NAMES.values()]
    env = {**os.environ, "PYTHONPATH": str(zoo / "ci" / "unit_tests"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", "unittest", *tests], cwd=zoo, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Ran 4 tests" in done.stderr
