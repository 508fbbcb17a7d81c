"""People and splits: which volumes are one person, and on which side of the split each person is."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from liver_ct.lits.cases import SLICE_SPLITS, SPLITS, BrokenPair, Entry, case_name, read_csv, read_object

REFERENCE_TEST = {str(case) for case in range(28, 48)}  # LiTS volumes 28 to 47 are 3D-IRCADb, the customary hold-out
KNOWN_PEOPLE = {"person-0": "0 1", "person-6": "6 7 8 9 10"}  # volumes that look like one patient; others unknown
PEOPLE = "people"  # of a datalist


def read_people(path: Path | None) -> dict[str, str]:
    """Case -> person, "" where it is left empty, from a JSON object {case: person} or a CSV of case,person; without a
    file none."""
    if path is None:
        return {}
    rows = list(read_object(path).items()) if path.suffix.lower() == ".json" else read_table(path)
    people: dict[str, str] = {}
    for case, person in ((case_name(case, path), plain_person(person)) for case, person in rows):
        if people.setdefault(case, person) != person:
            raise BrokenPair(f"{path}: case {case} is of two people. Keep one row.")
    return people


def plain_person(person: object) -> str:
    """A person's name, alike however its letters are composed; "" for none."""
    return "" if person is None else unicodedata.normalize("NFC", str(person)).strip()


def who_is_who(datalist: Path, groups: Path | None) -> tuple[dict[str, str], set[str]]:
    """Case -> person as groups files told, those of earlier calls too, which the datalist keeps; and the cases that
    ``groups`` leaves without a person: what was told of them is forgotten. Raises BrokenPair."""
    new = read_people(groups)
    told = told_earlier(datalist) | new
    if groups:
        check_spelling(groups, told.values())
    return {case: person for case, person in told.items() if person}, {case for case in new if not new[case]}


def check_spelling(groups: Path, people: Iterable[str]) -> None:
    """Raise BrokenPair for names that differ in capitals, spaces and leading zeros alone: one person would be two."""
    first: dict[str, str] = {}
    for person in people:
        plain = re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s_-]+", " ", person.casefold()))
        if (other := first.setdefault(plain, person)) != person:
            raise BrokenPair(f"{groups}: is {person!r} the person {other!r}? Write one name one way, others otherwise.")


def told_earlier(path: Path) -> dict[str, str]:
    """Case -> person as groups files told earlier calls, which a datalist keeps as ``people``; raises BrokenPair.

    Empty where there is no datalist.
    """
    people = read_object(path).get(PEOPLE, {}) if path.is_file() else {}
    if not isinstance(people, dict) or not all(isinstance(person, str) for person in people.values()):
        raise BrokenPair(f"{path}: {PEOPLE} is no object {{case: person}}. Correct it, or prepare the data anew.")
    return people


def with_known(people: dict[str, str]) -> dict[str, str]:
    """``people``, case -> person, with the LiTS volumes that are known to be of one person.

    These get the person that ``people`` names for some of them; where it names nobody, or several, a name of their own.
    What ``people`` says of a case stays.
    """
    known: dict[str, str] = {}
    for person, cases in KNOWN_PEOPLE.items():
        told = {people[case] for case in cases.split() if case in people}
        known |= dict.fromkeys(cases.split(), told.pop() if len(told) == 1 else person)
    return known | people


def listed_people(content: dict[str, list[Entry]], sections: Iterable[str]) -> dict[str, str]:
    """Case -> person of the entries in some sections of a datalist."""
    return {case_of(entry["case_id"]): entry["group"] for key in sections for entry in content.get(key, [])}


def grouped_people(content: dict[str, list[Entry]], forgotten: Collection[str] = ()) -> dict[str, str]:
    """Case -> person of a datalist's volumes and slices, but for those that nobody had grouped, or are forgotten."""
    listed = listed_people(content, (*SLICE_SPLITS, *SPLITS))
    return {c: person for c, person in listed.items() if person != person_of(c, {}) and c not in forgotten}


def case_of(case_id: str) -> str:
    """Case of a volume or an isolated slice: "volume-7" and "slice-7-102" are of "7"."""
    return case_of_slice(case_id) if case_id.startswith("slice-") else case_name(case_id)


