"""What a report says: its findings in sentences, and which slices are flagged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from liver_ct.outputs.results import Item, SliceRow

OPEN = (0.25, 0.75)  # of a slice's tumour probability
HIGHEST = (
    "The highest slice is no score of the study: people without a tumour often reach 0.5 in some slice, too, as did "
    "three of the five that were tried."
)


def findings(result: Item, rows: Sequence[SliceRow]) -> list[str]:
    """What a reader should know first, in sentences; ``rows`` from the feet to the head."""
    considered = [row for row in rows if row.tumour_probability is not None]
    said = [_about_tumour(result, considered), HIGHEST, _about_volume(result)]
    said += _about_doubt(considered)
    said.append(_about_the_rest(rows, considered))
    if result["mask_source"] != "prob":
        said.append(f"The classifier was given the mask as {result['mask_source']}, not the Prob-Mask.")
    return said


def _about_tumour(result: Item, considered: Sequence[SliceRow]) -> str:
    top = max(considered, key=lambda row: row.tumour_probability or 0)
    flagged, threshold = len(result["flagged_slices"]), result["flag_threshold"]
    where = f"{top.tumour_probability:.2f} at slice {top.slice} (z\xa0{mm(top.z_mm)}\xa0mm)"  # no break
    if not flagged:
        return f"No slice is flagged; the highest tumour probability is {where}. This does not exclude a tumour."
    slices = "slice reaches" if flagged == 1 else "slices reach"
    return f"{flagged} of {len(considered)} {slices} a tumour probability of {threshold:g}; the highest is {where}."


def _about_volume(result: Item) -> str:
    volume, (low, high) = result["liver_volume_ml"], result["liver_volume_range_ml"]
    share = (high - low) / volume if volume else 0
    return (
        f"The liver measures {volume:.0f} ml. {high - low:.0f} ml ({share:.0%} of that) are uncertain: {low:.0f} ml "
        f"lie above a Prob-Mask of 0.9, {high:.0f} ml above 0.1."
    )


def _about_doubt(considered: Sequence[SliceRow]) -> list[str]:
    open_ = sum(OPEN[0] <= (row.tumour_probability or 0) < OPEN[1] for row in considered)
    if not open_:
        return []
    lie = "slice lies" if open_ == 1 else "slices lie"
    return [f"{open_} {lie} between {OPEN[0]} and {OPEN[1]}: the classifier is undecided there."]


def _about_the_rest(rows: Sequence[SliceRow], considered: Sequence[SliceRow]) -> str:
    left = len(rows) - len(considered)
    text = f"Looked at: z {mm(considered[0].z_mm)} to {mm(considered[-1].z_mm)} mm"
    text += f"; the other {left} {plural(left, 'slice')} of {len(rows)} hold no liver nearby" if left else ""
    return text + ". Nothing outside the liver was judged, and kinds of lesion are not told apart."


def flagged_runs(rows: Sequence[SliceRow], threshold: float) -> list[Item]:
    """Neighbouring flagged slices, from the most to the least suspicious run; ``rows`` from the feet to the head."""

    def flagged(row: SliceRow) -> bool:
        return row.tumour_probability is not None and row.tumour_probability >= threshold

    runs = [list(group) for key, group in groupby(rows, flagged) if key]
    tops = [max(run, key=lambda row: row.tumour_probability or 0) for run in runs]
    found = [{"first": run[0], "last": run[-1], "count": len(run), "top": top} for run, top in zip(runs, tops)]
    return sorted(found, key=lambda run: -run["top"].tumour_probability)


def plural(count: int, noun: str) -> str:
    """The noun for so many."""
    return noun if count == 1 else f"{noun}s"


def mm(value: float) -> str:
    """A place in mm, with a minus that does not break."""
    return f"{value:.0f}".replace("-", "\N{MINUS SIGN}")
