"""When a result is made, and with which versions of the libraries."""

from __future__ import annotations

import functools
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@functools.cache
def library_versions(*names: str) -> dict[str, str]:
    """Versions of the packages of those names that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
