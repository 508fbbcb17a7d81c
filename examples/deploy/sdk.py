"""Imported before monai.deploy: what Holoscan, under it, wants of a process, so that it also runs without a GPU."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

STACK = 32 << 20  # bytes; Holoscan's recommended minimum

os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")  # what goes wrong comes as an exception
soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
if resource.RLIM_INFINITY != soft < STACK:
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_STACK, (STACK, hard))
if nvidia := find_spec("nvidia"):  # Holoscan links to CUDA's runtime, and does not look where PyPI puts it
    for folder in nvidia.submodule_search_locations or ():
        for library in Path(folder).glob("cu13/lib/libcudart.so.13"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
