"""What is known of tumours where no outline tells: presence per slice, and area. What is unknown stays unknown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nibabel as nib

from liver_ct.lits.cases import BrokenPair, case_name, read_csv
from liver_ct.outputs.axes import axial_axis

SURE_DICE = 0.95  # how well a slice's liver fits the slice that its label was taken from
CASE_COLUMNS = ("lits_volume", "volume", "case")  # of a table of an archive, where it has them
TOLD = ("tumour_in", "tumour_free")  # slices by index along the body, where there are no outlines


def read_rows(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a heading that names at least ``columns``; raises BrokenPair."""
    head, *rows = read_csv(path) or [[]]
    named = [name.strip() for name in head]
    if missing := set(columns) - set(named if rows else ()):
        raise BrokenPair(f"{path}: has no column {', '.join(sorted(missing))}. Give a CSV with a heading.")
    return [dict(zip_longest(named, row[: len(named)], fillvalue="")) for row in rows]


def presence(text: str, path: Path) -> int | None:
    """1, 0, or None where it is unknown (empty or -1); raises BrokenPair."""
    known = {"1": 1, "0": 0, "": None, "-1": None}
    if text.strip() not in known:
        raise BrokenPair(f"{path}: tumour_present is {text!r}. Write 1, 0, or -1 for unknown.")
    return known[text.strip()]


def number(row: dict[str, str], column: str, path: Path) -> float:
    """A row's number in ``column``, finite and not negative; raises BrokenPair."""
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise BrokenPair(f"{path}: {column} is {row[column]!r}. Write a number, 0 or more.")
    return value


def whole_number(row: dict[str, str], column: str, path: Path) -> int:
    """A row's whole number in ``column``, not negative; raises BrokenPair."""
    value = number(row, column, path)
    if value != int(value):
        raise BrokenPair(f"{path}: {column} is {row[column]!r}. Write a whole number.")
    return int(value)


def read_slice_tumour(path: Path | None) -> dict[str, dict[str, list[int]]]:
    """Case -> ``tumour_in`` and ``tumour_free``, slices of the file that do and do not show tumour; raises BrokenPair.

    Slices in neither list are unknown.
    """
    if path is None:
        return {}
    cases: dict[str, dict[str, list[int]]] = {}
    for row in read_rows(path, ("volume", "slice", "tumour_present")):
        present = presence(row["tumour_present"], path)
        if present is not None:
            lists = cases.setdefault(case_name(row["volume"], path), {"tumour_in": [], "tumour_free": []})
            lists["tumour_in" if present else "tumour_free"].append(whole_number(row, "slice", path))
    for case, lists in cases.items():
        if both := {*lists["tumour_in"]} & {*lists["tumour_free"]}:
            raise BrokenPair(
                f"{path}: slice {min(both)} of volume-{case} is told to show tumour and none. Keep one row."
            )
    return cases


def check_told_slices(file: Path, told: Mapping[str, Any], image: nib.Nifti1Image, case: str) -> None:
    """Raise BrokenPair where a table or datalist tells, in ``tumour_in`` or ``tumour_free``, of slices a CT lacks."""
    count = image.shape[axial_axis(image.affine)]
    lost = [number for key in TOLD for number in told.get(key, []) if not 0 <= number < count]
    if lost:
        raise BrokenPair(f"{file}: {case} has slices 0 to {count - 1}, but it tells of {lost[0]}. Correct it.")


def read_row_tumour(
    path: Path | None, spacing: Iterable[float], slices: Sequence[tuple[str, str, int]]
) -> dict[int, dict[str, float]]:
    """Row of a slice archive -> ``tumour_present`` and, where it is told, ``tumour_area_mm2``; raises BrokenPair.

    Args:
        path: CSV of row,tumour_present and, if known, area_px256 (pixels, were the slice 256 wide), confidence (rows
            that are not "high" are left out) and liver_dice (rows that are not above 0.95 are left out). What it tells
            of a row's case (lits_volume, volume or case) and slice must be as in the archive.
        spacing: mm per such pixel of each row.
        slices: of each row of the archive its case, as the archive and as the datalist call it, and its slice.
    """
    if path is None:
        return {}
    mm = list(spacing)
    known: dict[int, dict[str, float]] = {}
    for row in read_rows(path, ("row", "tumour_present")):
        present, index = presence(row["tumour_present"], path), whole_number(row, "row", path)
        if index >= len(mm):
            raise BrokenPair(f"{path}: row {index} is not in the archive. Give the CSV that belongs to it.")
        if index in known:
            raise BrokenPair(f"{path}: row {index} stands twice. Keep one.")
        check_row(path, row, index, *slices[index])
        if present is None or not is_sure(row, path):
            continue
        known[index] = {"tumour_present": present}
        if row.get("area_px256"):
            known[index]["tumour_area_mm2"] = round(number(row, "area_px256", path) * mm[index] ** 2, 1)
    return known


def check_row(path: Path, row: dict[str, str], index: int, own: str, listed: str, number_there: int) -> None:
    """Raise BrokenPair where a row names another case or slice than the archive has there, as in another order."""
    case = next((row[key] for key in CASE_COLUMNS if row.get(key, "").strip()), None)
    wrong = f"case {case}" if case and case_name(case, path) not in (own, listed) else ""
    if row.get("slice", "").strip() and whole_number(row, "slice", path) != number_there:
        wrong = wrong or f"slice {row['slice']}"
    if wrong:
        cause = f"row {index} is of {wrong}, where the archive has slice {number_there} of case {own}"
        raise BrokenPair(f"{path}: {cause}. Number the rows as the archive does.")


def is_sure(row: dict[str, str], path: Path) -> bool:
    """Whether a row's label can be trusted, as far as the table says; raises BrokenPair."""
    if row.get("confidence", "high") != "high":
        return False
    return "liver_dice" not in row or (row["liver_dice"] != "" and number(row, "liver_dice", path) > SURE_DICE)
