"""A training set small enough to travel: everybody's CT and labels at the working grid, in one file."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from liver_ct.files import sha256, write_json, written_whole
from liver_ct.lits.cases import (
    READ_ERRORS,
    SLICE_SPLITS,
    SPLITS,
    TUMOUR,
    BrokenPair,
    Entry,
    Track,
    brief,
    read_datalist,
    read_object,
)
from liver_ct.lits.tumour import TOLD, check_told_slices
from liver_ct.outputs.axes import axial_axis

GRID = (2.0, 2.0, 3.0)  # mm; finer than that is averaged away
HU = (-60.0, 240.0)  # what lies beyond tells nothing about livers
STEP = 5.0  # HU, well below the noise of a slice
BODY = -30.0  # HU above which a pixel is taken for body
SOFT = 40.0  # HU that every slice through a liver reaches
MARK = b"slices are listed by the packed CT"  # comment of the archive; version 0.9.3 and before listed the CT's own


def pack(datalist: Path, output: Path, track: Track = iter) -> int:
    """Write every case of a datalist to the one file ``output`` (.zip): CT in steps of 5 HU, labels, datalist.json.

    Averaged to 2 x 2 x 3 mm where it is finer, cut to the body; test cases stay out.

    Args:
        datalist: as ``prepare`` and ``add_slices`` made it.
        output: the file.
        track: wraps the cases that are worked off, to show progress.

    Returns:
        Its size in bytes.

    Raises:
        BrokenPair: a file that cannot be read.
    """
    content = read_datalist(datalist)
    sections = [key for key in (*SPLITS, *SLICE_SPLITS) if key != "test" and content.get(key)]
    if not sections:
        raise BrokenPair(f"{datalist}: lists nobody but test cases. Give the datalist that `prepare` wrote.")
    names = Counter(entry["case_id"] for key in sections for entry in content[key])
    if wrong := [name for name, count in names.items() if count > 1 or re.search(r"[/\\]", name)]:
        raise BrokenPair(
            f"{datalist}: case_id {wrong[0]!r} stands twice, or cannot name a file. Give each its own name."
        )
    packed: dict[str, list[Entry]] = {key: [] for key in sections}
    with written_whole(output) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_LZMA) as archive:
        for section, entry in track([(key, entry) for key in sections for entry in content[key]]):
            own, images = packed_case(datalist, entry)
            packed[section].append(own)
            for name, image in images.items():
                archive.writestr(info(name), image.to_bytes())
        archive.writestr(info("datalist.json"), json.dumps(packed, indent=1))
        archive.comment = MARK
    return output.stat().st_size


def packed_case(datalist: Path, entry: Entry) -> tuple[Entry, dict[str, nib.Nifti1Image]]:
    """A case as it is packed: its entry, and CT and label at the packed grid by their names; raises BrokenPair."""
    image, label = (load(datalist.parent / entry[role]) for role in ("image", "label"))
    check_values(datalist.parent, entry, image, label)
    if image.shape != label.shape or not np.allclose(image.affine, label.affine, rtol=0, atol=0.01):
        raise BrokenPair(f"{entry['label']}: lies on another grid than its CT. Prepare the data again.")
    images = small(image, label)
    check_told_slices(datalist, entry, image, entry["case_id"])
    axis = axial_axis(image.affine)
    told = told_slices(entry, image.shape[axis], images[0].shape[axis])
    files = {role: f"{entry['case_id']}_{role}.nii" for role in ("image", "label")}
    kept = {key: value for key, value in entry.items() if key != "prob"}  # made from the whole CT, stays there
    return {**kept, **told, **files}, dict(zip(files.values(), images))


def info(name: str) -> zipfile.ZipInfo:
    """A member without the time of its making, so that the same data gives the same bytes."""
    member = zipfile.ZipInfo(name)  # of 1980-01-01
    member.compress_type = zipfile.ZIP_LZMA
    member.create_system, member.external_attr = 3, 0o100644 << 16
    return member


def load(path: Path) -> nib.Nifti1Image:
    """A NIfTI image, its voxels read; raises BrokenPair."""
    try:
        image = nib.load(path)
        return nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
    except READ_ERRORS as error:
        raise BrokenPair(f"{path}: cannot be read as NIfTI ({brief(error)}). Prepare the data again.") from None


def check_values(folder: Path, entry: Entry, image: nib.Nifti1Image, label: nib.Nifti1Image) -> None:
    """Raise BrokenPair for labels other than 0, 1 and 2, which packing would make 1, and a CT that cannot be HU."""
    wrong = np.setdiff1d(np.asanyarray(label.dataobj), (0, 1, TUMOUR))
    if len(wrong):
        raise BrokenPair(f"{folder / entry['label']}: holds {wrong[0]:g}, and not 0, 1 and 2 alone. Prepare it again.")
    low, high = np.asanyarray(image.dataobj).min(), np.asanyarray(image.dataobj).max()
    if high < SOFT:  # as of labels and probabilities
        file = folder / entry["image"]
        raise BrokenPair(f"{file}: values from {low:g} to {high:g} are not the HU of a CT. Prepare it again.")


def told_slices(entry: Entry, before: int, after: int) -> Entry:
    """``tumour_in`` and ``tumour_free`` of an entry that has them, by the slices of its packed CT.

    ``before`` slices are averaged to ``after``. As in outlines, what half of them show counts; a packed slice of which
    too little is known is in neither list.
    """
    spans = [range(k * before // after, -(-(k + 1) * before // after)) for k in range(after)]  # as ``averaged``
    shares = {key: [len({*span} & {*entry[key]}) / len(span) for span in spans] for key in TOLD if key in entry}
    told = {}
    if "tumour_in" in shares:
        told["tumour_in"] = [k for k, share in enumerate(shares["tumour_in"]) if share >= 0.5]
    if "tumour_free" in shares:
        told["tumour_free"] = [k for k, share in enumerate(shares["tumour_free"]) if share > 0.5]
    return told


def small(image: nib.Nifti1Image, label: nib.Nifti1Image) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """CT and label at the packed grid."""
    spacing = nib.affines.voxel_sizes(image.affine)
    size = [max(1, min(n, round(n * mm / grid))) for n, mm, grid in zip(image.shape, spacing, axis_grid(image))]
    factors = np.array(image.shape) / size
    change = np.diag([*factors, 1.0])
    change[:3, 3] = (factors - 1) / 2
    hu, values = averaged(np.asanyarray(image.dataobj), size), np.asanyarray(label.dataobj)
    liver, tumour = averaged(values > 0, size) >= 0.5, averaged(values == TUMOUR, size) >= 0.5
    box, corner = body_box(hu, axial_axis(image.affine))
    affine = image.affine @ change @ corner
    stored = np.rint((hu[box].clip(*HU) - HU[0]) / STEP).astype(np.uint8)
    return scaled(stored, affine, STEP, HU[0]), scaled((liver.astype(np.uint8) + (liver & tumour))[box], affine, 1, 0)


def axis_grid(image: nib.Nifti1Image) -> list[float]:
    """The packed grid's mm along each axis of the array, whichever way it lies."""
    axes = nib.io_orientation(image.affine)[:, 0].astype(int)
    return [GRID[axis] for axis in axes]


