"""summary.csv: a row for each study of a folder of results, finished or failed, for spreadsheets and programs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from liver_ct.errors import printable
from liver_ct.files import written_whole
from liver_ct.outputs.index import failures, finished
from liver_ct.outputs.names import SUMMARY
from liver_ct.outputs.results import Item

COLUMNS = (
    "case", "status", "error", "study_tumour_probability", "flag_threshold", "flagged_slices", "liver_volume_ml",
    "lesions", "lesions_shown_as", "largest_lesion_mm", "notes", "begun", "finished", "seconds", "device",
    "precision", "liver_ct", "liver_seg", "liver_cls", "mask_source", "input", "input_sha256",
)  # fmt: skip
COPIED = (  # as result.json has them
    "study_tumour_probability", "flag_threshold", "liver_volume_ml", "lesions_shown_as", "begun", "finished",
    "device", "precision", "mask_source", "input", "input_sha256",
)  # fmt: skip
# what a spreadsheet computes begins so; also in full width
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def write_summary(output: Path) -> None:
    """Write ``output/summary.csv`` from the results of all runs that lie in ``output``: whole or not at all."""
    rows = sorted([*_finished(output), *_failed(output)], key=lambda row: (row["case"], row["status"]))
    with written_whole(output / SUMMARY, shared=True) as part, part.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _finished(output: Path) -> Iterator[Item]:
    """A row for each whole result; those of earlier versions say less."""
    for folder, result in finished(output):
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            yield {"case": folder.name, "status": "finished", **_row(result)}


def _row(result: Mapping[str, Any]) -> Item:
    """What a result.json gives for the table."""
    bundles, lesions = result["bundles"], result.get("lesions")
    return {
        **{name: result.get(name) for name in COPIED},
        "flagged_slices": len(result["flagged_slices"]),
        "lesions": None if lesions is None else len(lesions),
        "largest_lesion_mm": max((lesion["diameter_mm"] for lesion in lesions or ()), default=None),
        "notes": " ".join(result.get("notes", ())),
        "seconds": result["seconds"]["total"],
        "liver_ct": result.get("versions", {}).get("liver-ct"),
        "liver_seg": bundles["liver_seg"]["version"],
        "liver_cls": bundles["liver_cls"]["version"],
    }


def _failed(output: Path) -> Iterator[Item]:
    """A row for each study that failed and has not been finished since."""
    for case, line in failures(output):
        yield {"case": case, "status": "failed", "error": line}


def _cell(value: Any) -> Any:
    """A value as a cell: text on one line, and with a ' before it where a spreadsheet would compute it."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
