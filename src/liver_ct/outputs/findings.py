"""What a report says: its findings in sentences, and which slices are flagged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from liver_ct.outputs.lesions import FALSE

if TYPE_CHECKING:
    from liver_ct.outputs.results import Item, SliceRow, StudyResult

OPEN = (0.25, 0.75)  # of a slice's tumour probability
HIGHEST = (
    "The highest slice is no score of the study: people without a tumour often reach 0.5 in some slice, too, as did "
    "three of the five that were tried."
)
MEANING = {  # of what the lesion map shows, by how that is called
    "candidate": "Candidates are places to look at, no findings: it is not shown that, on people the networks had not "
    "seen, 70 % or more of the lesions over 2 cm are found at one false one per person.",
    "lesion": "Kinds of lesion are not told apart.",
}
FOUND = {  # figures of a bundle, by what they are of
    "lesion_sensitivity_over_2_cm": "over 2 cm",
    "lesion_sensitivity_1_to_2_cm": "of 1 to 2 cm",
    "lesion_sensitivity_under_1_cm": "under 1 cm",
}


def findings(result: Item, rows: Sequence[SliceRow]) -> list[str]:
    """What a reader should know first, in sentences; ``rows`` from the feet to the head."""
    considered = [row for row in rows if row.tumour_probability is not None]
    said = [_about_tumour(result, considered), HIGHEST, *_about_lesions(result), _about_volume(result)]
    said += _about_doubt(considered)
    said += [_about_the_rest(rows, considered), *_about_mask(str(result["mask_source"]))]
    return said


def _about_tumour(result: Item, considered: Sequence[SliceRow]) -> str:
    top = max(considered, key=lambda row: row.tumour_probability or 0)
    flagged, threshold = len(result["flagged_slices"]), result["flag_threshold"]
    where = f"{top.tumour_probability:.2f} at slice {top.slice} (z\xa0{mm(top.z_mm)}\xa0mm)"  # no break
    if not flagged:
        return f"No slice is flagged; the highest tumour probability is {where}. This does not exclude a tumour."
    slices = "slice reaches" if flagged == 1 else "slices reach"
    return f"{flagged} of {len(considered)} {slices} a tumour probability of {threshold:g}; the highest is {where}."


def _about_lesions(result: Item) -> list[str]:
    """The largest of the lesions, and flagged slices without any; nothing where the bundle draws no map."""
    lesions, word = result.get("lesions"), str(result.get("lesions_shown_as"))
    if lesions is None:
        return []
    if not lesions:
        return [f"The lesion map shows no {word}. This does not exclude one."]
    largest = max(lesions, key=lambda lesion: lesion["diameter_mm"])
    where = f"number {largest['number']} with {largest['diameter_mm']:.0f}\xa0mm in slice {largest['key_slice']}"
    said = [f"The lesion map shows {len(lesions)} {plural(len(lesions), word)}; the largest is {where}."]
    bare = len(result.get("flagged_without_lesion") or ())
    return said + ([f"{bare} flagged {plural(bare, 'slice')} without any {word}."] if bare else [])


def lesion_words(study: StudyResult) -> Item | None:
    """How the page calls lesions, what that means, and what was measured of them; None where there is no map."""
    if not study.lesions:
        return None
    noun = study.lesions.shown_as
    figures = {name: value for card in study.model_cards for name, value in card["figures"].items()}
    words = {"noun": noun, "heading": f"{noun.capitalize()}s", "meaning": MEANING[noun]}
    return {**words, "measured": _measured(figures)}


def _measured(figures: Item) -> str:
    """How many lesions a bundle has found, as far as it says so."""
    shares = {size: figures.get(name) for name, size in FOUND.items()}
    found = [f"{100 * share:.0f}\xa0% {size}" for size, share in shares.items() if isinstance(share, (int, float))]
    if not found:
        return ""
    number = figures.get(FALSE)
    false = f", with {number:g} false ones per person" if isinstance(number, (int, float)) else ""
    return f"Of lesions in people the networks had not seen, these were found: {', '.join(found)}{false}."


def _about_volume(result: Item) -> str:
    return f"The liver measures {result['liver_volume_ml']:.0f} ml, where the Prob-Mask is above 0.5."


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
    return f"{text}. Kinds of lesion are not told apart."


def _about_mask(source: str) -> list[str]:
    """What the classifier looked at."""
    if source == "none":
        return ["The classifier was given no mask: a slice's probability may come from what lies beside the liver."]
    other = f"The classifier was given the mask as {source}, not the Prob-Mask. " if source != "prob" else ""
    return [f"{other}Nothing outside the liver was judged."]


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
