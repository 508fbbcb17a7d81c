"""Programs from outside Python that some tests need: a browser, a DICOM server, DICOM checkers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def program(name: str, package: str) -> str:
    """Path of a program. Without it the test is left out, or fails in CI, where `.ci/run` installs all of them."""
    if path := shutil.which(name):
        return path
    missing = f"{name} is not installed (Debian: apt-get install {package})"
    return pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


def store_by(path: Path, name: str, *options: str) -> None:
    """Store a DICOM slice anew by a program of dcmtk, such as one that compresses its pixels."""
    subprocess.run([program(name, "dcmtk"), *options, path, path], check=True, capture_output=True)
