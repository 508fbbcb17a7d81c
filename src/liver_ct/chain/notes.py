"""All that speaks against a result, the same for whoever shows one: the chain, MONAI Label, MONAI Deploy."""

from __future__ import annotations

from functools import partial

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
    affine, liver, prob = ct.affine.numpy(), masks["pred"][0].numpy(), masks["prob"][0].numpy()
    of_headers = notes_on_series(ct.meta.get("files", ()), liver.shape, affine)
    return of_headers + notes_on(ct[0].numpy(), liver, affine, prob, partial(seg.mirrored, inferred))
