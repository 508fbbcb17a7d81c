"""Intervals by patient: cases and slices of one person are not independent, so people are drawn, not slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Metrics = dict[str, float]


def patient_intervals(
    person: Sequence[str], metrics: Callable[[np.ndarray], Metrics], draws: int = 2000
) -> dict[str, list[float]]:
    """95 % percentile intervals of ``metrics(rows)`` from a bootstrap that draws people with all their rows.

    scipy.stats.bootstrap draws rows, and does not know which belong together.

    Args:
        person: whose each row is, ``[N]``.
        metrics: figures of a selection of rows, given as indices ``[M]``; nan where a draw does not define one.
        draws: bootstrap samples; the same ones at every call.
    """
    person = np.asarray(person)
    members = [np.flatnonzero(person == p) for p in np.unique(person)]
    random = np.random.default_rng(0)
    drawn = (
        np.concatenate([members[i] for i in random.integers(len(members), size=len(members))]) for _ in range(draws)
    )
    spread = [metrics(rows) for rows in drawn]
    return {name: np.nanpercentile([s[name] for s in spread], [2.5, 97.5]).round(4).tolist() for name in spread[0]}
