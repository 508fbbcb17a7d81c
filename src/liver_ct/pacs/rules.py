"""Which CT series a worker takes: rules in a small JSON file, compared with the header of one of a series' slices.

They are compared as they stand: no patterns, nothing that is run.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from liver_ct.errors import StudyError

TEXTS = {
    "description": "SeriesDescription",
    "study_description": "StudyDescription",
    "protocol": "ProtocolName",
    "body_part": "BodyPartExamined",
    "kernel": "ConvolutionKernel",
    "image_type": "ImageType",
    "contrast": "ContrastBolusAgent",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "station": "StationName",
}
NUMBERS = {"slice_thickness": "SliceThickness", "kvp": "KVP", "series_number": "SeriesNumber"}
SLICES = "slices"
WORDS, BOUNDS = ("any", "none"), ("min", "max")


class Rules(NamedTuple):
    """Rules as they stand in the file, and how old a study may be.

    Args:
        fields: of the file, by name; each a condition by its words or bounds.
        days: studies of the last so many days; 0 takes all.
    """

    fields: Mapping[str, Mapping[str, Any]]
    days: int = 0

    @property
    def text(self) -> str:
        """The same for the same rules."""
        return json.dumps([self.fields, self.days], sort_keys=True)

    def why_not(self, header: Any, slices: int) -> str | None:
        """Which rule a series does not fit; None where it fits all.

        Args:
            header: data set of one of its slices.
            slices: how many it has.

        Returns:
            One line, without what the header says: people write names into descriptions.
        """
        if self.days and is_older(header, self.days):
            return f"the study is older than {self.days} days"
        for field, condition in self.fields.items():
            if field in TEXTS:
                fits = fits_words(text_of(header, TEXTS[field]), condition)
            else:
                fits = fits_bounds(slices if field == SLICES else number_of(header, NUMBERS[field]), condition)
            if not fits:
                return f"{field} is not as the rules want it"
        return None


def read_rules(file: Path | None, days: int = 0) -> Rules:
    """The rules in a file; none at all without one.

    Raises:
        StudyError: a file that cannot be read, or a rule that is none: ``<file>: <cause>. <fix>``.
    """
    if not 0 <= days <= 36500:
        raise StudyError(f"--days {days}: not between 0 and 36500. Use 0 for all studies.")
    if file is None:
        return Rules({}, days)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=partial(each_once, file))
    except StudyError:
        raise
    except OSError as e:
        raise StudyError(f"{file}: cannot be read ({e.strerror}). Check --rules.") from None
    except (ValueError, RecursionError) as e:
        where = f" (line {e.lineno})" if isinstance(e, json.JSONDecodeError) else ""
        raise StudyError(f"{file}: no JSON{where}. Write it as in docs/pacs.md.") from None
    if not isinstance(content, dict):
        raise StudyError(f"{file}: not an object of rules in braces. Write it as in docs/pacs.md.")
    for field, condition in content.items():
        check_rule(file, field, condition)
    return Rules(content, days)


def each_once(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises StudyError where a name stands in it twice, of which one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if [key for key, _ in pairs].count(name) > 1)
        raise StudyError(f"{file}: {twice}: stands there twice. Write it once, with all its words.")
    return found


def check_rule(file: Path, field: str, condition: Any) -> None:
    """Raise StudyError unless a field and its condition are such as there are."""
    check_key(file, field, [*TEXTS, *NUMBERS, SLICES])
    if not isinstance(condition, dict) or not condition:
        raise StudyError(f'{file}: {field}: a condition in braces is missing. Write {{"{field}": {example(field)}}}.')
    for key, wanted in condition.items():
        check_key(file, key, WORDS if field in TEXTS else BOUNDS, f"{field}: ")
        if not (is_words(wanted) if field in TEXTS else is_bound(wanted)):
            raise StudyError(f'{file}: {field}: {key} cannot be that. Write {{"{field}": {example(field)}}}.')
    if condition.get("min", 0) > condition.get("max", float("inf")):
        raise StudyError(f"{file}: {field}: min is above max, so that nothing would fit. Exchange them.")


def check_key(file: Path, key: str, known: Sequence[str], place: str = "") -> None:
    """Raise StudyError for a name that is not known, with the closest that is."""
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(known)}."
        raise StudyError(f"{file}: {place}{key}: no such rule. {hint}")


def example(field: str) -> str:
    """A condition that may stand for a field."""
    return '{"any": ["portal", "venous"], "none": ["lung"]}' if field in TEXTS else '{"min": 1, "max": 5}'


def is_words(wanted: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(wanted, list) and bool(wanted) and all(isinstance(word, str) for word in wanted)


def is_bound(wanted: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(wanted, (int, float)) and not isinstance(wanted, bool) and abs(wanted) < float("inf")


def fits_words(text: str, condition: Mapping[str, Any]) -> bool:
    """Whether a text holds one of the words under ``any`` and none of those under ``none``; small letters are as
    capitals, and the empty word stands for a text that is missing or empty."""

    def holds(words: Iterable[str]) -> bool:
        return any(word.casefold() in text if word else not text for word in words)

    text = text.casefold()
    return ("any" not in condition or holds(condition["any"])) and not holds(condition.get("none", ()))


def fits_bounds(number: float | None, condition: Mapping[str, Any]) -> bool:
    """Whether a number lies between ``min`` and ``max``, both included; one that is missing does not."""
    return number is not None and condition.get("min", number) <= number <= condition.get("max", number)


def text_of(header: Any, name: str) -> str:
    """Value of an element as one text; empty where it is missing or cannot be read."""
    found = valid(lambda: header.get(name))
    if found is None:
        return ""
    return (
        str(found).strip() if isinstance(found, str) or not isinstance(found, Iterable) else " ".join(map(str, found))
    )


def number_of(header: Any, name: str) -> float | None:
    """Value of an element; None where it is missing or no number."""
    found = valid(lambda: float(header.get(name)))
    return found if isinstance(found, float) and found == found else None


def is_older(header: Any, days: int) -> bool:
    """Whether a study's date lies more than so many days back; one without a date may be of today."""
    found = valid(lambda: datetime.strptime(str(header.get("StudyDate")), "%Y%m%d").date())
    return found is not None and found < date.today() - timedelta(days=days)


def valid(read: Callable[[], Any]) -> Any:
    """What is read of a header; None where that holds something else than the standard wants."""
    with suppress(ValueError, TypeError, AttributeError, NotImplementedError, LookupError, OverflowError):
        return read()
    return None
