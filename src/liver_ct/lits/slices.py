"""Isolated labelled slices, added to a datalist as NIfTI volumes of depth 1."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from liver_ct.files import write_json, written_whole
from liver_ct.lits.cases import (
    READ_ERRORS,
    SLICE_SPLITS,
    SPLITS,
    BrokenPair,
    Entry,
    Track,
    brief,
    case_name,
    read_datalist,
)
from liver_ct.lits.facing import facing
from liver_ct.lits.people import (
    PEOPLE,
    case_of,
    grouped_people,
    listed_people,
    people_of,
    read_split,
    slice_lists,
    told_earlier,
    who_is_who,
    with_known,
)
from liver_ct.lits.preparing import portable
from liver_ct.lits.tumour import read_row_tumour

LARGEST_SPACING = 30.0  # mm, as the bundles take it
LEAST_HIGH = 40  # HU that a liver's slice reaches
WIDTH = 256  # pixels, of which areas are told
SHAPES = "the arrays' shapes do not fit together. Need image and liver [N,H,W], the rest [N]."
UNKNOWN_SPACING = 1.5  # mm per pixel of WIDTH, so 384 mm in all, where an archive does not tell


class Slices(NamedTuple):
    """Isolated slices: HU and liver ``[N, H, W]``, and of each its case, its number in it and its mm per pixel.

    ``own`` is what the archive calls the case, without the letters that keep it apart.
    """

    hu: NDArray[Any]
    liver: NDArray[Any]
    case: list[str]
    own: list[str]
    number: list[int]
    spacing: list[float]


def read_slices(path: Path) -> Slices:
    """The slices of an archive; raises BrokenPair.

    Arrays ``image`` and ``liver`` [N,H,W], ``slice`` [N], and ``lits_volume`` or ``case`` [N]. Where it is not LiTS,
    the letters of the archive's name are put before the case's. ``spacing_mm`` [N] is mm per pixel; where it is
    missing, slices are taken to be 384 mm wide. HU are ``image * hu_slope + hu_intercept`` where these are given.
    """
    try:
        if not zipfile.is_zipfile(path):  # NumPy would speak of pickles
            raise OSError("no .npz, or cut short")
        with np.load(path, allow_pickle=False) as archive:
            data = {name: archive[name] for name in archive.files}
        image, liver, number = data["image"], data["liver"], data["slice"]
        cases = data["lits_volume"] if "lits_volume" in data else data["case"]
    except (*READ_ERRORS, KeyError) as error:
        raise BrokenPair(f"{path}: not a slice archive ({brief(error)}). Give the .npz with image and liver.") from None
    if image.ndim != 3 or 0 in image.shape or liver.shape != image.shape:
        raise BrokenPair(f"{path}: {SHAPES}")
    spacing = data.get("spacing_mm", np.full(len(image), UNKNOWN_SPACING * WIDTH / image.shape[2]))
    if any(array.shape != (len(image),) for array in (number, cases, spacing)):
        raise BrokenPair(f"{path}: {SHAPES}")
    if not np.isin(liver, (0, 1)).all() or not liver.any() or not ((spacing > 0) & (spacing <= LARGEST_SPACING)).all():
        cause = "liver must be 0 or 1, and 1 somewhere, and spacing_mm possible"
        raise BrokenPair(f"{path}: {cause}. Make the archive again.")
    if number.dtype.kind not in "iu" or len({*zip(cases.tolist(), number.tolist())}) < len(number):
        cause = "slice must be a whole number, another in each slice of a case"
        raise BrokenPair(f"{path}: {cause}. Make the archive again.")
    hu = in_hu(path, image, data)
    prefix = "" if "lits_volume" in data else re.sub(r"[^a-z]", "", path.stem.removesuffix("_slices").lower()) or "x"
    own = [case_name(str(case), path) for case in cases]  # letters and digits only: they name files
    return Slices(hu, liver, [prefix + name for name in own], own, number.tolist(), spacing.tolist())


def check_names(npz: Path, data: Slices, content: Mapping[str, list[Entry]]) -> None:
    """Raise BrokenPair where cases of another archive are called as some of this one: two people would become one."""
    lettered = {case for case in data.case if not case.isdecimal()}  # LiTS's own numbers are the same people
    entries = [entry for key in SLICE_SPLITS for entry in content.get(key, []) if entry.get("source") != npz.stem]
    for entry in entries:
        if case_of(entry["case_id"]) in lettered:
            cause = f"its cases are called as those of {entry.get('source')}, as only letters of their names count"
            raise BrokenPair(f"{npz}: {cause}. Rename it, with other letters.")


def as_listed(groups: Path, who: Mapping[str, str], datalist: Path, volumes: Mapping[str, str]) -> dict[str, str]:
    """Case -> person as groups files told (``who``), with people renamed as their ``volumes`` in a datalist are.

    Raises BrokenPair where volumes of one person are of several people in the datalist, which was divided by these.
    """
    listed: dict[str, str] = {}  # person of the file -> one of the person's volumes
    for case, person in who.items():
        if case in volumes and volumes[case] != volumes[listed.setdefault(person, case)]:
            cause = f"cases {listed[person]} and {case} are one person, but two in {datalist}"
            raise BrokenPair(f"{groups}: {cause}. Prepare the data with this file first.")
    return {case: volumes[listed[person]] if person in listed else person for case, person in who.items()}


def in_hu(path: Path, image: NDArray[Any], data: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Pixels ``[N, H, W]`` in HU, uint8 where they are stored so, else int16; raises BrokenPair."""
    scale = [np.asarray(data.get(name, usual)) for name, usual in (("hu_slope", 1), ("hu_intercept", 0))]
    if any(value.size != 1 for value in scale):
        raise BrokenPair(f"{path}: hu_slope and hu_intercept must be one number each. Make the archive again.")
    slope, intercept = (float(value.item()) for value in scale)
    low, high = (float(end) * slope + intercept for end in (image.min(), image.max()))
    if not (slope > 0 and -(2**15) <= low <= high < 2**15 and high >= LEAST_HIGH):  # NaN is none of it
        raise BrokenPair(f"{path}: values from {low:g} to {high:g} are not the HU of a CT. Give them in HU.")
    if (slope, intercept) == (1, 0) and image.dtype in (np.uint8, np.int16):
        return image
    hu: NDArray[Any] = np.rint(image * np.float32(slope) + np.float32(intercept)).astype(np.int16)
    return hu


