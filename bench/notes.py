"""How often each note is raised, and on what figures: CTs and their liver masks, labels or results alike.

python bench/notes.py lits 'volume-*.nii.gz' lits 'segmentation-*.nii.gz' [cts 'v*.nii' out 'v*/liver_mask.nii.gz' ...]
Folder and pattern of CTs and of masks in turn, as many files each, in one order; a Prob-Mask beside a mask is looked
at, too. Prints a line per CT and the numbers of docs/plausibility.md, also of `jump` with slices taken out of the
liver, and with slices put in twice.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

from liver_ct.chain.figures import NEAR_MM, Figures, measure
from liver_ct.chain.plausibility import CHECKS, STEP
from liver_ct.chain.values import FINE, sudden_step
from liver_ct.outputs.names import PROB_MASK

LOST_MM, PLACES, EDGE = (10, 15, 25, 40, 60), (0.1, 0.25, 0.5, 0.75, 0.9), 5  # of slices; in the liver; from the ends


def pairs(words: list[str]) -> list[tuple[Path, Path]]:
    """CT and mask of each case."""
    lists = [sorted(Path(folder).glob(pattern)) for folder, pattern in zip(words[::2], words[1::2])]
    for cts, masks in zip(lists[::2], lists[1::2]):
        if len(cts) != len(masks) or not cts:
            raise SystemExit(f"ERROR {words}: {len(cts)} CTs and {len(masks)} masks. Give as many.")
    return [pair for cts, masks in zip(lists[::2], lists[1::2]) for pair in zip(cts, masks)]


def look(ct: Path, mask: Path) -> tuple[Figures, list[str]]:
    """Figures and codes of the notes of one case, and a line about it."""
    image = nib.load(ct)
    values = np.asarray(image.dataobj, np.float32)
    liver = (np.asarray(nib.load(mask).dataobj) > 0.5).astype(np.uint8)
    beside = mask.with_name(PROB_MASK)
    prob = np.asarray(nib.load(beside).dataobj, np.float32) if beside.exists() else None
    start = time.process_time()
    figures = measure(values, liver, image.affine, prob)
    seconds = time.process_time() - start
    codes = [code for code, look_at in CHECKS.items() if look_at(figures)]
    print(mask.parent.name, ct.name, *(f"{value:.4g}" for value in figures), f"{seconds:.2f}", codes)
    return figures, codes


def jumps(ct: Path, mask: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Mm of slices and the step that follows, where they are taken out of the liver and where they are put in twice."""
    image, liver = (nib.as_closest_canonical(nib.load(path)) for path in (ct, mask))
    values = np.asarray(image.dataobj)[tuple(slice(None, None, max(1, size // FINE)) for size in image.shape[:2])]
    first, *_, last = np.flatnonzero((np.asarray(liver.dataobj) > 0.5).any((0, 1)))
    mm, count = float(image.header.get_zooms()[2]), image.shape[2]
    near, order = round(NEAR_MM / mm), np.arange(count)
    lost, twice = [], []
    for part in LOST_MM:
        run = max(1, round(part / mm))
        starts = [int(first + at * (last - first)) - run // 2 for at in PLACES]
        for start in (s for s in starts if s >= EDGE and s + run <= count - EDGE):
            around = slice(max(0, first - near), max(first + 1, last - run) + 1 + near)
            lost.append((part, sudden_step(values[..., np.delete(order, slice(start, start + run))][..., around])))
            around = slice(max(0, first - near), last + run + 1 + near)
            again = np.r_[order[: start + run], order[start:]]
            twice.append((part, sudden_step(values[..., again][..., around])))
    return lost, twice


def main() -> None:
    """Look at all cases."""
    cases = pairs(sys.argv[1:])
    found = [look(*pair) for pair in cases]
    counts = Counter(code for _, codes in found for code in codes)
    print(f"\n{len(found)} CTs\n" + "\n".join(f"| `{code}` | {counts[code]} |" for code in CHECKS))
    for name, values in zip(Figures._fields, np.array([figures for figures, _ in found]).T):
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        print(f"| {name} | {known.min():.4g} to {known.max():.4g}, median {np.median(known):.4g}, of {len(known)} |")
    both = [jumps(*pair) for pair in cases]
    for what, steps in (("lost", [lost for lost, _ in both]), ("twice", [twice for _, twice in both])):
        for part in LOST_MM:
            of_part = [step for case in steps for mm, step in case if mm == part]
            print(f"{part} mm {what}: jump in {np.mean(np.array(of_part) > STEP):.3f} of {len(of_part)}")


if __name__ == "__main__":
    main()
