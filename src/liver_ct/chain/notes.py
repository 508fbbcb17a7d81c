"""All that speaks against a result, the same for whoever shows one: the chain, MONAI Label, MONAI Deploy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from monai.data import MetaTensor

from liver_ct.chain.plausibility import notes_on
from liver_ct.chain.series import notes_on_series
from liver_ct.chain.stages import Stage
from liver_ct.outputs.results import Item, Note


def all_notes(seg: Stage, ct: MetaTensor, inferred: Item, masks: Item) -> tuple[Note, ...]:
    """Ask the headers, the values, the liver that was found, and stage 1 where it is less sure than usual.

    Args:
        seg: stage 1.
        ct: ``[1, X, Y, Z]`` in HU, of its ``load``; the slices of a DICOM series are still there.
        inferred: of its ``infer``, on its working grid.
        masks: of its ``restore``, ``pred`` and ``prob`` ``[1, X, Y, Z]`` on the CT's grid.

    Returns:
        A note for each thing; none for a good CT whose liver was found.
    """
    return notes_on_mask(ct, masks["pred"], masks["prob"], partial(seg.mirrored, inferred))


def notes_on_mask(
    ct: MetaTensor, liver: torch.Tensor, prob: torch.Tensor | None = None, mirrored: Callable[[], float] | None = None
) -> tuple[Note, ...]:
    """As `all_notes`, of a mask of the liver ``[1, X, Y, Z]``, such as one made by hand."""
    affine, of_liver = ct.affine.numpy(), liver[0].numpy()
    of_headers = notes_on_series(ct.meta.get("files", ()), of_liver.shape, affine, ct.meta.get("slices", {}))
    of_prob = None if prob is None else prob[0].numpy()
    return of_headers + notes_on(ct[0].numpy(), of_liver, affine, of_prob, mirrored)


def about_mask(given: str, own: str) -> tuple[Note, ...]:
    """What to say where the classifier is given another ``mask_source`` than its bundle's ``own``."""
    if given == own:
        return ()
    text = f"The classifier was given {given} as its mask, its bundle has {own}: its probabilities were not tried so."
    return (Note("mask_source", text),)
