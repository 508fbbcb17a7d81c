"""Mutated CT files: each must be refused by one line or read as it was, within 2 GB and 20 s.

python tests/fuzz/run.py many --count 10000 --seed 0     the table of outcomes, written to docs/reliability.md
python tests/fuzz/run.py one --number 17 --seed 0 --keep FOLDER     one of them again, its files kept
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[2]
if "PYTHONPATH" not in os.environ:  # which may name another version's package
    sys.path.insert(0, str(ROOT / "src"))
sys.path.insert(0, str(ROOT / "tests"))

import fire  # noqa: E402

from fuzz.judging import DEFECTS, Answer  # noqa: E402
from fuzz.samples import SIZE, SPACING, make_samples, write_sample  # noqa: E402

DOCS = ROOT / "docs" / "reliability.md"
BUNDLE = ROOT / "bundles" / "liver_seg"


def many(
    count: int = 10000,
    seed: int = 0,
    first: int = 0,
    workers: int | None = None,
    chained: int = 40,
    bundle: str = str(BUNDLE),
    docs: str | None = str(DOCS),
) -> None:
    """Read so many mutants and print what became of them; exit status 1 where one was not handled as promised.

    Args:
        count: of mutants.
        seed: of all of them; the same seed makes the same mutants.
        first: number of the first.
        workers: processes; None takes one per CPU core.
        chained: how many of them are also taken through the whole chain, as a command.
        bundle: the segmentation bundle whose reading is tried.
        docs: where the table is put between its marks; None leaves it.
    """
    from fuzz import reporting
    from fuzz.chain import run_chain
    from fuzz.workers import run_all

    warnings.simplefilter("ignore")
    start, samples = time.monotonic(), make_samples()
    with TemporaryDirectory(prefix="fuzz-") as folder:
        job = prepare(samples, seed, Path(folder), bundle)
        unchanged = sorted(run_all(job, range(-len(samples), 0), 1), key=lambda outcome: -outcome.number)
        outcomes = sorted(run_all(job, range(first, first + count), workers or os.cpu_count() or 1))
        seconds = time.monotonic() - start
        text, wrong = reporting.tables(unchanged, outcomes, seed, seconds), []
        if chained:
            more, wrong = run_chain(samples, seed, range(first, first + chained), Path(folder, "chain"))
            text = f"{text}\n\n{more}"
    wrong += [reporting.line(outcome, seed) for outcome in [*unchanged, *outcomes] if outcome.kind in DEFECTS]
    print(text)
    print("\n".join(wrong), file=sys.stderr)
    if docs is not None:
        reporting.put(Path(docs), text)
    if wrong:
        raise SystemExit(f"{len(wrong)} of {count} mutants were not handled as promised")


def one(number: int, seed: int = 0, keep: str | None = None, bundle: str = str(BUNDLE)) -> None:
    """Read the mutant of a number, say what became of it, and keep its files in a folder that is not there yet."""
    from fuzz import reporting
    from fuzz.mutating import mutate
    from fuzz.workers import run_all

    warnings.simplefilter("ignore")
    samples = make_samples()
    with TemporaryDirectory(prefix="fuzz-") as folder:
        job = prepare(samples, seed, Path(folder), bundle)
        for outcome in run_all(job, [number], 1):
            print(reporting.line(outcome, seed))
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
        print(write_sample(mutate(samples, seed, number).sample, Path(keep)))


def prepare(samples, seed: int, folder: Path, bundle: str):
    """What the workers share."""
    from fuzz.workers import make_job
    from liver_ct.phantom import make_phantom

    ct, _, affine = make_phantom(SIZE, SPACING)
    return make_job(Path(bundle), samples, Answer(ct, affine), seed, folder)


if __name__ == "__main__":
    fire.Fire({"many": many, "one": one})
