"""How often each note is raised, and on what figures: CTs and their liver masks, labels or results alike.

python bench/notes.py 'lits/volume-*.nii.gz' 'lits/segmentation-*.nii.gz' ['btcv/volume-*.nii.gz' 'out/*/liver_mask.nii.gz' ...]
Patterns of CTs and of masks in turn, as many files each, in one order. Prints a line per CT and the table of
docs/plausibility.md.
"""

from __future__ import annotations

import glob
import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

from liver_ct.chain.plausibility import CHECKS, Figures, measure, notes_on


def pairs(patterns: list[str]) -> list[tuple[str, str]]:
    """CT and mask of each case."""
    found = []
    for cts, masks in zip(patterns[::2], patterns[1::2]):
        names, others = sorted(glob.glob(cts)), sorted(glob.glob(masks))
        if len(names) != len(others) or not names:
            raise SystemExit(f"ERROR {cts}: {len(names)} CTs and {len(others)} masks. Give as many.")
        found += list(zip(names, others))
    return found


def look(ct: str, mask: str) -> tuple[Figures, list[str]]:
    """Figures and codes of the notes of one case, and a line about it."""
    image = nib.load(ct)
    values = np.asarray(image.dataobj, np.float32)
    liver = (np.asarray(nib.load(mask).dataobj) > 0.5).astype(np.uint8)
    start = time.process_time()
    codes = [note.code for note in notes_on(values, liver, image.affine)]
    seconds = time.process_time() - start
    figures = measure(values, liver, image.affine)
    print(Path(mask).parent.name, Path(ct).name, *(f"{value:.4g}" for value in figures), f"{seconds:.2f}", codes)
    return figures, codes


def main() -> None:
    """Look at all cases."""
    found = [look(*pair) for pair in pairs(sys.argv[1:])]
    counts = Counter(code for _, codes in found for code in codes)
    print(f"\n{len(found)} CTs\n" + "\n".join(f"| `{code}` | {counts[code]} |" for code in CHECKS))
    for name, values in zip(Figures._fields, np.array([figures for figures, _ in found]).T):
        known = values[np.isfinite(values)]
        print(f"| {name} | {known.min():.4g} to {known.max():.4g}, median {np.median(known):.4g}, of {len(known)} |")


if __name__ == "__main__":
    main()
