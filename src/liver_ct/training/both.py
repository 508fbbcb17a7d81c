"""Both stages, from prepared data to their weights and figures, by one recipe."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liver_ct.errors import StudyError
from liver_ct.files import write_json, written_whole
from liver_ct.training import cross_validation, prob_masks
from liver_ct.training.claims import configs_of
from liver_ct.training.datalists import assign_folds, is_packed, open_data, read_lists

FOLDS = 2  # by person; two cores and an afternoon pay for no more


def train(
    data: Path,
    output: Path,
    *,
    seg: Path,
    cls: Path,
    held_out: Sequence[str] = (),
    originals: Path | None = None,
    seg_start: Path | None = None,
    seg_epochs: int = 40,
    cls_epochs: int = 120,
) -> dict[str, Any]:
    """Train stage 1 by fold and on everybody, then stage 2 on its out-of-fold Prob-Masks; judge both on unseen people.

    Goes on where a killed run stopped, at the last epoch or the next case. ``output/liver_seg.pt`` and
    ``output/liver_cls.pt`` are the weights for ``models/model.pt`` of the bundles.

    Args:
        data: a datalist.json of ``scripts/lits.py``, or the .zip that its ``pack`` made.
        output: folder for all that is made.
        seg: the segmentation bundle.
        cls: the classification bundle.
        held_out: sources that are left out as a whole, too.
        originals: datalist.json of the CTs that a packed set was made from, to judge on them.
        seg_start: stage 1's weights to start from, as ``prob_masks.make`` takes them.
        seg_epochs: of each fold of stage 1.
        cls_epochs: of each fold of stage 2.

    Returns:
        The figures, ``output/results.json``.

    Raises:
        StudyError: data that cannot be used, or a training that failed.
    """
    masks = output / "seg"
    for bundle in (seg, cls):  # before hours of training
        configs_of(bundle)
    if originals:
        read_lists(originals.resolve())
    if min(seg_epochs, cls_epochs) < 1:
        raise StudyError(f"--seg_epochs {seg_epochs}, --cls_epochs {cls_epochs}: none can be 0. Use 1 or more.")
    lists = open_data(data, masks.resolve() / "data")
    fold_of = assign_folds(lists, FOLDS, masks.resolve() / "folds.json", held_out)
    cross_validation.require_judges(data, cross_validation.tumour_folds(lists, fold_of))
    prob_masks.make(data, masks, FOLDS, seg_epochs, bundle=seg, held_out=held_out, start=seg_start)
    listed = originals or (masks / "data" / "datalist.json" if is_packed(data) else data)
    judged = prob_masks.unseen(originals, masks, "originals", seg) if originals else None
    liver = prob_masks.evaluate(listed, masks, seg)
    tumour = cross_validation.run(masks, output / "cls", cls_epochs, bundle=cls, judged=judged)
    for stage, folder in (("liver_seg", masks), ("liver_cls", output / "cls")):
        with written_whole(output / f"{stage}.pt") as part:
            shutil.copyfile(folder / "full" / "model.pt", part)
    result = {"liver": liver, "tumour": tumour}
    write_json(output / "results.json", result)
    return result
