"""The experiment: does the Prob-Mask help, how much, and can the gap to the manual mask be closed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from liver_ct.cli.knobs import takes_knobs
from liver_ct.cli.options import listed
from liver_ct.cli.printing import errors_in_one_line, print_error, print_json, print_note
from liver_ct.cli.program import Program
from liver_ct.errors import StudyError
from liver_ct.files import CHECKOUT, shipped

DOCS = CHECKOUT / "docs"
CONFIG = shipped("scripts/study.json")
SEG, CLS = shipped("bundles") / "liver_seg", shipped("bundles") / "liver_cls"


def run(
    config: str = str(CONFIG),
    arms: Sequence[str] | str | None = None,
    results: str | None = None,
    seg_bundle: str = str(SEG),
    cls_bundle: str = str(CLS),
    datalist: str | None = None,
    output: str | None = None,
    held_out: Sequence[str] | str | None = None,
    workers: int | None = None,
) -> None:
    """Make the Prob-Masks, train every arm on every fold and seed, measure, and write the results and their report.

    What is done already is left; a killed run goes on at the last epoch of each training. An arm that fails stops no
    other, and the exit status is 1.

    Args:
        config: the experiment, a JSON file. Each entry of ``arms`` holds knobs of stage 2's bundle; lists of
            mask_source, combine and gop are combined in all ways; ``seeds``, ``inner_groups`` (early stopping on groups
            of the training fold), ``masks`` (which Prob-Masks, of those under the config's ``masks``: knobs of stage
            1's bundle by name), ``from`` (end to end, starting from that arm) and ``weights`` (nothing is trained: that
            arm's weights, judged through this arm's mask) are the experiment's own. mask_source ``temperature`` is prob
            at the temperature fitted on the other folds; ``repair`` lets the true liver correct the Prob-Mask:
            ``leaks`` sets it to 0 outside, ``gaps`` to 1 inside. ``overlay`` of an arm or of masks is a config of the
            bundle laid over it, such as original.json; ``seen`` lets an arm learn from Prob-Masks of people whom their
            stage 1 has learned from, too.
        arms: only these, by name; default all. The report comes when all are there.
        results: folder for results.json, study.md and its plots; default the experiment's ``output``.
        seg_bundle: stage 1, a bundle with the ids of bundles/liver_seg.
        cls_bundle: stage 2, a bundle with the ids of bundles/liver_cls.
        datalist: in the place of the config's: a datalist.json, or the .zip that ``scripts/lits.py pack`` made of one.
        output: in the place of the config's: the folder for everything.
        held_out: in the place of the config's: sources that are left out as a whole, comma between them, each as a fold
            after those by person.
        workers: in the place of the config's: trainings at a time; 0 is one per core.
    """
    with errors_in_one_line():
        import liver_ct.experiment.pages  # noqa: F401  # comes last, but what it needs has to be there
        from liver_ct.experiment.collecting import collect
        from liver_ct.experiment.config import Experiment
        from liver_ct.experiment.running import run as run_experiment

        sources = None if held_out is None else listed(held_out)
        changes = {"datalist": datalist, "output": output, "held_out": sources, "workers": workers}
        experiment = Experiment(config, seg_bundle, cls_bundle, **changes)
        failed = run_experiment(experiment, listed(arms) if arms else [*experiment.arms], print_error)
        if failed:
            raise SystemExit(
                f"ERROR {', '.join(failed)}: parts failed, for the reasons above. The same command goes on."
            )
        if arms is None:
            folder = Path(results) if results else experiment.output
            collect(experiment, folder / "results.json")
            report(str(folder))


def report(results: str = str(DOCS / "experiment")) -> None:
    """Write ``study.md`` and its plots from the files of numbers in ``results``: nothing else is needed.

    From ``results.json`` of ``run`` or ``judge``, ``judged/results.json`` of ``judge`` and ``calibration.json`` of
    ``calibration``, those that are there.

    Args:
        results: the folder; study.md lies in it, or, for that of this repository, beside it (experiment.md).
    """
    folder = Path(results)
    text = DOCS / "experiment.md" if folder.resolve() == DOCS / "experiment" else folder / "study.md"
    with errors_in_one_line():
        from liver_ct.experiment.pages import write_page

        write_page(folder, text)


@takes_knobs("train.json")
def judge(
    weights: Sequence[str] | str,
    datalist: str,
    output: str,
    masks: Sequence[str] | str = "prob,binary,dilated,none,manual",
    volumes: str | None = None,
    bundle: str = str(CLS),
    names: Sequence[str] | str | None = None,
    **overrides: Any,
) -> None:
    """Judge weights of stage 2 that exist already through one mask after another, on people they have not seen.

    Writes OUTPUT/results.json, which ``compare`` takes, too, and OUTPUT/study.md: AUC by mask of the volumes, of the
    isolated slices of people outside the volumes, and by source, and paired differences with intervals by person. One
    network has learned with one mask: the others are new to it. Goes on where it was killed.

    Args:
        weights: of the bundle, for all masks; or comma between them, one for each mask, which has learned with it.
        datalist: who is judged, with a Prob-Mask (``prob``) each; everybody whose tumours are known, but not
            its section test, which a line says. That the weights have not seen them is up to you.
        output: folder for all that is made.
        masks: values of ``mask_source``, comma between them; the first is the reference.
        volumes: datalist that names everybody who has a whole volume; default ``datalist``.
        bundle: a classification bundle with the ids of bundles/liver_cls.
        names: of the arms, one for each mask, which may then be there twice; default the masks.
        overrides: further knobs of its train.json, with which the weights were trained.
    """
    with errors_in_one_line():
        from liver_ct.experiment.judging import judge as judge_weights

        lost: list[str] = []

        def left_out(line: str) -> None:
            print_error(line)
            lost.append(line)

        judge_weights(
            Path(bundle),
            [Path(file) for file in listed(weights)],
            Path(datalist),
            Path(output),
            masks=listed(masks),
            volumes=Path(volumes) if volumes else None,
            report=left_out,
            names=None if names is None else listed(names),
            note=print_note,
            **overrides,
        )
        report(output)
        if lost:
            raise StudyError(f"{output}: cases left out for the reasons above: {len(lost)}. The same command goes on.")


def pool(results: Sequence[str] | str, output: str, together: bool = False, arms: str | None = None) -> None:
    """Bring judgements of different people into one, such as of two folds, each by the weights that have not seen it.

    Judgements of the very same slices are taken for seeds, whose figures are averaged.

    Writes OUTPUT/results.json and OUTPUT/study.md, as ``judge`` does.

    Args:
        results: folders that ``judge`` wrote, with the same masks and names, comma between them.
        output: folder for the above.
        together: of seeds, also what each arm's networks give together, the mean of their logits, as ARM-together.
        arms: of each judgement, these alone, comma between them; default all.
    """
    with errors_in_one_line():
        from liver_ct.experiment.judging import pool as pool_judgements

        pool_judgements([Path(folder) for folder in listed(results)], Path(output), together, listed(arms or ()))
        report(output)


def calibration(
    output: str,
    masks: str | None = None,
    datalist: str | None = None,
    judged: str | None = None,
    arm: str | None = None,
    seg_bundle: str = str(SEG),
) -> None:
    """Measure whether both probabilities mean what they say, on people the networks have not seen.

    Expected calibration error by source and by part of the data, with intervals by person and each person's own, as it
    is, at the temperature of the other folds, and (stage 2) with scale and bias of the other people. Writes
    OUTPUT/calibration.json, calibration.png and study.md; how much of each person's tumours lies under the masks, too.

    Args:
        output: folder for the above.
        masks: output of ``scripts/prob_masks.py make``, whose folds are each measured on their own people.
        datalist: of the volumes; default the one in MASKS.
        judged: folder of a results.json, of ``run`` or ``judge``.
        arm: of those results; default their reference.
        seg_bundle: stage 1, a bundle with the ids of bundles/liver_seg.
    """
    with errors_in_one_line():
        from liver_ct.experiment.calibrating import measure

        folders = [Path(place) if place else None for place in (masks, datalist, judged)]
        measure(Path(output), Path(seg_bundle), folders[0], folders[1], folders[2], arm)
        report(output)


def compare(
    one: str,
    other: str,
    results: str = str(DOCS / "experiment"),
    sheet: str | None = None,
    config: str = str(CONFIG),
    count: int = 12,
    lists: str | None = None,
    threshold: float = 0.5,
    against: str | None = None,
) -> None:
    """Print how two arms differ: AUC with a paired interval, and on how many slices either alone is right.

    Of two evaluations: AUC, accuracy, TPR and FPR of both, and the same counts. With ``against``: the same of the
    volumes, the isolated slices and each source, of the cases that both judged.

    Args:
        one: name of an arm; or the output_dir of stage 2's evaluate.json, or its slices.csv.
        other: another.
        results: folder of results.json.
        sheet: also draw the slices on which they disagree most, with tumour and Prob-Mask, to this PNG. It shows
            patients, and needs the data of ``config``.
        config: the experiment, for ``sheet``.
        count: how many slices to draw.
        lists: also write the slices on which one alone is right, with both probabilities, to this CSV.
        threshold: of two evaluations: from this probability on a slice counts as one with tumour.
        against: folder of another results.json, of the same files, whose arm ``other`` is.
    """
    with errors_in_one_line():
        from liver_ct.experiment import comparing, evaluations
        from liver_ct.experiment.config import Experiment

        if against is not None:
            if sheet or lists:
                raise StudyError("--against: takes neither --sheet nor --lists. Leave them out.")
            print_json(comparing.compare_results(Path(results), Path(against), one, other))
            return
        if evaluations.is_evaluation(one) and evaluations.is_evaluation(other):
            if sheet:
                raise StudyError("--sheet: is drawn of two arms, not of evaluations. Give --lists instead.")
            difference, slices = evaluations.compare_evaluations(Path(one), Path(other), threshold)
            print_json(difference)
            if lists:
                evaluations.write_lists(slices, Path(lists))
            return
        analysis, difference = comparing.compare(Path(results), one, other)
        print_json(difference)
        if lists:
            evaluations.write_lists(comparing.list_slices(analysis, one, other), Path(lists))
        if sheet:
            comparing.draw_sheet(analysis, Experiment(config, SEG, CLS), one, other, Path(sheet), count)


def bundle(bundle: str, output: str, overlay: str = "original.json") -> None:
    """Copy a bundle with an overlay of its configs laid over them for good, for whatever takes a bundle's folder.

    So ``--seg_bundle`` and ``--cls_bundle`` of ``run``, of the chain and of the cross-validation take the original
    system's recipe. The copy has no weights.

    Args:
        bundle: folder of a bundle, such as bundles/liver_cls.
        output: folder of the copy.
        overlay: a file of the bundle's configs.
    """
    with errors_in_one_line():
        from liver_ct.training.overlays import with_overlay

        with_overlay(Path(bundle), overlay, Path(output))


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "report": report,
    "judge": judge,
    "pool": pool,
    "calibration": calibration,
    "compare": compare,
    "bundle": bundle,
}
PROGRAM = Program("study", __doc__, COMMANDS)
main = PROGRAM.run
