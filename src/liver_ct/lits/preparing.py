"""From what was downloaded to a datalist: every pair brought into place, checked, and put on its side of the split."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib

from liver_ct.files import write_json
from liver_ct.lits import checking, finding
from liver_ct.lits.cases import READ_ERRORS, SLICE_SPLITS, SPLITS, BrokenPair, Entry, Track, brief, read_datalist
from liver_ct.lits.finding import Member
from liver_ct.lits.people import (
    PEOPLE,
    assign,
    grouped_people,
    listed_people,
    people_of,
    person_of,
    read_split,
    slice_lists,
    who_is_who,
    with_known,
)
from liver_ct.lits.tumour import check_told_slices, read_slice_tumour

CHECK_VERSION = 5  # raise it when the checks change, so that earlier results are not trusted


class Pair(NamedTuple):
    """A checked CT and its segmentation, whether that marks a tumour, the checksum of the CT's voxels, and what the
    segmentation's own header said of its place, if that is not the CT's."""

    image: Path
    label: Path
    tumour: bool
    voxels: str
    said: str


class Prepared(NamedTuple):
    """What `prepare` made: the datalist and its file, how many cases the split left out, how many were not usable."""

    file: Path
    datalist: dict[str, list[Entry]]
    left_out: int
    not_usable: int


def portable(path: Path, folder: Path) -> str:
    """Path relative to `folder` if it lies below, so that the prepared folder can be moved; absolute otherwise."""
    path, folder = Path(path).absolute(), folder.absolute()
    return path.relative_to(folder).as_posix() if folder in path.parents else str(path)


class State:
    """What earlier runs already prepared: case id -> signatures of its sources and the paths they ended at."""

    def __init__(self, path: Path):
        self.path = path
        try:
            stored = json.loads(path.read_text())
            self.cases = stored["cases"] if stored.get("version") == CHECK_VERSION else {}
        except (OSError, ValueError, KeyError, AttributeError):
            self.cases = {}  # no state or a damaged one: check again

    def find(self, case_id: str, key: list[Any]) -> Pair | None:
        """What there is of a case prepared from exactly these sources, or None."""
        done = self.cases.get(case_id)
        if not done or done["key"] != key:
            return None
        pair = Pair(Path(done["image"]), Path(done["label"]), done["tumour"], done["voxels"], done["said"])
        sizes = [path.stat().st_size if path.is_file() else -1 for path in pair[:2]]
        return pair if sizes == done["sizes"] else None

    def add(self, case_id: str, key: list[Any], pair: Pair) -> None:
        """Remember a case and save at once, so that a killed run goes on from here."""
        sizes = [path.stat().st_size for path in pair[:2]]
        paths = {"image": str(pair.image), "label": str(pair.label)}
        known = {"tumour": pair.tumour, "voxels": pair.voxels, "said": pair.said}
        self.cases[case_id] = {"key": key, **paths, "sizes": sizes, **known}
        write_json(self.path, {"version": CHECK_VERSION, "cases": self.cases})


def prepare_case(members: dict[str, Member], folder: Path, mode: str, state: State) -> Pair:
    """Bring one pair into place and check it, unless an earlier run did; raises BrokenPair."""
    case = next(iter(members.values())).case
    for role in ("volume", "segmentation"):
        if role not in members:
            other = next(iter(members.values())).label
            raise BrokenPair(f"{other}: its {role}-{case} is missing. Put both files below the source folder.")
    pair = members["volume"], members["segmentation"]
    key = [mode, *([member.label, *member.signature] for member in pair)]
    case_id = f"volume-{case}"
    if done := state.find(case_id, key):
        return done
    try:
        image, label = (finding.place(member, folder, mode) for member in pair)
    except (*READ_ERRORS, tarfile.TarError) as error:
        raise BrokenPair(f"{pair[0].label}: cannot be unpacked ({brief(error)}). Download it again.") from None
    found = Pair(image, *checking.check_pair(image, label, folder / "repaired" / f"segmentation-{case}.nii.gz"))
    state.add(case_id, key, found)
    return found


def write_datalist(
    output: Path,
    ready: dict[str, Pair],
    split: dict[str, str | None],
    wanted: dict[str, set[str]],
    people: dict[str, str],
    told: dict[str, str],
    known: dict[str, Entry],
) -> dict[str, list[Entry]]:
    """Write `<output>/datalist.json`, keeping isolated slices that are already in it; returns the datalist.

    What is `known` of a case joins its entry; who is who as `told` by groups files is kept for later calls.
    """
    datalist: dict[str, list[Entry]] = {key: [] for key in SPLITS}
    for case, pair in ready.items():
        side = split[case]
        if side:
            paths = {"image": portable(pair.image, output), "label": portable(pair.label, output)}
            named = {"case_id": f"volume-{case}", "group": person_of(case, people)}
            datalist[side].append({**paths, **named, **known[case]})
    path = output / "datalist.json"
    if path.is_file():
        datalist |= kept_slices(read_datalist(path), datalist, people, wanted)
    write_json(path, {**datalist, PEOPLE: told} if told else datalist)
    return datalist


def what_is_known(
    case: str, members: dict[str, Member], liver_only: Collection[str], slices: dict[str, dict[str, list[int]]]
) -> Entry:
    """The data set of a case and, where its segmentation does not mark tumours, what else tells of them."""
    source = members["volume"].source
    if not names_of(case, members) & set(liver_only):
        return {"source": source}
    return {"source": source, "tumour_label": False, **slices.get(case, {})}


def names_of(case: str, members: dict[str, Member]) -> set[str]:
    """What ``liver_only`` may call a case by: its data set's name and its own."""
    return {case, f"volume-{case}", *(member.source for member in members.values())}


