"""How long reading takes with all checks, this version against an earlier one, in turn on the same files.

python bench/reading.py run --before CHECKOUT --work WORK

CHECKOUT is an earlier version of this repository (git worktree add CHECKOUT COMMIT). Prints CPU seconds of one thread,
the median of the rounds, and their ratio, for a phantom of 512 x 512 x 130 as NIfTI, compressed or not, and as a DICOM
series, and for the files given beside it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5


def run(before: str, work: str, files: str = "", rounds: int = 3) -> None:
    """Read each file with both versions in turn.

    Args:
        before: checkout of the earlier version.
        work: folder for the phantom.
        files: further CTs, comma between them.
        rounds: processes of each version.
    """
    inputs = [*make_inputs(Path(work).resolve()), *(str(Path(file).resolve()) for file in files.split(",") if file)]
    found: dict[str, list[list[float]]] = {"before": [], "after": []}
    for _ in range(rounds):
        for name, checkout in (("before", Path(before).resolve()), ("after", ROOT)):
            words = [sys.executable, __file__, "one", str(checkout), ",".join(inputs)]
            found[name].append(json.loads(subprocess.check_output(words, text=True).splitlines()[-1]))
    for place, file in enumerate(inputs):
        one, other = (statistics.median(seconds[place] for seconds in found[name]) for name in ("before", "after"))
        print(f"{Path(file).name}: {one:.3f} s before, {other:.3f} s now, ratio {other / one:.2f}")


def make_inputs(folder: Path) -> list[str]:
    """The phantom in the forms that are read most often."""
    sys.path.insert(0, str(ROOT / "src"))
    from liver_ct.phantom import make_phantom, write_dicom_series

    inputs = [folder / "ct.nii.gz", folder / "ct.nii", folder / "series"]
    if not all(path.exists() for path in inputs):
        folder.mkdir(parents=True, exist_ok=True)
        ct, _, affine = make_phantom(size=(512, 512, 130), spacing=(0.75, 0.75, 1.0))
        for path in inputs[:2]:
            nib.save(nib.Nifti1Image(np.asarray(ct, np.int16), affine), path)
        write_dicom_series(inputs[2], ct, affine)
    return [str(path) for path in inputs]


def one(checkout: str, files: str) -> None:
    """Print the median CPU seconds that the chain of ``checkout`` takes to read each file, after one that warms up."""
    load = loader(Path(checkout))
    print(json.dumps([statistics.median([cpu_seconds(load, file) for _ in range(REPEATS + 1)][1:])
                      for file in files.split(",")]))  # fmt: skip


def cpu_seconds(load: Any, file: str) -> float:
    """CPU seconds for one file."""
    start = time.process_time()
    load({"image": file})
    return time.process_time() - start


def loader(checkout: Path) -> Any:
    """The first transform of the chain's stage 1; up to version 0.4 the chain lay in ``scripts``."""
    import torch

    torch.set_num_threads(1)
    sys.path[:0] = [str(checkout / "src"), str(checkout / "scripts")]
    if (checkout / "src").exists():
        from liver_ct.chain.stages import Stage
    else:
        from stages import Stage  # type: ignore[import-not-found, no-redef]
    return Stage(checkout / "bundles" / "liver_seg", torch.device("cpu"))["load"]


if __name__ == "__main__":
    fire.Fire({"run": run, "one": one})