def read_table(path: Path) -> list[tuple[str, str]]:
    """Rows of a CSV of case,person without its heading; raises BrokenPair."""
    rows = read_csv(path)
    if rows and not re.search(r"\d", rows[0][0]):  # a heading has no case number
        del rows[0]
    return [(row[0], row[1] if len(row) > 1 else "") for row in rows]


def person_of(case: str, people: dict[str, str]) -> str:
    """Group name of a case; a case that nobody grouped is a person of its own."""
    return people.get(case) or f"volume-{case}"


def read_split(path: Path | None) -> dict[str, set[str]]:
    """Cases asked for per split: from a JSON {"test": [...], "validation": [...]}, else the reference test."""
    if path is None:
        return {"test": set(REFERENCE_TEST)}
    lists = read_object(path)
    if unknown := set(lists) - set(SPLITS):
        raise BrokenPair(f"{path}: unknown split {sorted(unknown)}. Use training, validation and test.")
    if wrong := [key for key, cases in lists.items() if not isinstance(cases, list)]:
        raise BrokenPair(f"{path}: {wrong[0]} is no list of cases. Write it as [28, 29].")
    return {key: {case_name(case, path) for case in cases} for key, cases in lists.items()}


def choose(groups: set[str], fraction: float, seed: int) -> set[str]:
    """Draw `fraction` of the groups, at least one while two or more are there, the same ones for the same seed."""
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    if fraction <= 0 or len(order) < 2:
        return set()
    return set(order[: max(1, round(fraction * len(order)))])


def assign(
    cases: list[str], people: dict[str, str], wanted: dict[str, set[str]], fraction: float, seed: int
) -> dict[str, str | None]:
    """Map case -> "training", "validation", "test" or None (left out), keeping each person on one side.

    A person who has a test case gives nothing to training or validation. Cases that a split file does not name are
    divided by `fraction` unless the file lists validation or training itself; with a training list they stay out.
    """
    test = wanted.get("test", set())
    rest = untested(cases, people, test)
    if "training" in wanted:
        rest &= wanted["training"] | wanted.get("validation", set())
    held = validation_people(rest, people, wanted, fraction, seed)
    split: dict[str, str | None] = dict.fromkeys(cases)
    for case in cases:
        if case in test:
            split[case] = "test"
        elif case in rest:
            split[case] = "validation" if person_of(case, people) in held else "training"
    return split


def untested(cases: Iterable[str], people: dict[str, str], test: set[str]) -> set[str]:
    """Those of the cases whose person has no test case."""
    tested = people_of(test, people)
    return {case for case in cases if person_of(case, people) not in tested}


def people_of(cases: Iterable[str], people: dict[str, str]) -> set[str]:
    """Group names of some cases."""
    return {person_of(case, people) for case in cases}


def validation_people(
    cases: Iterable[str], people: dict[str, str], wanted: dict[str, set[str]], fraction: float, seed: int
) -> set[str]:
    """Who is in validation: those asked for, else a drawn part of the cases' people; raises BrokenPair.

    Nobody of a training list is drawn: these were asked for.
    """
    if "validation" not in wanted:
        return set() if "training" in wanted else choose(people_of(cases, people), fraction, seed)
    held = people_of(wanted["validation"], people)
    both = people_of(wanted.get("training", ()), people) & held
    if both:
        raise BrokenPair(f"split: {sorted(both)} are asked for in training and validation. Keep a person together.")
    return held


def slice_lists(
    entries: list[Entry], people: dict[str, str], held: set[str], tested: set[str]
) -> dict[str, list[Entry]]:
    """Divide isolated slices by person: those of `held` (validation) apart, those of `tested` left out."""
    lists: dict[str, list[Entry]] = {key: [] for key in SLICE_SPLITS}
    for entry in entries:
        group = person_of(case_of_slice(entry["case_id"]), people)
        if group not in tested:
            side = "validation_slices" if group in held else "training_slices"
            lists[side].append({**entry, "group": group})
    return lists


def case_of_slice(case_id: str) -> str:
    """Case of an isolated slice: "slice-7-102" is of "7"."""
    return case_id.split("-")[1]
