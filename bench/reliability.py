"""What the chain survives: kills at any moment, CTs stored in every order of axes, many studies and large ones.

python bench/reliability.py kills --work WORK
python bench/reliability.py orientations --work WORK
python bench/reliability.py loads --work WORK

Each writes its table between its marks of docs/reliability.md, and ends with exit status 1 where something was not as
promised there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
from chain import put, table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]
DOCS = str(ROOT / "docs" / "reliability.md")


# ------------------------------------------------------------------------------------------------------------- kills


def kills(work: str = "runs/reliability", count: int = 40, seed: int = 0, docs: str | None = DOCS) -> None:
    """Kill the chain at random moments: each result must be there whole or not at all, and the next run must end well.

    Processes are forked after the imports, so that the moments fall into the work and not into starting Python.

    Args:
        work: folder for studies and results.
        count: of kills.
        seed: of the moments.
        docs: text that gets the table; None prints it only.
    """
    folder = Path(work).resolve() / "kills"
    source = three_studies(folder / "in")
    start = time.monotonic()
    begin(source, folder / "whole").join()
    seconds, expected = time.monotonic() - start, contents(folder / "whole")
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        found.append(one_kill(source, folder / f"out-{number}", rng.uniform(0, seconds), expected))
        print(found[-1], flush=True)
        shutil.rmtree(folder / f"out-{number}")
    tell(docs, "kills", kill_table(found, len(expected)), [one for one in found if bad_kill(one)])


def kill_table(found: list[dict[str, Any]], studies: int) -> str:
    """What the kills left, and what the next runs made of it."""
    there = [sum(one["there"] == n for one in found) for n in range(studies + 1)]
    rows = [
        ["kills, evenly spread over a run", str(len(found))],
        *[[f"with {n} of {studies} results there by then", str(times)] for n, times in enumerate(there)],
        ["results there that were not whole", str(sum(one["broken"] for one in found))],
        ["next runs that did not end well", str(sum(not one["ended"] for one in found))],
        ["next runs whose results differ from an undisturbed run's", str(sum(one["other"] for one in found))],
        ["next runs that left anything else behind", str(sum(one["left"] for one in found))],
    ]
    return table(["", "times"], rows)


def bad_kill(one: dict[str, Any]) -> bool:
    """Whether something was lost by a kill."""
    return bool(one["broken"] or one["other"] or one["left"] or not one["ended"])


def three_studies(folder: Path) -> Path:
    """Three DICOM series, of which all outputs can be written, made once."""
    from liver_ct.phantom import make_phantom, write_dicom_series

    for seed, name in enumerate("abc"):
        if not (folder / name).exists():
            ct, _, affine = make_phantom((96, 96, 50), (4, 4, 5), seed=seed)
            write_dicom_series(folder / name, ct, affine)
    return folder


def begin(source: Path, output: Path) -> multiprocessing.process.BaseProcess:
    """Start the chain in a forked process."""
    import liver_ct.chain.folder  # noqa: F401  # imported here, once for all
    import liver_ct.chain.memory  # noqa: F401  # before torch
    from liver_ct.cli.cascade import cascade

    process = multiprocessing.get_context("fork").Process(
        target=cascade, args=(str(source), str(output)), kwargs={"device": "cpu", "dicom_output": True}
    )
    process.start()
    return process


def one_kill(source: Path, output: Path, moment: float, expected: dict[str, Any]) -> dict[str, Any]:
    """Kill a run after so many seconds, look at what it left, and run again to the end."""
    from liver_ct.outputs.names import INDEX, SUMMARY

    killed = begin(source, output)
    killed.join(moment)
    killed.kill()
    killed.join()
    there = contents(output)
    again = begin(source, output)
    again.join()
    last = contents(output)
    return {
        "moment": round(moment, 2),
        "there": len(there),
        "broken": sum(files != expected[case] for case, files in there.items()),
        "ended": again.exitcode == 0,
        "other": sum(last.get(case) != files for case, files in expected.items()),
        "left": len({p.name for p in output.iterdir()} - {*expected, INDEX, SUMMARY}),
    }


def contents(output: Path) -> dict[str, Any]:
    """Of each result folder: its files' names, and the content of those that are the same in every run."""
    found = {}
    for folder in output.iterdir() if output.exists() else ():
        if folder.is_dir() and not folder.name.startswith("."):
            masks = [nib.load(path).get_fdata().sum() for path in sorted(folder.glob("*.nii.gz"))]
            result = json.loads((folder / "result.json").read_text())
            closed = (folder / "report.html").read_text().rstrip().endswith("</html>")
            names = sorted(path.name for path in folder.iterdir())
            found[folder.name] = [names, masks, (folder / "slices.csv").read_text(), result["liver_volume_ml"], closed]
    return found


# ------------------------------------------------------------------------------------------------------ orientations


