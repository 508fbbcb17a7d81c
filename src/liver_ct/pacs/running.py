"""The chain as a worker runs it: one study at a time, published whole, with its DICOM files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from liver_ct.chain.folder import ChainOptions, list_studies, load_chain, process
from liver_ct.chain.progress import Progress
from liver_ct.chain.studies import Study
from liver_ct.outputs.names import Output
from liver_ct.outputs.writing import import_writers


def load_worker_chain(options: ChainOptions, output: Path) -> Callable[[Path, str], Path]:
    """Load the bundles once, for a function that takes a series' folder and a name for its results in ``output``.

    Args:
        options: of the chain; its outputs hold DICOM.
        output: made if missing.

    Returns:
        The function, which returns the folder of the results. Results of the same files that are there are left as they
        are.

    Raises:
        StudyError: a bundle or device that cannot be used.
    """
    output.mkdir(parents=True, exist_ok=True)
    chain = load_chain(options)
    import_writers(options.outputs)

    def run(source: Path, case: str) -> Path:
        done: list[Path] = []
        process(chain, Study(case, source), output, overwrite=False, outputs=options.outputs, done=done)
        if Output.REPORT in options.outputs:
            list_studies(output, Progress())  # what fails there is made good by the next study
        return done[0]

    return run
