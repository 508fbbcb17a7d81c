"""The chain as a worker runs it: one study at a time, published whole, with its DICOM files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from liver_ct.chain.folder import Wishes, load_chain, process
from liver_ct.chain.studies import Study
from liver_ct.outputs.names import Output
from liver_ct.outputs.writing import import_writers


def load_worker_chain(wishes: Wishes, output: Path) -> Callable[[Path, str], Path]:
    """Load the bundles once, for a function that takes a series' folder and a name for its results in ``output``.

    Args:
        wishes: how; its outputs hold DICOM.
        output: made if missing.

    Returns:
        The function, which returns the folder of the results. Results of the same files that are there are left as they
        are.

    Raises:
        StudyError: a bundle or device that cannot be used.
    """
    output.mkdir(parents=True, exist_ok=True)
    chain = load_chain(wishes)
    import_writers(wishes.outputs)

    def run(source: Path, case: str) -> Path:
        done: list[Path] = []
        process(chain, Study(case, source), output, overwrite=False, outputs=wishes.outputs, done=done)
        if Output.REPORT in wishes.outputs:
            from liver_ct.outputs.index import write_index

            with suppress(OSError):  # the next study writes it anew
                write_index(output)
        return done[0]

    return run
