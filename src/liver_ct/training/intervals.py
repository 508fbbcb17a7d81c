"""Intervals by patient: cases and slices of one person are not independent, so people are drawn, not slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Metrics = dict[str, float]


def patient_draws(person: Sequence[str] | NDArray[Any], draws: int = 2000) -> NDArray[Any]:
    """How often each row takes part in each draw ``[draws, N]``: people are drawn, with all their rows, not slices."""
    people, index = np.unique(person, return_inverse=True)
    random = np.random.default_rng(0)
    drawn = random.integers(len(people), size=(draws, len(people)))
    counts = np.stack([np.bincount(row, minlength=len(people)) for row in drawn])
    drawn_rows: NDArray[Any] = counts[:, index].astype(np.float32)
    return drawn_rows


def patient_intervals(
    person: Sequence[str] | NDArray[Any], metrics: Callable[[NDArray[Any]], Metrics]
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of ``metrics(rows)`` from a bootstrap that draws people with all their rows.

    The draws are the same at every call.

    scipy.stats.bootstrap draws rows, and does not know which belong together. None for a figure that no draw defines,
    and for all of them where there is one person, who can be drawn in one way alone.

    Args:
        person: whose each row is, ``[N]``.
        metrics: figures of a selection of rows, given as indices ``[M]``; nan where a draw does not define one.
    """
    rows = np.arange(len(person))
    spread = [metrics(np.repeat(rows, times.astype(int))) for times in patient_draws(person)]
    drawn = {name: np.array([s[name] for s in spread]) for name in spread[0]}
    several = len(np.unique(person)) > 1
    return {name: interval(values) if several else None for name, values in drawn.items()}


def interval(drawn: NDArray[Any]) -> list[float] | None:
    """95 % percentile interval of bootstrap draws; None where none is a number."""
    if np.isnan(drawn).all():
        return None
    low, high = np.nanpercentile(drawn, [2.5, 97.5]).round(4)
    return [float(low), float(high)]
