"""Mutated files: each is refused by one line or read as it was, within 2 GB and 20 s; `make fuzz` tries 10,000."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "fuzz" / "run.py"


@pytest.mark.slow
def test_300_mutants_are_refused_or_read_as_they_were():
    words = [
        sys.executable,
        str(PROGRAM),
        "many",
        "--count",
        "300",
        "--chained",
        "10",
        "--workers",
        "1",
        "--docs",
        "None",
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("300 mutants", "| refused by one line |", "10 through the whole chain"):
        assert text in done.stdout


def test_a_mutant_can_be_made_again(tmp_path):
    files = []
    for folder in ("a", "b"):
        words = [sys.executable, str(PROGRAM), "one", "--number", "7", "--seed", "3", "--keep", str(tmp_path / folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert "--number 7 --seed 3" in done.stdout
        files.append({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()})
    assert files[0] == files[1]
