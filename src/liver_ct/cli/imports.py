"""A quick start: what the chain imports, without what it has no use for."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

from liver_ct.chain.studies import check_input

# MONAI imports these where they are installed, for parts of it that the chain with the shipped bundles does not run
UNUSED = ("clearml", "huggingface_hub", "ignite", "jsonschema", "matplotlib", "mlflow", "onnx", "onnxruntime",
          "pandas", "requests", "scipy.signal", "scipy.stats", "skimage", "sklearn", "tensorboard",
          "torch.utils.tensorboard")  # fmt: skip
NIFTI = (".nii", ".nii.gz")  # read without ITK and pydicom


class Absent:
    """A finder of modules that says of some that they are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = {*names}

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for one of the modules; leave others to the next finder."""
        if name in self.names:
            raise ModuleNotFoundError(f"{name}: not used here", name=name)
        return None


@contextmanager
def absent(names: Sequence[str]) -> Iterator[None]:
    """Let no module of these names be imported in the block; those that are imported already stay."""
    finder = Absent(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def uncollected() -> Iterator[None]:
    """Turn the garbage collector off in the block, and let it pass over for good what there is at its end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def read_ahead(path: str) -> None:
    """Let Linux read a file into memory while this process goes on; other systems and folders are left alone."""
    with suppress(AttributeError, OSError, ValueError), Path(path).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def import_chain(values: Mapping[str, str]) -> None:
    """Import MONAI for the chain, where it is the only thing that the process is for.

    A bundle of the user's may need any part of MONAI, so nothing is left out for it.

    Args:
        values: options of the command, as text.

    Raises:
        StudyError: there is no such input.
    """
    source = values.get("input", values.get("ct"))
    if source is not None:
        check_input(Path(source))
    import liver_ct.chain.memory  # noqa: F401  # before torch

    read_ahead(values.get("input", ""))
    with absent(unused(values)), uncollected():
        import monai  # noqa: F401


def unused(values: Mapping[str, str]) -> tuple[str, ...]:
    """What the chain will not use, by the options of the command."""
    if not {"seg_bundle", "cls_bundle"}.isdisjoint(values):
        return ()
    if values.get("input", values.get("ct", ".nii")).endswith(NIFTI):
        return (*UNUSED, "itk", "pydicom")
    return UNUSED
