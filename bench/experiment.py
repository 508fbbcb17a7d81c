"""The experiment at the size of all of LiTS, on phantoms: 131 tiny CTs through every step, killed once and resumed.

python bench/experiment.py --work WORK

Networks and CTs are tiny, and one epoch long: it shows that the steps hold together at that number of people, what they
cost beside the training itself, and the largest process.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fire

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]
SMALL: dict[str, dict[str, Any]] = {
    "liver_seg": {"network_def#filters": [16] * 6, "patch": [64, 64], "volume_repeats": 2},
    "liver_cls": {"dynunet#filters": [16] * 5, "lite_unet#decoder": [16] * 4,
                  "encoder_path": "", "roi": [32, 32], "spacing": 8.0, "volume_repeats": 1},
}  # fmt: skip
SIZE, SPACING = (48, 48, 24), (7.5, 7.5, 8.0)


def run(work: str = "runs/experiment", people: int = 131) -> None:
    """Make the phantoms, run the experiment, kill it while its first arm is trained, run it again, and print the cost.

    Args:
        work: folder for all of it.
        people: phantoms, each a person of its own.
    """
    folder = Path(work).resolve()
    config = prepare(folder, people)
    command = [sys.executable, str(ROOT / "scripts" / "study.py"), "run", "--config", str(config), "--workers", "1",
               "--seg_bundle", str(folder / "liver_seg"), "--cls_bundle", str(folder / "liver_cls")]  # fmt: skip
    start = time.monotonic()
    killed = kill_in_first_arm(command, folder / "out" / "arms")
    subprocess.run(command, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = json.loads((folder / "out" / "results.json").read_text())
    found = {
        "people": len(set(results["slices"]["person"])),
        "slices": len(results["slices"]["case"]),
        "arms": len(results["scores"]),
        "killed after, s": round(killed),
        "wall, s": round(time.monotonic() - start),
        "CPU, s": round(used.ru_utime + used.ru_stime),
        "largest process, MB": round(used.ru_maxrss / 1024),
        "disk, MB": round(sum(f.stat().st_size for f in (folder / "out").rglob("*") if f.is_file()) / 1e6),
    }
    print(json.dumps(found, indent=1))


def prepare(folder: Path, people: int) -> Path:
    """Write phantoms, small bundles and the experiment's config, whose path is returned."""
    from monai.bundle import ConfigParser

    from liver_ct.phantom import write_case

    entries = []
    for number in range(people):
        files = write_case(folder / "lits", number, size=SIZE, spacing=SPACING, tumours=1, tumour_radius=(12.0, 18.0))
        names = dict(zip(("image", "label"), map(str, files)))
        entries.append({**names, "case_id": f"volume-{number}", "group": f"volume-{number}", "source": "phantoms"})
    (folder / "datalist.json").write_text(json.dumps({"training": entries}))
    for name, knobs in SMALL.items():
        ignored = shutil.ignore_patterns("models", "eval", "runs")
        shutil.copytree(ROOT / "bundles" / name, folder / name, ignore=ignored, dirs_exist_ok=True)
        for file in ("train.json", "inference.json"):
            path = folder / name / "configs" / file
            content = ConfigParser(json.loads(path.read_text()))
            for key, value in knobs.items():
                if key in content:
                    content[key] = value
            path.write_text(json.dumps(content.get()))
    arms = [{"mask_source": ["prob", "binary"]}, {"seen": True, "mask_source": "prob"}]
    names = ["prob-concat-gop3", "binary-concat-gop3", "seen-prob-concat-gop3"]
    content = {
        "datalist": str(folder / "datalist.json"), "output": str(folder / "out"), "folds": 2, "stage1_epochs": 1,
        "epochs": 1, "reference": names[0], "contrasts": [[names[0], n] for n in names[1:]], "arms": arms,
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(content))
    return folder / "study.json"


def kill_in_first_arm(command: list[str], arms: Path) -> float:
    """Run a command until its first arm is being trained, and kill it and its trainings; seconds it ran."""
    start = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None and not list(arms.glob("*/seed-0/fold-*/runs")):
        time.sleep(1)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return time.monotonic() - start


if __name__ == "__main__":
    fire.Fire(run)
