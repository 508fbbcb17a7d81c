"""What lesions, regions, report and picture add to a study: CPU seconds of all threads, with and without, in turn.

    python bench/extras.py --work WORK

One process, weights loaded, a first study of each kind left out. CPU seconds, as other work on the machine does not
count there; the ratio is of the medians. A phantom of 512 x 512 x 130, or --ct of one's own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import chain as bench

from liver_ct import LiverCT
from liver_ct.outputs.folders import fresh_folder
from liver_ct.outputs.names import Output
from liver_ct.outputs.writing import import_writers, write_study

KINDS: dict[str, tuple[bool, tuple[Output, ...]]] = {  # lesions and regions; what is written besides
    "without": (False, ()),
    "lesions": (True, ()),
    "lesions, regions, report": (True, (Output.REPORT,)),
    "lesions, regions, report, picture": (True, (Output.REPORT, Output.PICTURE)),
}


class Bare(LiverCT):
    """The chain that lists no lesions."""

    def _lesions(self, *_: Any) -> None:
        return None


def cpu_seconds(chain: LiverCT, ct: Path, outputs: tuple[Output, ...], folder: Path) -> float:
    """CPU seconds of a study, all threads, system included."""
    start = time.process_time()
    write_study(chain(ct, regions=Output.REPORT in outputs), folder, outputs)
    return time.process_time() - start


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ct", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    ct = args.ct or bench.phantom(args.work.resolve(), 130)
    chains = {False: Bare(device="cpu"), True: LiverCT(device="cpu")}
    import_writers([Output.REPORT, Output.PICTURE])
    found: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(args.repeats + 1):
        for name, (lesions, outputs) in KINDS.items():
            folder = fresh_folder(args.work.resolve() / "study")
            found[name].append(cpu_seconds(chains[lesions], ct, outputs, folder))
    least = median(found["without"][1:])
    rows = []
    for name, seconds in found.items():
        middle = median(seconds[1:])
        spread = f"{min(seconds[1:]):.2f} to {max(seconds[1:]):.2f}"
        rows.append([name, f"{middle:.2f}", spread, f"{middle - least:+.2f}", f"{middle / least:.2f}"])
    print(bench.table(["a study", "CPU s, median", "range", "more", "ratio"], rows))


if __name__ == "__main__":
    main()
