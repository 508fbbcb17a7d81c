"""DICOM: how long reading and writing take and how large the results are, and a picture made from the files alone.

python bench/dicom.py read --before CHECKOUT
python bench/dicom.py write
python bench/dicom.py picture --series FOLDER --results FOLDER --output docs/dicom.png

CHECKOUT is an earlier version of this repository (git worktree add CHECKOUT COMMIT). On a phantom of 512 x 512 x 130,
made in a temporary folder.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fire
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]
SIZE, SPACING = (512, 512, 130), (0.75, 0.75, 2.5)
WINDOW = (-60, 200)  # HU


def make_series(folder: Path) -> Path:
    """The phantom as a DICOM series."""
    from liver_ct import phantom

    return phantom.write_dicom_series(folder, *phantom.make_phantom(SIZE, SPACING)[::2])[0].parent


def read_once(checkout: str, series: str, dump: str, repeats: int = 5) -> None:
    """Print seconds and CPU seconds of reading the series by a version's reader; keep what it read in ``dump``."""
    from liver_ct.chain.stages import read_bundle

    load = read_bundle(Path(checkout).resolve() / "bundles" / "liver_seg").get_parsed_content("load")
    image = load({"image": series})["image"]  # warm-up
    np.savez(dump, voxels=image.numpy().astype(np.float32), affine=image.affine.numpy())
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        load({"image": series})
        print(time.perf_counter() - start[0], time.process_time() - start[1])


def read(before: str, rounds: int = 3) -> None:
    """Both versions in turn, each in processes of its own, on one series: medians, their ratio, and whether they read
    the same."""
    with tempfile.TemporaryDirectory() as folder:
        series, found = make_series(Path(folder) / "series"), {"before": [], "after": []}
        for _ in range(rounds):
            for name, checkout in (("before", before), ("after", str(ROOT))):
                words = [sys.executable, __file__, "read_once", "--checkout", checkout, "--series", str(series)]
                words += ["--dump", f"{folder}/{name}.npz"]
                lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
                found[name] += [[float(v) for v in line.split()] for line in lines]
        one, other = (np.load(f"{folder}/{name}.npz") for name in found)
        same = all(np.array_equal(one[key], other[key]) for key in ("voxels", "affine"))
    for kind, column in (("seconds", 0), ("CPU seconds", 1)):
        old, new = (statistics.median(run[column] for run in runs) for runs in found.values())
        print(f"{kind}: {old:.3f} before, {new:.3f} after, ratio {old / new:.2f} (medians of {len(found['after'])})")
    print("bit-equal voxels and affine:", same)


def write(repeats: int = 5) -> None:
    """CPU seconds and sizes of the objects, of what the shipped weights find, with and without empty frames."""
    from liver_ct import LiverCT

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = LiverCT(device="cpu")(make_series(folder / "series"), "study", regions=False)
        for kind, study in {"as found": found, "every frame holds something": fill_frames(found)}.items():
            seconds: dict[str, list[float]] = {}
            for _ in range(repeats + 1):
                measure(seconds, folder, study)
            print(kind)
            for step, values in seconds.items():
                size = sum(file.stat().st_size for file in folder.glob("*.dcm") if file.name == step or "all" in step)
                print(f"  {step}: {statistics.median(values[1:]):.3f} s, {size / 1e6:.2f} MB (median of {repeats})")


def fill_frames(study: Any) -> Any:
    """The study with a voxel of liver in every slice."""
    liver, prob = study.liver_mask.copy(), study.prob_mask.copy()
    liver[0, 0], prob[0, 0] = 1, 1
    return dataclasses.replace(study, liver_mask=liver, prob_mask=prob)


def measure(seconds: dict[str, list[float]], folder: Path, study: Any) -> None:
    """Append how long all takes, in seconds of the clock and of the CPU, and the CPU seconds of each object."""
    from liver_ct.outputs import dicom as out

    start, cpu = time.perf_counter(), time.process_time()
    out.write_dicom(study, folder)
    seconds.setdefault("all, by the clock", []).append(time.perf_counter() - start)
    seconds.setdefault("all", []).append(time.process_time() - cpu)
    headers, cpu = out.read_headers(study), time.process_time()
    for name, dataset in out.make_objects(headers, study):
        dataset.save_as(folder / name)
        seconds.setdefault(name, []).append(time.process_time() - cpu)
        cpu = time.process_time()


