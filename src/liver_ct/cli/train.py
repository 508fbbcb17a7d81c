"""Both stages trained and judged, from prepared data to both model.pt, by one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from liver_ct.cli.printing import errors_in_one_line, print_json
from liver_ct.cli.program import Program
from liver_ct.files import shipped


def train(
    data: str,
    output: str,
    held_out: Sequence[str] = (),
    originals: str | None = None,
    seg_start: str | None = None,
    seg_epochs: int = 40,
    cls_epochs: int = 120,
    seg_bundle: str = str(shipped("bundles") / "liver_seg"),
    cls_bundle: str = str(shipped("bundles") / "liver_cls"),
) -> None:
    """Train stage 1 by fold and on everybody, then stage 2 on its out-of-fold Prob-Masks; judge both on unseen people.

    OUTPUT/liver_seg.pt and OUTPUT/liver_cls.pt are the weights for models/model.pt of the bundles, OUTPUT/results.json
    holds the figures. The same command goes on where a killed one stopped.

    Args:
        data: a datalist.json of scripts/lits.py, or the .zip that its pack made.
        output: folder for all that is made.
        held_out: sources that are left out as a whole, too, comma between them, such as another hospital's.
        originals: datalist.json of the CTs that a packed set was made from, to judge on them.
        seg_start: stage 1's weights that the held-out sources' folds start from; they must not have seen those
            sources. Folds by person always start from nothing.
        seg_epochs: of each fold of stage 1, a quarter of them for everybody, who goes on from the last fold.
        cls_epochs: of each fold of stage 2, likewise.
        seg_bundle: folder of the segmentation bundle.
        cls_bundle: folder of the classification bundle.
    """
    from liver_ct.training import both

    with errors_in_one_line():
        print_json(
            both.train(
                Path(data),
                Path(output),
                seg=Path(seg_bundle),
                cls=Path(cls_bundle),
                held_out=held_out,
                originals=Path(originals) if originals else None,
                seg_start=Path(seg_start) if seg_start else None,
                seg_epochs=seg_epochs,
                cls_epochs=cls_epochs,
            )
        )


PROGRAM = Program("train", __doc__, train)
main = PROGRAM.run