def averaged(values: NDArray[Any], size: list[int]) -> NDArray[Any]:
    """``[X, Y, Z]`` averaged to ``size``, float32."""
    import torch  # late: what only prepares data need not wait for it
    import torch.nn.functional as F

    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return F.interpolate(tensor[None, None], size=size, mode="area")[0, 0].numpy()


def body_box(hu: NDArray[Any], axial: int) -> tuple[tuple[slice, ...], NDArray[Any]]:
    """What shows more of a body than a speck, all slices along ``axial``; and the matrix that moves the corner."""
    body = (hu > BODY).any(axis=axial)
    lines = [np.flatnonzero(body.sum(axis=axis) > 3) for axis in (1, 0)]
    spans = [(line[0], line[-1] + 1) if len(line) else (0, n) for line, n in zip(lines, body.shape)]
    spans.insert(axial, (0, hu.shape[axial]))
    corner = np.eye(4)
    corner[:3, 3] = [start for start, _ in spans]
    return tuple(slice(*span) for span in spans), corner


def scaled(stored: NDArray[Any], affine: NDArray[Any], slope: float, intercept: float) -> nib.Nifti1Image:
    """A uint8 image whose values are ``stored * slope + intercept``."""
    image = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, intercept)
    return image


def unpack(packed: Path, folder: Path) -> Path:
    """Unpack what ``pack`` made to ``folder``, and return its datalist; nothing to do where that is there.

    What an interrupted run unpacked is not unpacked again.

    Raises:
        BrokenPair: a file that is damaged or not a packed set, or another one was unpacked there.
    """
    datalist, note = folder / "datalist.json", folder / "packed.json"
    members, own = packed_members(packed), {"sha256": sha256(packed)}
    if not note.is_file():  # what lies there, if anything, is of no known set
        for name in members:
            (folder / name).unlink(missing_ok=True)
        write_json(note, own)
    elif read_object(note) != own:
        raise BrokenPair(f"{packed}: another set was unpacked to {folder}. Choose another output.")
    elif datalist.is_file():
        return datalist
    try:
        with zipfile.ZipFile(packed) as archive:
            for name, size in members.items():
                target = folder / name
                if name != datalist.name and not (target.is_file() and target.stat().st_size == size):
                    with written_whole(target) as part:
                        part.write_bytes(archive.read(name))
            content = json.loads(archive.read(datalist.name))
    except (*READ_ERRORS, KeyError) as error:
        raise BrokenPair(f"{packed}: is not a packed set ({brief(error)}). Make it again with `lits pack`.") from None
    write_json(datalist, content)  # last, so that it says that all is there
    return datalist


def packed_members(packed: Path) -> dict[str, int]:
    """Name and size of every file in a packed set.

    Raises:
        BrokenPair: no packed set, names with a folder in them, or slices named by the numbers of another CT.
    """
    try:
        with zipfile.ZipFile(packed) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
            old = archive.comment != MARK and "datalist.json" in members
            text = archive.read("datalist.json").decode() if old else ""
    except READ_ERRORS as error:
        raise BrokenPair(f"{packed}: is not a packed set ({brief(error)}). Make it again with `lits pack`.") from None
    for name in members:
        if re.split(r"[/\\]", name) != [name] or not name.endswith((".nii", ".json")):
            raise BrokenPair(f"{packed}: holds {name!r}. Give a file that `lits pack` made.")
    if any(f'"{key}"' in text for key in TOLD):
        cause = "packed by version 0.9.3 or before, which named the wrong slices in tumour_in and tumour_free"
        raise BrokenPair(f"{packed}: {cause}. Make it again with `lits pack`.")
    return members
