"""The whole repository passes black, isort and flake8 as the Model Zoo sets them (pyproject.toml, .flake8)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {"node_modules", "data", "demo", "dist"}  # not of this repository, or not in it


def sources() -> list[str]:
    """Python files of the repository, whatever environments and data lie in its folder."""
    paths = [path.relative_to(ROOT) for path in ROOT.rglob("*.py")]
    return sorted(str(p) for p in paths if not ELSEWHERE & {*p.parts} and not any(x.startswith(".") for x in p.parts))


@pytest.mark.parametrize(
    "tool", [["black", "--check"], ["isort", "--check-only"], ["flake8"]], ids=lambda tool: tool[0]
)
def test_style(tool):
    files = sources()
    assert "scripts/cascade.py" in files and "bundles/liver_seg/scripts/seg_io.py" in files
    done = subprocess.run([sys.executable, "-m", *tool, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
