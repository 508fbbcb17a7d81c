"""Fixtures: synthetic CTs, small enough that a test takes a fraction of a second."""

from __future__ import annotations

import os
from pathlib import Path

import phantom
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = {"size": (40, 32, 20), "spacing": (9.0, 9.0, 8.0), "tumours": 1, "tumour_radius": (12.0, 18.0)}


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
