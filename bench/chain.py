"""How long the chain takes and how much memory, step by step, by size, precision and number of studies.

python bench/chain.py run --work WORK

Every measurement is made by a fresh process, after a warm-up study. Writes docs/performance.json, the plot, and the
tables between the marks of docs/performance.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]
DOCS = ROOT / "docs"
DEPTHS = (60, 130, 300, 600)
SPACING = (0.75, 0.75, 1.0)
STEPS = ("read", "resample", "segment", "restore", "classify", "lesions", "notes", "save")
START, END = "<!-- measured -->", "<!-- end of measured -->"
Figures = dict[str, Any]


# ------------------------------------------------------------------------------------------- what a process measures


def load_chain(precision: str) -> Any:
    """The chain with its weights; ``precision`` bf16 or float32."""
    from liver_ct import LiverCT

    chain = LiverCT(device="cpu")
    if precision == "float32":
        for stage in (chain.seg, chain.cls):
            stage["inferer"].bf16 = stage["inferer"].untried = False
    return chain


def one(ct: str, work: str, precision: str = "bf16", repeats: int = 5) -> None:
    """Print the median seconds per step of one study, weights loaded, and the process's peak memory."""
    from liver_ct.files import read_json
    from liver_ct.outputs.folders import fresh_folder
    from liver_ct.outputs.names import RESULT
    from liver_ct.outputs.writing import write_study

    chain = load_chain(precision)
    idle = peak_mb()
    runs, cpu = [], []
    for _ in range(repeats + 1):
        folder, start = fresh_folder(Path(work).resolve() / "study"), (time.perf_counter(), time.process_time())
        write_study(chain(ct, regions=False), folder)
        seconds = read_json(folder / RESULT)["seconds"]
        runs.append({**seconds, "total": time.perf_counter() - start[0]})
        cpu.append(time.process_time() - start[1])
    middle = np.argsort([run["total"] for run in runs[1:]])[repeats // 2] + 1
    first = runs[0]["total"]
    print(json.dumps({**runs[middle], "first": first, "cpu": cpu[middle], "idle_mb": idle, "peak_mb": peak_mb()}))


def folder(ct: str, work: str, studies: int, jobs: int) -> None:
    """Print the seconds for a folder of copies, weights loaded, and the process's peak memory."""
    import torch

    from liver_ct.chain.folder import process, process_all
    from liver_ct.chain.progress import Progress
    from liver_ct.chain.studies import Study
    from liver_ct.outputs.folders import fresh_folder

    out = fresh_folder(Path(work).resolve() / "out")
    chains = [load_chain("bf16") for _ in range(jobs)]
    quiet = Progress()
    quiet.failed = sys.exit  # with the line that says why

    def each(chain: Any, study: Study) -> str:
        return process(chain, study, out, overwrite=True, outputs=(), done=[])

    def go(names: list[str]) -> float:
        start = time.perf_counter()
        process_all(chains, iter([Study(name, Path(ct)) for name in names]), quiet, each)
        return time.perf_counter() - start

    go([f"warm-up-{i}" for i in range(jobs)])
    seconds = go([f"study-{i}" for i in range(studies)])
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "threads": torch.get_num_threads()}))


def floors(ct: str) -> None:
    """Print what every step has to move and to compute for a CT, and how fast this machine moves and computes."""
    import torch
    from isal import igzip
    from torch.utils.flop_counter import FlopCounterMode

    chain = load_chain("bf16")
    with torch.inference_mode():
        image = chain.seg["load"]({"image": ct})["image"]
        item = chain.seg["transform"]({"image": image})
        with FlopCounterMode(display=False) as first:
            item = chain.seg.infer(item)
        masks = chain.seg["restore"](item)
        groups = chain.cls["transform"]({"image": image, "prob": masks["prob"]})
        with FlopCounterMode(display=False) as second:
            tumour = chain.cls.infer(groups)
        lesions = chain.cls["restore"](chain.cls["score"](tumour))["lesion_prob"]
    inside = int(np.count_nonzero(masks["prob"].numpy()))
    written = ((masks["prob"] * 255).round().byte(), masks["pred"], lesions)
    raw = [volume[0].numpy().tobytes(order="F") for volume in written]
    packed = Path(ct).read_bytes()
    print(
        json.dumps(
            {
                "voxels": image.numel(),
                "voxel_bytes": image.element_size(),
                "prob_mask_voxels": inside,
                "segment_gflop": first.get_total_flops() / 1e9,
                "classify_gflop": second.get_total_flops() / 1e9,
                "slices": [item["image"].shape[-1], groups["image"].shape[-1]],
                "inflate_s": best(lambda: igzip.decompress(packed)),
                "deflate_s": best(lambda: [igzip.compress(data, 1) for data in raw]),
                "copy_gb_s": copy_rate(),
                "bf16_gflop_s": product_rate(torch.bfloat16),
                "float32_gflop_s": product_rate(torch.float32),
            }
        )
    )


