"""A few mutants through the chain as a command, beside a good CT that must come out whatever the others do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fuzz.mutating import mutate
from fuzz.reporting import table
from fuzz.samples import SERIES_UID, Sample, write_sample
from liver_ct.outputs.names import ALWAYS

ROOT = Path(__file__).resolve().parents[2]
DONE, REFUSED, UNSAID, BOTH = "done", "refused by one line", "**passed over in silence**", "**done and refused**"
SECONDS_EACH = 20


def run_chain(samples: Mapping[str, Sample], seed: int, numbers: range, folder: Path) -> tuple[str, list[str]]:
    """Take mutants through ``scripts/cascade.py``.

    Returns:
        A table of what became of them, and what was not as promised.
    """
    good = samples["NIfTI .nii"]
    write_sample(good._replace(files={"good.nii": good.files[good.entry]}), folder / "in" / "good")
    for number in numbers:
        sample = own_series(mutate(samples, seed, number).sample, number)
        write_sample(sample, folder / "in" / name_of(number))
    words = [sys.executable, str(ROOT / "scripts" / "cascade.py"), "--input", str(folder / "in")]
    words += ["--output", str(folder / "out"), "--picture", "false", "--report", "false", "--device", "cpu"]
    limit = SECONDS_EACH * (len(numbers) + 6)  # and for starting up
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=limit, env={**os.environ})
    outcomes = {number: outcome(folder, name_of(number), done.stderr) for number in numbers}
    wrong = [f"{text} in the chain: mutant {number}" for number, text in outcomes.items() if text in (UNSAID, BOTH)]
    wrong += faults(done, whole(folder / "out", "good"))
    counts = Counter(outcomes.values())
    rows = [[text, str(counts[text])] for text in (DONE, REFUSED, UNSAID, BOTH)]
    return table([f"{len(numbers)} through the whole chain", "studies"], rows), wrong


def name_of(number: int) -> str:
    """The folder of a mutant; no name begins another."""
    return f"m{number:06d}"


def own_series(sample: Sample, number: int) -> Sample:
    """The sample with a SeriesInstanceUID of its own: mutants side by side are not parts of one series."""
    uid = f"{SERIES_UID[:-6]}{number:06d}".encode()
    return sample._replace(files={name: data.replace(SERIES_UID.encode(), uid) for name, data in sample.files.items()})


def outcome(folder: Path, name: str, errors: str) -> str:
    """What became of one study."""
    refused = any(line.startswith("ERROR ") and f"/{name}" in line for line in errors.splitlines())
    done = whole(folder / "out", name)
    return {(True, False): DONE, (False, True): REFUSED, (True, True): BOTH}.get((done, refused), UNSAID)


def whole(output: Path, name: str) -> bool:
    """Whether there is a study's result, which is named by its folder or file."""
    return any(set(ALWAYS) <= {file.name for file in folder.iterdir()} for folder in output.glob(f"{name}*"))


def faults(done: subprocess.CompletedProcess, good_is_done: bool) -> list[str]:
    """What the command did that it must not do."""
    wrong = {
        f"the chain ended with {done.returncode}": done.returncode not in (0, 1),
        "the chain printed a traceback": "Traceback" in done.stderr,
        "the chain called an error unexpected": "unexpected" in done.stderr,
        "the good study beside the mutants was lost": not good_is_done,
    }
    return [text for text, true in wrong.items() if true]
