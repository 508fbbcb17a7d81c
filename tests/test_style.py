"""The bundles pass black, isort and flake8 as the Model Zoo sets them (pyproject.toml, .flake8); ruff has the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def sources() -> list[str]:
    """Python files of the bundles, and those that are copied into them."""
    paths = [*ROOT.glob("bundles/*/scripts/*.py"), *ROOT.glob("bundles/shared/*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


@pytest.mark.parametrize(
    "tool", [["black", "--check"], ["isort", "--check-only"], ["flake8"]], ids=lambda tool: tool[0]
)
def test_style(tool):
    files = sources()
    assert "bundles/liver_seg/scripts/seg_io.py" in files and "bundles/shared/reading.py" in files
    done = subprocess.run([sys.executable, "-m", *tool, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