def best(work: Callable[[], Any], repeats: int = 5) -> float:
    """The shortest of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def copy_rate() -> float:
    """GB per second, read and written, of copying memory."""
    import torch

    a, b = torch.ones(2**28, dtype=torch.uint8), torch.ones(2**28, dtype=torch.uint8)
    return 2 * a.numel() / best(lambda: b.copy_(a)) / 1e9


def product_rate(dtype: Any, size: int = 4096) -> float:
    """GFLOP per second of a square matrix product."""
    import torch

    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / best(lambda: a @ b) / 1e9


def peak_mb() -> float:
    """This process's largest resident memory so far; ru_maxrss would count the parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# --------------------------------------------------------------------------------------------------- the whole of it


def run(work: str = "runs/bench", docs: str = str(DOCS)) -> None:
    """Measure everything, write ``performance.json`` and ``performance.png`` to DOCS, and the tables of its
    ``performance.md``."""
    from liver_ct import __version__

    folder_of = Path(work).resolve()
    cts = {depth: phantom(folder_of, depth) for depth in DEPTHS}
    ask = lambda *words: measure(folder_of, *map(str, words))  # noqa: E731
    figures: Figures = {"version": __version__, "machine": machine()}
    figures |= {"sizes": {}, "folder": {}, "processes": {}}
    for depth, ct in cts.items():
        for precision in ("bf16", "float32"):
            figures["sizes"][f"{depth} {precision}"] = ask("one", ct, "--precision", precision)
    for studies, jobs in ((8, 1), (8, 2), (2, 2), (16, 2)):
        figures["folder"][f"{studies} {jobs}"] = ask("folder", cts[130], "--studies", studies, "--jobs", jobs)
    for count in (1, 2):
        figures["processes"][str(count)] = torchrun(folder_of, cts[130], count)
    figures["floors"] = ask("floors", cts[130])
    (Path(docs) / "performance.json").write_text(json.dumps(figures, indent=1) + "\n")
    report(docs)


def phantom(work: Path, depth: int) -> Path:
    """A phantom CT, made once."""
    from liver_ct.phantom import write_case

    path = work / f"ct-{depth}" / "volume-0.nii.gz"
    if not path.exists():
        write_case(path.parent, 0, size=(512, 512, depth), spacing=SPACING)
    return path


def measure(work: Path, command: str, ct: str, *options: str) -> Figures:
    """What a fresh process prints."""
    place = [] if command == "floors" else ["--work", str(work)]  # that one writes nothing
    words = [sys.executable, __file__, command, "--ct", ct, *place, *options]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    print(command, Path(ct).parent.name, *options, done.stdout.strip(), flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def torchrun(work: Path, ct: Path, count: int, studies: int = 8) -> Figures:
    """Seconds of the whole command for a folder, by so many processes of one thread each, starting up included."""
    source = work / "folder"
    source.mkdir(exist_ok=True)
    for i in range(studies):
        link = source / f"study-{i}.nii.gz"
        link.unlink(missing_ok=True)
        link.symlink_to(ct)
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}"]
    words += [str(ROOT / "scripts/cascade.py"), "--input", str(source), "--output", str(work / "out")]
    words += ["--overwrite", "true", "--picture", "false", "--report", "false"]
    start = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return {"seconds": time.perf_counter() - start, "studies": studies}


def machine() -> str:
    """The machine by what it can do."""
    import torch

    able = torch.cpu.get_capabilities()
    features = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if able.get(name)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = torch.__version__.split("+")[0]
    return f"{os.cpu_count()} CPU cores with {', '.join(features)}, {memory:.0f} GiB, no GPU, torch {version}"


# ------------------------------------------------------------------------------------------------------- the report


def report(docs: str = str(DOCS)) -> None:
    """Plot and tables from ``performance.json``."""
    figures = json.loads((Path(docs) / "performance.json").read_text())
    plot(figures, Path(docs) / "performance.png")
    page = Path(docs) / "performance.md"
    put(page, "<!-- headline -->", "<!-- end of headline -->", [headline(figures)])
    put(page, START, END, [make(figures) for make in (size_table, floor_table, folder_table)])


def put(text: Path, start: str, end: str, parts: list[str]) -> None:
    """Put tables between two marks of a text."""
    before, rest = text.read_text().split(start)
    text.write_text("\n\n".join([before + start, *parts, end + rest.split(end)[1]]))


def headline(figures: Figures) -> str:
    """What matters most, in two sentences."""
    one, long = figures["sizes"]["130 bf16"], figures["sizes"]["600 bf16"]
    return (
        f"Version {figures['version']} takes **{one['total']:.1f} s** and {one['peak_mb'] / 1000:.1f} GB for a CT of "
        f"512 x 512 x 130, weights loaded; {one['first']:.1f} s for the first after loading, {long['total']:.1f} s for "
        f"600 slices. On {figures['machine']}."
    )


