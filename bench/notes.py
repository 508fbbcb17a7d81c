"""How often each note is raised, and on what figures: CTs and their liver masks, labels or results alike.

python bench/notes.py lits 'volume-*.nii.gz' lits 'segmentation-*.nii.gz' [cts 'v*.nii' out 'v*/liver_mask.nii.gz' ...]
Folder and pattern of CTs and of masks in turn, as many files each, in one order; a Prob-Mask beside a mask is looked
at, too. Prints a line per CT and the numbers of docs/plausibility.md.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

from liver_ct.chain.figures import Figures, measure
from liver_ct.chain.plausibility import CHECKS
from liver_ct.outputs.names import PROB_MASK


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


def main() -> None:
    """Look at all cases."""
    found = [look(*pair) for pair in pairs(sys.argv[1:])]
    counts = Counter(code for _, codes in found for code in codes)
    print(f"\n{len(found)} CTs\n" + "\n".join(f"| `{code}` | {counts[code]} |" for code in CHECKS))
    for name, values in zip(Figures._fields, np.array([figures for figures, _ in found]).T):
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        print(f"| {name} | {known.min():.4g} to {known.max():.4g}, median {np.median(known):.4g}, of {len(known)} |")


if __name__ == "__main__":
    main()