def check_liver_only(liver_only: Collection[str], cases: dict[str, dict[str, Member]]) -> None:
    """Raise BrokenPair unless every name is a data set or a case; a misspelt one would pass tumours for liver."""
    known = set().union(*(names_of(case, members) for case, members in cases.items()))
    if unknown := sorted(set(liver_only) - known):
        raise BrokenPair(f"--liver_only {unknown[0]}: no such source folder or case. Write it as its files are named.")


def check_tumour(
    path: Path, told: Collection[str], cases: dict[str, dict[str, Member]], liver_only: Collection[str]
) -> None:
    """Raise BrokenPair where a table tells only of cases that are not there or have outlines: it would go unused."""
    if told and not any(case in cases and names_of(case, cases[case]) & set(liver_only) for case in told):
        cause = "none of its cases was found, or none is among --liver_only, and outlines say more than a table"
        raise BrokenPair(f"{path}: {cause}. Name them there, or leave --tumour out.")


def unused(file: Path, told: dict[str, dict[str, list[int]]], known: dict[str, Entry]) -> str | None:
    """That rows of a table are of cases with outlines, which say more; or None."""
    rows = {case: sum(map(len, told[case].values())) for case in known if case in told}
    rows = {case: count for case, count in rows.items() if known[case].get("tumour_label", True)}
    if not rows:
        return None
    others = f" and {len(rows) - 1} other cases" if len(rows) > 1 else ""
    cause = f"{sum(rows.values())} of its rows are left out, of volume-{min(rows)}{others}, whose outlines say more"
    return f"{file}: {cause}. If no tumour is outlined there, say --liver_only."


def not_found(file: Path, lost: Collection[str], source: Path) -> str:
    """That a file names cases of which there is no volume."""
    others = f" and {len(lost) - 1} other cases" if len(lost) > 1 else ""
    return f"{file}: names volume-{min(lost)}{others}, not below {source} (yet). Check how they are written."


def tumour_free(source: str, count: int) -> str:
    """That all of a data set is taken for tumour-free, which may be a set of livers alone."""
    cause = f"none of its {count} segmentations marks a tumour (2), so that all are taken for tumour-free"
    return f"{source}: {cause}. If tumours were not outlined there, say --liver_only {source}."


def unmarked(
    ready: dict[str, Pair], cases: dict[str, dict[str, Member]], known: dict[str, Entry]
) -> Iterator[tuple[str, int]]:
    """Data sets of which no segmentation marks a tumour, and which are taken for tumour-free, with their size."""
    marks: dict[str, list[bool]] = {}
    for case, pair in ready.items():
        if known[case].get("tumour_label", True):
            marks.setdefault(cases[case]["volume"].source, []).append(pair.tumour)
    yield from ((source, len(each)) for source, each in marks.items() if not any(each))


def other_headers(ready: dict[str, Pair], cases: dict[str, dict[str, Member]]) -> Iterator[str]:
    """That segmentations were given their CT's header, a line for each thing that their own said."""
    said: dict[str, list[str]] = {}
    for case, pair in ready.items():
        if pair.said:
            said.setdefault(pair.said, []).append(cases[case]["segmentation"].label)
    for cause, (first, *others) in said.items():
        which = f"{first} and {len(others)} other files" if others else first
        yield f"{which}: by its header {cause}; taken as drawn on its CT. See that it lies on the liver."


def one_ct(ready: dict[str, Pair], people: dict[str, str]) -> str | None:
    """That CTs have the same voxels, though they count as other people's, who then are learned from and judged; or
    None."""
    first: dict[str, str] = {}
    twice = [(case, first.setdefault(pair.voxels, case)) for case, pair in ready.items()]
    twice = [(case, other) for case, other in twice if person_of(case, people) != person_of(other, people)]
    if not twice:
        return None
    (case, other), others = twice[0], f" and {len(twice) - 1} other cases" if twice[1:] else ""
    cause = f"volume-{case}{others}: the same voxels as volume-{other}, but another person's by its name"
    return f"{cause}. Leave one out, or name one person for both in --groups."


