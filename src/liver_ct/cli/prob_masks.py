"""Out-of-fold Prob-Masks: every case's mask comes from a stage 1 that has not seen that person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liver_ct.cli.knobs import note_start, takes_knobs
from liver_ct.cli.printing import errors_in_one_line, print_json, print_note
from liver_ct.cli.program import Program
from liver_ct.files import shipped

BUNDLE = shipped("bundles") / "liver_seg"


@takes_knobs("train.json")
def make(
    datalist: str,
    output: str,
    folds: int = 4,
    epochs: int = 40,
    only: Sequence[str] | str | None = None,
    bundle: str = str(BUNDLE),
    held_out: Sequence[str] = (),
    start: str | None = None,
    **overrides: Any,
) -> None:
    """Train stage 1 ``folds`` times by patient group, then everybody from the last fold on; write all Prob-Masks.

    Under ``output``: ``folds.json`` (group to fold), ``fold-K/model.pt``, ``full/model.pt``,
    ``prob/<case>/<case>_prob.nii.gz`` and ``datalist_prob.json`` (the datalist with each case's ``prob``). A second
    call goes on where a killed one stopped: at the last epoch of a training, at the next case of an inference.

    Args:
        datalist: a datalist.json of ``scripts/lits.py``, or the .zip that its ``pack`` made; validation cases take part
            as training cases.
        output: folder for all of the above.
        folds: number of folds; groups never straddle two.
        epochs: epochs of each fold, a quarter of them at half the learning rate for everybody; the last weights are
            taken, so no held-out case chooses anything.
        only: parts to do now, of "0" .. "folds - 1" and "full"; default all. Parts may run side by side.
        bundle: a segmentation bundle with the ids of bundles/liver_seg.
        held_out: sources that are left out as a whole, comma between them, each as a fold after those by person, with
            all people of whom it has anything.
        start: weights that the held-out sources' folds start from; they must not have seen those sources. Folds by
            person start from nothing (or from ``--init_path``).
        overrides: further knobs of its train.json, such as ``--batch_size 8``.
    """
    from liver_ct.training import prob_masks

    note_start(overrides)
    with errors_in_one_line():
        prob_masks.make(
            Path(datalist),
            Path(output),
            folds,
            epochs,
            only,
            bundle=Path(bundle),
            held_out=held_out,
            start=Path(start) if start else None,
            **overrides,
        )


def unseen(datalist: str, output: str, name: str, bundle: str = str(BUNDLE)) -> None:
    """Write Prob-Masks of another form of the cases of ``make``, such as the CTs that a packed set was made from.

    Every case gets its mask from the fold that has not seen its person; OUTPUT/datalist_NAME.json lists them. The knobs
    are those that ``make`` was given; no others can be.

    Args:
        datalist: datalist.json of the cases, with the same groups.
        output: the folder of ``make``.
        name: of the list.
        bundle: a segmentation bundle with the ids of bundles/liver_seg.
    """
    from liver_ct.training import prob_masks

    with errors_in_one_line():
        print(prob_masks.unseen(Path(datalist), Path(output), name, Path(bundle)))


def evaluate(datalist: str, output: str, bundle: str = str(BUNDLE)) -> None:
    """Metrics of every fold's model on its held-out cases by evaluate.json, and all of them together.

    Under ``output``: ``fold-K/metrics/*.csv`` and ``results.json``, means over the cases with 95 % intervals from a
    bootstrap that draws patient groups. Folds that were evaluated before are not done again, those that ``make`` has
    not trained are left out, and a line says so. The knobs are those that ``make`` was given; no others can be.
    """
    from liver_ct.training import prob_masks

    with errors_in_one_line():
        print_json(prob_masks.evaluate(Path(datalist), Path(output), Path(bundle), print_note))


PROGRAM = Program("prob_masks", __doc__, {"make": make, "unseen": unseen, "evaluate": evaluate})
main = PROGRAM.run