# ---------------------------------------------------------------------------------------------------- the picture


def picture(series: str, results: str, output: str) -> None:
    """The slice that the report is most certain of, found by its UID, with both segmentations over it, placed by the
    positions that their frames give; and a coronal cut. Everything is read from DICOM files."""
    import matplotlib as mpl
    import pydicom

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from liver_ct.outputs.names import DICOM_LIVER, DICOM_PROB, DICOM_REPORT

    slices = sorted(map(pydicom.dcmread, Path(series).iterdir()), key=lambda s: float(s.ImagePositionPatient[2]))
    ct = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    heights = [float(s.ImagePositionPatient[2]) for s in slices]
    liver, prob = (frames_at(pydicom.dcmread(Path(results) / name), heights) for name in (DICOM_LIVER, DICOM_PROB))
    certainty, uid, lines = most_certain(pydicom.dcmread(Path(results) / DICOM_REPORT))
    z = [s.SOPInstanceUID for s in slices].index(uid)
    y = int(np.argmax(liver.sum((0, 2))))
    dy, dx = (float(v) for v in slices[0].PixelSpacing)
    dz = heights[1] - heights[0]
    plt.rcParams.update({"text.color": "w", "axes.titlecolor": "w", "font.size": 9})
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), facecolor="#101418", layout="constrained")
    panels = [
        (f"liver_mask.dcm, slice of {certainty:.0f} %", ct[z], liver[z], None, dy / dx, "upper"),
        ("prob_mask.dcm, the same slice", ct[z], liver[z] * 0, prob[z] / 255, dy / dx, "upper"),
        ("both, coronal", ct[:, y], liver[:, y], prob[:, y] / 255, dz / dx, "lower"),
    ]
    for axis, (title, plane, outline, heat, aspect, origin) in zip(axes, panels):
        axis.imshow(plane, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=aspect, origin=origin)
        if heat is not None:
            axis.imshow(
                np.ma.masked_less(heat, 0.02), cmap="inferno", vmin=0, vmax=1, alpha=0.5, aspect=aspect, origin=origin
            )
        if outline.any():
            axis.contour(outline, [0.5], colors="#35c9c1", linewidths=1.2)
        axis.set_title(title, loc="left")
        axis.axis("off")
    figure.suptitle("report.dcm: " + "; ".join(lines), x=0.01, ha="left", fontsize=10)
    figure.savefig(output, dpi=80)


def frames_at(seg: Any, heights: list[float]) -> np.ndarray:
    """Frames ``[Z, Y, X]`` of an axial SEG at the given heights, zeros where it has none."""
    volume = np.zeros((len(heights), seg.Rows, seg.Columns), np.uint8)
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence):
        volume[int(np.argmin(np.abs(np.subtract(heights, group.PlanePositionSequence[0].ImagePositionPatient[2]))))] = (
            frame
        )
    return volume


def most_certain(report: Any) -> tuple[float, str, list[str]]:
    """Highest certainty of a slice in percent, the slice's SOPInstanceUID, and the report's figures in words."""
    slices, lines = [], []
    (measured,) = (
        i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    for group in measured.ContentSequence:
        items = {i.ConceptNameCodeSequence[0].CodeMeaning: i for i in group.ContentSequence}
        name, number = items["Tracking Identifier"].TextValue, next(i for i in items.values() if i.ValueType == "NUM")
        value, unit = number.MeasuredValueSequence[0].NumericValue, number.MeasuredValueSequence[0]
        unit = unit.MeasurementUnitsCodeSequence[0].CodeValue
        if "slice" in name:
            uid = items["Source of Measurement"].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            slices.append((float(value), uid))
        else:
            lines.append(f"{name}: {number.ConceptNameCodeSequence[0].CodeMeaning.lower()} {float(value):.0f} {unit}")
    return *max(slices), [*lines, f"{len(slices)} slices flagged"]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    fire.Fire({"read": read, "read_once": read_once, "write": write, "picture": picture})
