# A copy of running.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Working study by study, so that a bad one is named and stops no other."""

from __future__ import annotations

import io
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import Evaluator
from scripts.cls_datalist import require_entries, require_studies
from scripts.cls_errors import StudyError, describe, printable
from scripts.cls_reading import study_name


def run_studies(
    evaluator: Evaluator, studies: Sequence[Mapping[str, Any]], preprocessing: Callable[..., Any], source: str
) -> None:
    """Run the evaluator study by study, so that a bad study stops no other one.

    Each study gets a line: ``<file>: done`` on stdout, or ``ERROR <file>: <cause>. <fix>`` on stderr. Those that share
    a name are refused, since each would replace the results of the one before.

    Args:
        evaluator: without a data loader of its own.
        studies: entries of a datalist.
        preprocessing: transform from an entry to the network's input.
        source: where the studies were looked for, for the message when there is none.

    Raises:
        SystemExit: when a study failed (each has its line on stderr by then), or there is none.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows few characters is no error
    require_entries(studies)
    require_studies(studies, source)
    evaluator.logger.setLevel(logging.CRITICAL)  # ignite would add its own lines to ours
    evaluator.state.epoch_length = 1
    raised: list[Exception] = []  # an exception that leaves run() would make ignite's next run() a silent no-op
    evaluator.add_event_handler(Events.EXCEPTION_RAISED, lambda _, error: raised.append(error))
    failed, names = 0, Counter(map(study_name, studies))
    for study in studies:
        try:
            if names[name := study_name(study)] > 1:
                cause = f"another CT is named {name}, too, and its results would go to the same folder"
                raise StudyError(f"{study['image']}: {cause}. Rename one, or give each a case_id in --datalist.")
            evaluator.data_loader = DataLoader(Dataset([preprocessing(study)]), batch_size=1)
            raised.clear()
            evaluator.run()
            if raised:
                raise raised[0]
            print(f"{printable(study['image'])}: done", flush=True)
        except Exception as e:
            failed += 1
            print(f"ERROR {describe(e, study['image'])}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(f"{failed} of {len(studies)} studies failed")
