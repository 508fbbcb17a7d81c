"""The chain on a phantom CT made here, or on a CT of the user's."""

from __future__ import annotations

from pathlib import Path

from liver_ct.cli import cascade
from liver_ct.cli.imports import import_chain
from liver_ct.cli.program import AGAIN, Program


def demo(ct: str | None = None, output: str = "demo") -> None:
    """Run the chain and name the report to open; on the phantom also print the liver's Dice.

    Args:
        ct: a CT (NIfTI, MHA, NRRD or a DICOM series folder); default a phantom with three tumours.
        output: folder for the results.

    Raises:
        SystemExit: the chain failed, or the phantom's liver was not found.
    """
    from liver_ct.chain.studies import find_studies
    from liver_ct.outputs.names import LIVER_MASK, REPORT
    from liver_ct.phantom import write_case

    folder = Path(output)
    path, label = (Path(ct), None) if ct else write_case(folder, 0)
    cascade.cascade(input=str(path), output=str(folder), overwrite=True)
    case = folder / find_studies(path)[0].case
    if label is not None:
        dice = liver_dice(case / LIVER_MASK, label)
        print(f"liver Dice on the phantom: {dice:.3f}")
        if dice < 0.8:
            raise SystemExit("ERROR the phantom's liver was not found: the bundles' weights are not the shipped ones")
    print(f"open {case / REPORT}")


def liver_dice(mask: Path, label: Path) -> float:
    """Dice of a liver mask against a label whose liver and tumours are > 0."""
    import nibabel as nib
    import numpy as np

    found, true = (np.asarray(nib.load(path).dataobj) > 0 for path in (mask, label))
    return 2 * float((found & true).sum()) / float(found.sum() + true.sum())


PROGRAM = Program("demo", __doc__, demo, AGAIN, import_chain)
main = PROGRAM.run
