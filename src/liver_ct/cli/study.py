"""The experiment: does the Prob-Mask help, how much, and can the gap to the manual mask be closed?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from liver_ct.cli.printing import errors_in_one_line, print_error, print_json
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
            ``leaks`` sets it to 0 outside, ``gaps`` to 1 inside.
        arms: only these, by name; default all. The report comes when all are there.
        results: folder for results.json, study.md and its plots; default the experiment's ``output``.
        seg_bundle: stage 1, a bundle with the ids of bundles/liver_seg.
        cls_bundle: stage 2, a bundle with the ids of bundles/liver_cls.
    """
    with errors_in_one_line():
        import liver_ct.experiment.report  # noqa: F401  # comes last, but what it needs has to be there
        from liver_ct.experiment.collecting import collect
        from liver_ct.experiment.config import Experiment
        from liver_ct.experiment.running import run as run_experiment

        experiment = Experiment(config, seg_bundle, cls_bundle)
        chosen = arms.split(",") if isinstance(arms, str) else list(arms or experiment.arms)
        failed = run_experiment(experiment, chosen, print_error)
        if failed:
            raise SystemExit(
                f"ERROR {', '.join(failed)}: parts failed, for the reasons above. The same command goes on."
            )
        if arms is None:
            folder = Path(results) if results else experiment.output
            collect(experiment, folder / "results.json")
            report(str(folder))


def report(results: str = str(DOCS / "study")) -> None:
    """Write ``study.md`` and its plots from ``results/results.json``: nothing else is needed.

    Args:
        results: the folder; study.md lies in it, or, for that of this repository, beside it.
    """
    folder = Path(results)
    text = DOCS / "study.md" if folder.resolve() == DOCS / "study" else folder / "study.md"
    with errors_in_one_line():
        from liver_ct.experiment.collecting import read_results
        from liver_ct.experiment.report import write_report

        write_report(read_results(folder), folder, text)


def compare(
    one: str,
    other: str,
    results: str = str(DOCS / "study"),
    sheet: str | None = None,
    config: str = str(CONFIG),
    count: int = 12,
    lists: str | None = None,
    threshold: float = 0.5,
) -> None:
    """Print how two arms differ: AUC with a paired interval, and on how many slices either alone is right.

    Of two evaluations: AUC, accuracy, TPR and FPR of both, and the same counts.

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
    """
    with errors_in_one_line():
        from liver_ct.experiment import comparing, evaluations
        from liver_ct.experiment.config import Experiment

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


PROGRAM = Program("study", __doc__, {"run": run, "report": report, "compare": compare, "bundle": bundle})
main = PROGRAM.run
