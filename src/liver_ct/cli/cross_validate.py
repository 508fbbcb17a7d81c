"""Cross-validation of stage 2 by patient group, on out-of-fold Prob-Masks, and the training of its final weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liver_ct.cli.knobs import note_start, takes_knobs
from liver_ct.cli.printing import errors_in_one_line, print_json
from liver_ct.cli.program import Program
from liver_ct.files import shipped

BUNDLE = shipped("bundles") / "liver_cls"


@takes_knobs("train.json")
def run(
    masks: str,
    output: str,
    epochs: int = 120,
    only: Sequence[str] | str | None = None,
    bundle: str = str(BUNDLE),
    inner_groups: int = 0,
    judged: str | None = None,
    **overrides: Any,
) -> None:
    """Train and evaluate stage 2 on the folds of the Prob-Masks, then go on from the last fold with every case.

    Under ``output``: ``fold-K/model.pt`` and ``fold-K/metrics/slices.csv``, ``full/model.pt``, and ``results.json`` of
    ``report``. A second call goes on where a killed one stopped.

    Args:
        masks: output folder of ``scripts/prob_masks.py make``: its folds.json and datalist_prob.json are used.
        output: folder for all of the above.
        epochs: epochs of each fold, a quarter of them at half the learning rate for every case; the last weights are
            taken, so no held-out case chooses anything.
        only: parts to do now, of "0" .. and "full"; default all. Parts may run side by side.
        bundle: a classification bundle with the ids of bundles/liver_cls.
        inner_groups: patient groups set apart from each training's own for validation, whose AUC then chooses the epoch
            (and ends the training early with ``--patience``); the held-out fold still chooses nothing.
        judged: list that ``scripts/prob_masks.py unseen`` wrote, whose cases are judged in the place of those of the
            same people that are learned from; default the same.
        overrides: further knobs of its train.json, such as ``--mask_source binary``.
    """
    from liver_ct.training import cross_validation

    note_start(overrides)
    with errors_in_one_line():
        result = cross_validation.run(
            Path(masks),
            Path(output),
            epochs,
            only,
            inner_groups,
            bundle=Path(bundle),
            judged=Path(judged) if judged else None,
            **overrides,
        )
    if result:
        print_json(result)


def report(masks: str, output: str, judged: str | None = None) -> None:
    """Pool the held-out slices of all folds, and write and print ``output/results.json``.

    AUC of all slices, and accuracy, TPR and FPR at 0.5 once the logits are calibrated (for each fold on the others),
    with 95 % intervals from a bootstrap that draws patients, not slices; each fold's AUC, since probabilities of
    different networks share no scale; and ``calibration``, fitted on all folds, for the bundle's knob of that name.
    """
    from liver_ct.training import cross_validation

    with errors_in_one_line():
        print_json(cross_validation.report(Path(masks), Path(output), Path(judged) if judged else None))


@takes_knobs("inference.json")
def lesions(masks: str, output: str, bundle: str = str(BUNDLE), judged: str | None = None, **overrides: Any) -> None:
    """Hold the lesion lists of each fold's people against their outlines; write and print ``output/lesions.json``.

    Sensitivity by size (longest axial diameter under 1, 1 to 2, over 2 cm) and false lesions per person: at the
    bundle's threshold, at one false lesion per person, and so with each person's threshold taken from the others; with
    95 % intervals from a bootstrap that draws people; and the FROC curve. Maps are written to ``output/fold-K/maps``.

    Args:
        masks: output folder of ``scripts/prob_masks.py make``: its folds.json and datalist_prob.json are used.
        output: of ``run``, with ``fold-K/model.pt``; folds without one are left out.
        bundle: a classification bundle with the ids of bundles/liver_cls.
        judged: list that ``scripts/prob_masks.py unseen`` wrote, whose volumes are judged in the place of those of the
            same people that are learned from; default the same.
        overrides: further knobs of its inference.json, such as ``--lesion_outline 0.2``.
    """
    from liver_ct.training.lesions import measure

    with errors_in_one_line():
        print_json(measure(Path(masks), Path(output), Path(bundle), Path(judged) if judged else None, **overrides))


PROGRAM = Program("cross_validate", __doc__, {"run": run, "report": report, "lesions": lesions})
main = PROGRAM.run
