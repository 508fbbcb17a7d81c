"""Liver CT in two stages: from a CT to the liver's Prob-Mask, and to the tumour probability of each of its slices."""

from __future__ import annotations

import getpass
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from liver_ct.chain.pipeline import LiverCT
    from liver_ct.chain.terms import MaskSource
    from liver_ct.errors import StudyError
    from liver_ct.outputs.dicom import write_dicom
    from liver_ct.outputs.names import Output
    from liver_ct.outputs.picture import write_picture
    from liver_ct.outputs.report import write_report
    from liver_ct.outputs.results import SliceRow, StudyResult
    from liver_ct.outputs.writing import write_masks

__version__ = "0.10.0"
__all__ = [
    "LiverCT",
    "MaskSource",
    "Output",
    "SliceRow",
    "StudyError",
    "StudyResult",
    "write_dicom",
    "write_masks",
    "write_picture",
    "write_report",
]

_HOMES = {  # imported when asked for: PyTorch alone takes seconds
    "LiverCT": "chain.pipeline",
    "MaskSource": "chain.terms",
    "Output": "outputs.names",
    "SliceRow": "outputs.results",
    "StudyError": "errors",
    "StudyResult": "outputs.results",
    "write_dicom": "outputs.dicom",
    "write_masks": "outputs.writing",
    "write_picture": "outputs.picture",
    "write_report": "outputs.report",
}


try:
    getpass.getuser()
except (KeyError, OSError):  # as in containers; MONAI asks for it when it is imported, and PyTorch
    os.environ["LOGNAME"] = str(os.getuid())


def __getattr__(name: str) -> Any:
    """A name of ``__all__``, from the module that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
