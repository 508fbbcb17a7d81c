"""Isolated labelled slices, added to a datalist as NIfTI volumes of depth 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from liver_ct.files import write_json, written_whole
from liver_ct.lits.cases import READ_ERRORS, SLICE_SPLITS, SPLITS, BrokenPair, brief, case_number, read_json
from liver_ct.lits.people import people_of, read_people, read_split, slice_lists
from liver_ct.lits.preparing import portable


def read_slices(path: str) -> dict[str, np.ndarray]:
    """Arrays of a slice archive: image, liver [N,H,W], lits_volume, slice, spacing_mm [N]; raises BrokenPair."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = ("image", "liver", "lits_volume", "slice", "spacing_mm")
            data = {name: archive[name] for name in names}
    except (*READ_ERRORS, KeyError) as error:
        raise BrokenPair(f"{path}: not a slice archive ({brief(error)}). Give the .npz with image and liver.") from None
    shape, count = data["image"].shape, len(data["image"])
    if len(shape) != 3 or data["liver"].shape != shape or any(data[name].shape != (count,) for name in names[2:]):
        raise BrokenPair(f"{path}: the arrays' shapes do not fit together. Need image and liver [N,H,W], the rest [N].")
    if data["liver"].max(initial=0) > 1 or not (data["spacing_mm"] > 0).all():
        raise BrokenPair(f"{path}: liver must be 0 or 1 and spacing_mm positive. Make the archive again.")
    return data


def save_slice(path: Path, pixels: np.ndarray, spacing: float, thickness: float) -> None:
    """Write [rows to the back, columns to the left] as NIfTI [x to the left, y to the back, 1], as LiTS stores it."""
    if not path.is_file():
        image = nib.Nifti1Image(pixels.T[..., None], np.diag([-spacing, -spacing, thickness, 1.0]))
        image.header.set_xyzt_units("mm")
        with written_whole(path) as part:
            nib.save(image, part)


def write_slices(
    data: dict[str, np.ndarray], output: Path, tested: set[int], thickness: float, track: Callable[[Iterable], Iterable]
) -> list[dict]:
    """Write every slice outside the test volumes as an image and label file; returns entries with absolute paths."""
    entries = []
    for index, (volume, number) in enumerate(zip(track(data["lits_volume"]), data["slice"])):
        if int(volume) in tested:
            continue
        name, spacing = f"slice-{volume}-{number}", float(data["spacing_mm"][index])
        paths = {key: output / f"{name}_{key}.nii.gz" for key in ("image", "label")}
        save_slice(paths["image"], data["image"][index], spacing, thickness)
        save_slice(paths["label"], data["liver"][index].astype(np.uint8), spacing, thickness)
        entries.append({**{key: str(path) for key, path in paths.items()}, "case_id": name})
    return entries


def add_slices(
    npz: Path,
    datalist: Path,
    output: Path,
    groups: Path | None = None,
    split: Path | None = None,
    thickness: float = 5.0,
    track: Callable[[Iterable], Iterable] = iter,
) -> dict[str, list[dict]]:
    """Add isolated labelled slices to a datalist as NIfTI volumes of depth 1.

    Slices of a person in validation go to the list "validation_slices", all others to "training_slices"; slices of
    test volumes, or of people who have one, are left out.

    Args:
        npz: archive with image [N,H,W] uint8 HU (rows front to back, columns to the patient's left), liver [N,H,W],
            lits_volume [N], slice [N], spacing_mm [N].
        datalist: datalist.json that `prepare` wrote.
        output: folder for the NIfTI files.
        groups: as given to `prepare`.
        split: as given to `prepare`.
        thickness: voxel depth to write, in mm.
        track: wraps the slices that are worked off, to show progress.

    Returns:
        The datalist as it was written.

    Raises:
        BrokenPair: an archive, datalist, groups or split that cannot be used.
    """
    path, output = datalist.absolute(), output.absolute()
    content, data = read_json(path), read_slices(npz)
    people = read_people(groups) | listed_people(content)
    numbers = read_split(split).get("test", set()) | {case_number(e["case_id"]) for e in content.get("test", [])}
    entries = write_slices(data, output, numbers, thickness, track)
    for entry in entries:
        entry |= {key: portable(entry[key], path.parent) for key in ("image", "label")}
    known = {entry["case_id"] for entry in entries}
    earlier = [e for key in SLICE_SPLITS for e in content.get(key, []) if e["case_id"] not in known]
    held = {entry["group"] for entry in content.get("validation", [])}
    content |= slice_lists(earlier + entries, people, held, people_of(numbers, people))
    write_json(path, content)
    return content


def listed_people(content: dict[str, list[dict]]) -> dict[int, str]:
    """Case number -> person of a datalist's volumes."""
    entries = [entry for key in SPLITS for entry in content.get(key, [])]
    return {case_number(entry["case_id"]): entry["group"] for entry in entries}
