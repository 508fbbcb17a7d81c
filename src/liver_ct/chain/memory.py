"""Imported before torch: large blocks of memory come in huge pages, and stay for the next study.

Handing a CT's worth of memory out and taking it back, page by page, costs as much as what is done in it.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch asks for it before its first tensor
with suppress(AttributeError, OSError, TypeError):  # glibc only
    mallopt = ctypes.CDLL(None).mallopt
    M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX, ALL = -3, -1, -8, 2**31 - 1
    mallopt(M_MMAP_THRESHOLD, ALL)
    mallopt(M_TRIM_THRESHOLD, ALL)
    mallopt(M_ARENA_MAX, 1)  # threads have arenas of 64 MB of their own otherwise
