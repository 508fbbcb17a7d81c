"""The tables of outcomes, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fuzz.judging import AS_SAID, OUTCOMES, REFUSED
from fuzz.samples import GROUPS
from fuzz.workers import Outcome

START, END = "<!-- fuzz -->", "<!-- end of fuzz -->"
CAUSES = 25


def tables(unchanged: Sequence[Outcome], outcomes: Sequence[Outcome], seed: int, seconds: float) -> str:
    """All of it in Markdown."""
    slowest, largest = (max((getattr(o, name) for o in outcomes), default=0) for name in ("seconds", "peak_mb"))
    head = (
        f"{len(outcomes)} mutants, seed {seed}, in {seconds:.0f} s; the slowest took {slowest:.1f} s, the largest "
        f"process {largest:.0f} MB, of which about 500 are Python and its libraries."
    )
    whole = "Unchanged: " + "; ".join(f"{o.sample} {o.kind}" for o in unchanged) + "."
    return "\n\n".join([head, whole, by_group(outcomes), by_cause(outcomes), by_field(outcomes)])


def by_group(outcomes: Sequence[Outcome]) -> str:
    """How many of each format came to what."""
    counts = Counter((group_of(o), o.kind) for o in outcomes)
    rows = [[text, *[str(counts[group, kind]) for group in GROUPS]] for kind, text in OUTCOMES.items()]
    totals = [sum(counts[group, kind] for group in GROUPS) for kind in OUTCOMES]
    return table(["", *GROUPS, "all"], [[*row, str(total)] for row, total in zip(rows, totals)])


def by_cause(outcomes: Sequence[Outcome]) -> str:
    """The lines of refusal, without names and numbers, most frequent first."""
    counts = Counter(o.detail for o in outcomes if o.kind == REFUSED)
    rows = [[cause.replace("|", "\\|"), str(count)] for cause, count in counts.most_common(CAUSES)]
    rest = len(counts) - len(rows)
    return table(["refused because", "times"], [*rows, [f"{rest} other causes", str(counts.total() - shown(rows))]])


def shown(rows: Sequence[Sequence[str]]) -> int:
    """The sum of the last column."""
    return sum(int(row[-1]) for row in rows)


def by_field(outcomes: Sequence[Outcome]) -> str:
    """Which fields made another CT of a file that no reader can tell."""
    counts = Counter((group_of(o), field) for o in outcomes if o.kind == AS_SAID for field in o.fields)
    rows = [[group, field, str(count)] for (group, field), count in counts.most_common(20)]
    return table(["read, changed as the file says", "field", "times"], rows)


def group_of(outcome: Outcome) -> str:
    """The format of an outcome's sample."""
    return next(group for group in GROUPS if outcome.sample.startswith(group))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def line(outcome: Outcome, seed: int) -> str:
    """One outcome in words, and how to make it again."""
    fields = ", ".join(outcome.fields)
    again = f"python tests/fuzz/run.py one --number {outcome.number} --seed {seed} --keep FOLDER"
    return (
        f"{outcome.kind}: {outcome.sample}: {outcome.what} [{fields}]: {outcome.detail} "
        f"({outcome.seconds:.1f} s, {outcome.peak_mb:.0f} MB)    {again}"
    )


def put(text: Path, tables_: str) -> None:
    """Put the tables between their marks."""
    before, rest = text.read_text(encoding="utf-8").split(START)
    text.write_text(f"{before}{START}\n\n{tables_}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
