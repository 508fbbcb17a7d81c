"""What is known of tumours where no outline tells: presence per slice, and area. What is unknown stays unknown."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from liver_ct.lits.cases import BrokenPair, brief, case_name

SURE_DICE = 0.95  # how well a slice's liver fits the slice that its label was taken from


def read_rows(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a heading that names at least ``columns``; raises BrokenPair."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenPair(f"{path}: cannot be read ({brief(error)}). Check the path.") from None
    missing = set(columns) - set(rows[0] if rows else ())
    if missing:
        raise BrokenPair(f"{path}: has no column {', '.join(sorted(missing))}. Give a CSV with a heading.")
    return rows


def presence(text: str, path: Path) -> int | None:
    """1, 0, or None where it is unknown (empty or -1); raises BrokenPair."""
    known = {"1": 1, "0": 0, "": None, "-1": None}
    if text.strip() not in known:
        raise BrokenPair(f"{path}: tumour_present is {text!r}. Write 1, 0, or -1 for unknown.")
    return known[text.strip()]


def read_slice_tumour(path: Path | None) -> dict[str, dict[str, list[int]]]:
    """Case -> ``tumour_in`` and ``tumour_free``, slices of the file that do and do not show tumour; raises BrokenPair.

    Slices in neither list are unknown.
    """
    cases: dict[str, dict[str, list[int]]] = {}
    for row in read_rows(path, ("volume", "slice", "tumour_present")) if path else []:
        present = presence(row["tumour_present"], path)
        if present is not None:
            lists = cases.setdefault(case_name(row["volume"], path), {"tumour_in": [], "tumour_free": []})
            lists["tumour_in" if present else "tumour_free"].append(int(row["slice"]))
    return cases


def read_row_tumour(path: Path | None, spacing: Iterable[float]) -> dict[int, dict[str, float]]:
    """Row of a slice archive -> ``tumour_present`` and, where it is told, ``tumour_area_mm2``; raises BrokenPair.

    Args:
        path: CSV of row,tumour_present and, if known, area_px256 (pixels), confidence (rows that are not "high" are left
            out) and liver_dice (rows at or below 0.95 are left out).
        spacing: mm per pixel of each row.
    """
    mm, known = list(spacing), {}
    for row in read_rows(path, ("row", "tumour_present")) if path else []:
        present, index = presence(row["tumour_present"], path), int(row["row"])
        sure = row.get("confidence", "high") == "high" and float(row.get("liver_dice") or 1) > SURE_DICE
        if present is None or not sure:
            continue
        if not 0 <= index < len(mm):
            raise BrokenPair(f"{path}: row {index} is not in the archive. Give the CSV that belongs to it.")
        known[index] = {"tumour_present": present}
        if row.get("area_px256"):
            known[index]["tumour_area_mm2"] = round(float(row["area_px256"]) * mm[index] ** 2, 1)
    return known