def orientations(work: str = "runs/reliability", docs: str | None = DOCS) -> None:
    """One phantom stored in all 48 orders and directions of axes: the answer must be the same, voxel by voxel."""
    from nibabel.orientations import axcodes2ornt, ornt_transform

    from liver_ct import LiverCT
    from liver_ct.phantom import make_phantom
    from liver_ct.phantom.writing import nifti

    ct, _, affine = make_phantom((64, 64, 40), (6, 6, 6))
    chain, file, found = LiverCT(device="cpu"), Path(work).resolve() / "turned.nii", {}
    file.parent.mkdir(parents=True, exist_ok=True)
    for axcodes in every_orientation():
        turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(axcodes))
        turned = nifti(ct, affine).as_reoriented(turn)
        nib.save(nifti(np.asarray(turned.dataobj), turned.affine), file)
        study = chain(file, regions=False)
        mask = nib.as_closest_canonical(nib.Nifti1Image(study.liver_mask, study.affine))
        found[axcodes] = np.asarray(mask.dataobj) > 0, study.summary
    first, summary = found["LPS"]
    dice = {axes: 2 * (mask & first).sum() / (mask.sum() + first.sum()) for axes, (mask, _) in found.items()}
    ml = max(abs(other.liver_volume_ml - summary.liver_volume_ml) for _, other in found.values())
    tumour = max(abs(other.study_tumour_probability - summary.study_tumour_probability) for _, other in found.values())
    rows = [
        ["orientations", str(len(found))],
        ["lowest Dice of a liver mask with that of LPS", f"{min(dice.values()):.5f}"],
        [f"largest difference of the volume, of {summary.liver_volume_ml:.0f} ml", f"{ml:.2f} ml"],
        ["largest difference of the study's tumour probability", f"{tumour:.4f}"],
    ]
    tell(docs, "orientations", table(["", ""], rows), [axes for axes, d in dice.items() if d < 0.999])


def every_orientation() -> list[str]:
    """The 48 axis codes."""
    found = []
    for order in permutations(("RL", "AP", "SI")):
        found += ["".join(codes) for codes in product(*order)]
    return found


# ------------------------------------------------------------------------------------------------------------- loads


def loads(work: str = "runs/reliability", docs: str | None = DOCS) -> None:
    """Seconds and memory of the command for many studies and for large ones."""
    folder, rows, wrong = Path(work).resolve() / "loads", [], []
    for name, (make, studies) in LOADS.items():
        source = folder / name.replace(" ", "-")
        if not source.exists():
            context = multiprocessing.get_context("spawn")  # the memory it takes is not the chain's
            maker = context.Process(target=make, args=(source,))
            maker.start()
            maker.join()
        seconds, peak, code = watch(source, folder / "out")
        done = len([*(folder / "out").glob("*/result.json")])
        rows.append([name, str(done), f"{seconds:.0f}", f"{seconds / studies:.1f}", f"{peak:.0f}"])
        print(rows[-1], flush=True)
        wrong += [name] if code or done != studies else []
        shutil.rmtree(folder / "out")
    head = ["without pictures and reports", "results", "s, starting up included", "s per study", "peak MB"]
    tell(docs, "loads", table(head, rows), wrong)


def sixty_studies(folder: Path) -> None:
    """One CT under 60 names."""
    from liver_ct.phantom import write_case

    folder.mkdir(parents=True)
    ct, _ = write_case(folder.with_name("one-ct"), 0)
    for number in range(60):
        (folder / f"study-{number:02d}.nii.gz").symlink_to(ct)


def many_slices(folder: Path) -> None:
    """A DICOM series of 1,500 slices of 512 x 512, 0.25 mm apart: each of 150 ten times."""
    from liver_ct.phantom import make_phantom, write_dicom_series

    ct, _, affine = make_phantom((512, 512, 150), (0.75, 0.75, 2.5))
    write_dicom_series(folder, np.repeat(ct, 10, axis=2), affine @ np.diag([1, 1, 0.1, 1]))


def large_slices(folder: Path) -> None:
    """A NIfTI of 1024 x 1024 x 130: each voxel of 512 x 512 four times."""
    from liver_ct.phantom import make_phantom
    from liver_ct.phantom.writing import nifti

    ct, _, affine = make_phantom((512, 512, 130), (0.75, 0.75, 2.5))
    folder.mkdir(parents=True)
    ct = ct.repeat(2, axis=0).repeat(2, axis=1)
    nib.save(nifti(ct, affine @ np.diag([0.5, 0.5, 1, 1])), folder / "ct.nii.gz")


LOADS: dict[str, tuple[Callable[[Path], None], int]] = {
    "60 studies of 256 x 256 x 80": (sixty_studies, 60),
    "1,500 slices of 512 x 512, DICOM": (many_slices, 1),
    "1024 x 1024 x 130": (large_slices, 1),
}


def watch(source: Path, output: Path) -> tuple[float, float, int]:
    """Run the command; its seconds, its largest resident memory in MB, and its exit status."""
    words = [sys.executable, str(ROOT / "scripts" / "cascade.py"), "--input", str(source), "--output", str(output)]
    words += ["--picture", "false", "--report", "false", "--device", "cpu"]
    start, peak = time.monotonic(), 0.0
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    while running.poll() is None:
        status = Path(f"/proc/{running.pid}/status").read_text()
        peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) / 1024) if "VmHWM" in status else peak
        time.sleep(0.1)
    return time.monotonic() - start, peak, running.returncode


# ------------------------------------------------------------------------------------------------------------ report


def tell(docs: str | None, section: str, text: str, wrong: list[Any]) -> None:
    """Print a table, put it into its section of a text, and end with an error where something was not as promised."""
    print(text)
    if docs is not None:
        put(Path(docs), f"<!-- {section} -->", f"<!-- end of {section} -->", [text])
    if wrong:
        raise SystemExit(f"{section}: {len(wrong)} not as promised: {wrong[:5]}")


if __name__ == "__main__":
    fire.Fire({"kills": kills, "orientations": orientations, "loads": loads})