def save_slice(path: Path, pixels: NDArray[Any], spacing: float, thickness: float) -> None:
    """Write [rows to the back, columns to the left] as NIfTI [x to the left, y to the back, 1], as LiTS stores it."""
    image = nib.Nifti1Image(pixels.T[..., None], np.diag([-spacing, -spacing, thickness, 1.0]))
    image.header.set_xyzt_units("mm")
    with written_whole(path) as part:
        nib.save(image, part)


def write_slices(
    data: Slices, output: Path, tested: set[str], thickness: float, track: Track
) -> Iterator[tuple[int, Entry]]:
    """Write every slice outside the test cases as an image and label file; yields row and entry (absolute paths)."""
    for row, case in enumerate(track(data.case)):
        if case in tested:
            continue
        name, spacing = f"slice-{case}-{data.number[row]}", float(data.spacing[row])
        paths = {key: output / f"{name}_{key}.nii.gz" for key in ("image", "label")}
        save_slice(paths["image"], data.hu[row], spacing, thickness)
        save_slice(paths["label"], data.liver[row].astype(np.uint8), spacing, thickness)
        yield row, {**{key: str(path) for key, path in paths.items()}, "case_id": name}


def add_slices(
    npz: Path,
    datalist: Path,
    output: Path,
    groups: Path | None = None,
    split: Path | None = None,
    tumour: Path | None = None,
    thickness: float = 5.0,
    note: Callable[[str], None] = lambda _: None,
    track: Track = iter,
) -> dict[str, list[Entry]]:
    """Add isolated labelled slices to a datalist as NIfTI volumes of depth 1.

    Slices of a person in validation go to the list "validation_slices", all others to "training_slices"; slices of
    test volumes, or of people who have one, are left out.

    Args:
        npz: archive as ``read_slices`` takes it.
        datalist: datalist.json that `prepare` wrote.
        output: folder for the NIfTI files.
        groups: JSON or CSV as for `prepare`; what an earlier call was told is known. Volumes stay as they are listed.
        split: as given to `prepare`.
        tumour: CSV of row,tumour_present (1, 0, or -1 unknown), and area_px256, confidence and liver_dice where known;
            a row's case and slice, where it tells them, must be those of the archive.
        thickness: voxel depth to write, in mm.
        note: is told, in a line, that most slices lie otherwise than they should.
        track: wraps the slices that are worked off, to show progress.

    Returns:
        The datalist as it was written.

    Raises:
        BrokenPair: an archive, datalist, groups or split that cannot be used.
    """
    if not 0 < thickness <= LARGEST_SPACING:
        raise BrokenPair(f"--thickness {thickness:g}: no depth of a voxel in mm. Use up to {LARGEST_SPACING:g}.")
    path, output = datalist.absolute(), output.absolute()
    content = read_datalist(path)
    data = read_slices(npz)
    volumes = listed_people(content, SPLITS)
    who, forgotten = who_is_who(path, groups)
    if stay := sorted(forgotten & volumes.keys() & told_earlier(path).keys()):
        raise BrokenPair(f"{groups}: case {stay[0]} has a volume in {path}. Prepare the data with this file first.")
    people = with_known(grouped_people(content, forgotten) | as_listed(groups or path, who, path, volumes) | volumes)
    wanted = read_split(split)
    cases = wanted.get("test", set()) | {case_name(e["case_id"]) for e in content.get("test", [])}
    check_names(npz, data, content)
    pixels = [mm * data.hu.shape[2] / WIDTH for mm in data.spacing]
    told = read_row_tumour(tumour, pixels, list(zip(data.own, data.case, data.number)))
    if line := facing(data.hu, data.liver):
        note(f"{npz}: {line}")
    entries = []
    for row, entry in write_slices(data, output, cases, thickness, track):
        entry |= {key: portable(Path(entry[key]), path.parent) for key in ("image", "label")}
        entries.append({**entry, "source": npz.stem, "tumour_label": False, **told.get(row, {})})
    known = {entry["case_id"] for entry in entries}
    earlier = [e for key in SLICE_SPLITS for e in content.get(key, []) if e["case_id"] not in known]
    held = {entry["group"] for entry in content.get("validation", [])}
    held |= people_of(wanted.get("validation", ()), people)
    content |= slice_lists(earlier + entries, people, held, people_of(cases, people))
    content.pop(PEOPLE, None)
    write_json(path, {**content, PEOPLE: who} if who else content)
    return content