def kept_slices(
    old: dict[str, list[Entry]], datalist: dict[str, list[Entry]], people: dict[str, str], wanted: dict[str, set[str]]
) -> dict[str, list[Entry]]:
    """The lists of isolated slices of an earlier datalist, divided anew, also by who is ``wanted`` on a side without a
    volume; without the empty ones."""
    slices = [entry for key in SLICE_SPLITS for entry in old.get(key, [])]
    held, tested = (
        {entry["group"] for entry in datalist[key]} | people_of(wanted.get(key, ()), people)
        for key in ("validation", "test")
    )
    lists = slice_lists(slices, people, held, tested)
    return {key: rows for key, rows in lists.items() if rows}


def prepare_all(
    cases: dict[str, dict[str, Member]],
    folder: Path,
    mode: str,
    state: State,
    report: Callable[[str], None],
    track: Track,
) -> dict[str, Pair]:
    """Prepare every case; a broken one is reported in one line and left out."""
    ready = {}
    for case, members in track(cases.items()):
        try:
            ready[case] = prepare_case(members, folder, mode, state)
        except BrokenPair as error:
            report(str(error))
    return ready


def prepare(
    source: Path,
    output: Path,
    groups: Path | None = None,
    split: Path | None = None,
    liver_only: Collection[str] = (),
    tumour: Path | None = None,
    val_fraction: float = 0.15,
    seed: int = 0,
    mode: str = "reference",
    report: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
    track: Track = iter,
) -> Prepared:
    """Check every CT with its segmentation below ``source`` and write ``output/datalist.json``.

    Args:
        source: folder with LiTS or MSD Task03_Liver, at any depth.
        output: folder for the datalist, and for what has to be unpacked or repaired (``output/cases``).
        groups: JSON {case: person} or CSV of case,person, beside the LiTS volumes known to be one person and those
            in a list that is there already, of which a case with an empty person is forgotten.
        split: JSON {"test": [cases], "validation": [cases]}; by default LiTS volumes 28 to 47 are the test.
        liver_only: sources (the folders that the files lie in) or cases whose segmentations hold no tumour label; that
            none is marked there does not mean that there is none.
        tumour: CSV of volume,slice,tumour_present (1, 0, or -1 unknown; the slice as the file counts) for such cases.
        val_fraction: part of the people drawn for validation if the split file lists neither that nor training.
        seed: of that draw.
        mode: what becomes of loose files: "reference" names them where they are, "link" and "copy" put them into
            ``output/cases``.
        report: is told of each problem in one line; the case is left out.
        note: is told, in a line each, of what may be meant otherwise.
        track: wraps the cases that are worked off, to show progress.

    Raises:
        BrokenPair: a source, groups or split that cannot be used.
    """
    out, folder = output.absolute(), output.resolve() / "cases"
    if not source.is_dir():
        raise BrokenPair(f"{source}: is not a folder. Give the folder that LiTS was downloaded to.")
    if not 0 <= val_fraction <= 1:
        raise BrokenPair(f"--val_fraction {val_fraction:g}: no part of the people. Use 0 to 1.")
    earlier = read_datalist(out / "datalist.json") if (out / "datalist.json").is_file() else {}
    told, forgotten = who_is_who(out / "datalist.json", groups)
    people = with_known(grouped_people(earlier, forgotten) | told)
    wanted, slices = read_split(split), read_slice_tumour(tumour)
    problems: list[str] = []
    notes: list[str] = []
    cases = finding.find_cases(source, folder, problems, notes)
    if not cases:
        problems.append(f"{source}: no LiTS or MSD Task03 files below it. Give the folder with the archives.")
    for problem in problems:
        report(problem)
    check_liver_only(liver_only, cases)
    if tumour:
        check_tumour(tumour, slices, cases, liver_only)
    ready = prepare_all(cases, folder, mode, State(out / "prepared.json"), report, track)
    for case in slices.keys() & ready.keys():
        check_told_slices(Path(str(tumour)), slices[case], nib.load(ready[case][0]), f"volume-{case}")
    sides = assign(list(ready), people, wanted, val_fraction, seed)
    known = {case: what_is_known(case, cases[case], liver_only, slices) for case in ready}
    there = {*cases, *listed_people(earlier, SLICE_SPLITS)}
    asked = [(split, set().union(*wanted.values())), (tumour, set(slices))]
    notes += [not_found(file, named - there, source) for file, named in asked if file and named - there]
    notes += [line] if tumour and (line := unused(tumour, slices, known)) else []
    notes += [tumour_free(name, count) for name, count in unmarked(ready, cases, known)]
    notes += other_headers(ready, cases)
    notes += [line] if (line := one_ct(ready, people)) else []
    for line in notes:
        note(line)
    datalist = write_datalist(out, ready, sides, wanted, people, told, known)
    left_out = sum(side is None for side in sides.values())
    return Prepared(out / "datalist.json", datalist, left_out, len(cases) - len(ready))