def size_table(figures: Figures) -> str:
    """Seconds per step and peak memory by size and precision."""
    rows = []
    for name, f in figures["sizes"].items():
        depth, precision = name.split(" ", 1)
        steps = [f"{f[step]:.2f}" for step in STEPS]
        others = [f"{f['first']:.2f}", f"{f['cpu']:.1f}", f"{f['peak_mb']:.0f}"]
        rows.append([depth, precision, *steps, f"**{f['total']:.2f}**", *others])
    return table(["slices", "precision", *STEPS, "total s", "first s", "CPU s", "peak MB"], rows)


def floor_table(figures: Figures) -> str:
    """How far each step is from what moving its bytes or computing its operations must take."""
    f, m = figures["floors"], figures["sizes"]["130 bf16"]
    voxels, rate = f["voxels"], f["copy_gb_s"] * 1e9
    ct, gemm = voxels * f["voxel_bytes"], f["bf16_gflop_s"]
    floors = {
        "read": (f["inflate_s"], f"inflate {ct / 1e6:.0f} MB (igzip, one thread)"),
        "resample": (ct / rate, f"read {ct / 1e6:.0f} MB"),
        "segment": (f["segment_gflop"] / gemm, f"{f['segment_gflop']:.0f} GFLOP for {f['slices'][0]} slices"),
        "restore": (
            (f["prob_mask_voxels"] * 4 + voxels) / rate,
            f"write {f['prob_mask_voxels'] * 4 / 1e6:.0f} MB of Prob-Mask, {voxels / 1e6:.0f} MB of mask",
        ),
        "classify": (f["classify_gflop"] / gemm, f"{f['classify_gflop']:.0f} GFLOP for {f['slices'][1]} slices"),
        "save": (f["deflate_s"], f"deflate {3 * voxels / 1e6:.0f} MB (igzip, one thread)"),
    }
    rows = [
        [step, what, f"{floor:.3f}", f"{m[step]:.3f}", f"{m[step] / floor:.1f}"]
        for step, (floor, what) in floors.items()
    ]
    total = sum(floor for floor, _ in floors.values())
    rows.append(["**all**", "", f"{total:.3f}", f"{m['total']:.3f}", f"{m['total'] / total:.1f}"])
    share = f["segment_gflop"] / m["segment"] / gemm
    return (
        f"Matrix products: {gemm:.0f} GFLOP/s in bfloat16, {f['float32_gflop_s']:.0f} in float32; copying: "
        f"{f['copy_gb_s']:.0f} GB/s. Stage 1 runs at {f['segment_gflop'] / m['segment']:.0f} GFLOP/s, **{share:.0%}** "
        f"of the matrix product's, stage 2 with its resampling at {f['classify_gflop'] / m['classify']:.0f}.\n\n"
        + table(["step, 130 slices, bf16", "has to", "floor s", "takes s", "times"], rows)
    )


def folder_table(figures: Figures) -> str:
    """A folder of studies: one after the other and side by side, and by several processes."""
    one = figures["sizes"]["130 bf16"]
    single, peak = one["total"], f"{one['peak_mb']:.0f}"
    rows = [
        ["one study, the first after loading", "", f"{one['first']:.2f}", f"{single / one['first']:.2f}", peak],
        ["one study, after others", "", f"{single:.2f}", "1.00", peak],
    ]
    for name, f in figures["folder"].items():
        studies, jobs = name.split()
        each = f["seconds"] / int(studies)
        rows.append([f"folder of {studies}", jobs, f"{each:.2f}", f"{single / each:.2f}", f"{f['peak_mb']:.0f}"])
    processes = figures["processes"]
    alone = processes["1"]["seconds"]
    more = [[count, f"{f['seconds']:.1f}", f"{alone / f['seconds']:.2f}"] for count, f in processes.items()]
    return (
        table(["130 slices, bf16, weights loaded", "`--jobs`", "s per study", "rate", "peak MB"], rows)
        + "\n\n"
        + table(["`torchrun` processes of one thread, 8 studies", "s, starting up included", "rate"], more)
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def plot(figures: Figures, file: Path) -> None:
    """Seconds per step, and peak memory, against the number of slices."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    runs = [figures["sizes"][f"{depth} bf16"] for depth in DEPTHS]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.stackplot(DEPTHS, [[run[step] for run in runs] for step in STEPS], labels=STEPS)
    left.plot(
        DEPTHS, [figures["sizes"][f"{depth} float32"]["total"] for depth in DEPTHS], "k--", label="all in float32"
    )
    left.set(xlabel="slices of 512 x 512", ylabel="seconds", xlim=(0, DEPTHS[-1]), ylim=0)
    left.legend(loc="upper left", fontsize=8)
    right.plot(DEPTHS, [run["peak_mb"] / 1000 for run in runs], "o-")
    right.set(xlabel="slices of 512 x 512", ylabel="peak memory, GB", xlim=(0, DEPTHS[-1] * 1.05), ylim=0)
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    fire.Fire({"run": run, "report": report, "one": one, "folder": folder, "floors": floors})
