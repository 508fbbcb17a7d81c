"""Prepare LiTS or MSD Task03_Liver for training: check each CT and its segmentation, split by patient, list them.

python scripts/lits.py prepare --source DOWNLOADS --output data/lits
python scripts/lits.py slices --npz slices.npz --datalist data/lits/datalist.json --output data/lits/slices
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Iterator, NamedTuple

import fire
import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from tqdm import tqdm

REFERENCE_TEST = range(28, 48)  # LiTS volumes 28 to 47 are 3D-IRCADb, the customary hold-out
KNOWN_PEOPLE = {"person-0": [0, 1], "person-6": [6, 7, 8, 9, 10]}  # volumes that look like one patient; others unknown
LITS_NAME = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?")
MSD_NAME = re.compile(r"liver_(\d+)\.nii(\.gz)?")
MSD_ROLES = {"imagesTr": "volume", "labelsTr": "segmentation"}
CHECK_VERSION = 1  # raise it when the checks change, so that earlier results are not trusted
SPLITS = ("training", "validation", "test")
SLICE_SPLITS = ("training_slices", "validation_slices")
READ_ERRORS = (OSError, ValueError, EOFError, zlib.error, ImageFileError, HeaderDataError, zipfile.BadZipFile)


class BrokenPair(ValueError):
    """A case that cannot be used; the message reads `<file>: <cause>. <mend>`."""


# ---------------------------------------------------------------------------------------------- finding the files


@dataclass(frozen=True)
class Member:
    """One NIfTI file of a case, on disk (`inner` is empty) or inside the archive `path` under the name `inner`."""

    role: str  # "volume" or "segmentation"
    number: int
    path: Path
    inner: str
    signature: tuple[int, int]  # size and modification time on disk, size and checksum (or time) in an archive

    @property
    def label(self) -> str:
        """The file as messages name it."""
        return f"{self.path}!{self.inner}" if self.inner else str(self.path)

    @property
    def target(self) -> str:
        """File name in LiTS style; never taken from the archive's own paths."""
        return f"{self.role}-{self.number}.nii" + (".gz" if (self.inner or self.path.name).endswith(".gz") else "")


def identify(name: str) -> tuple[str, int] | None:
    """Role and case number from a path in LiTS or MSD Task03 layout, or None for any other file."""
    path = PurePosixPath(name)
    if match := LITS_NAME.fullmatch(path.name):
        return match[1], int(match[2])
    match, role = MSD_NAME.fullmatch(path.name), MSD_ROLES.get(path.parent.name)
    return (role, int(match[1])) if match and role else None


def is_unsafe(name: str) -> bool:
    """Whether an archive member's name points outside the folder it would be unpacked to."""
    return name.startswith(("/", "\\")) or ":" in name or ".." in re.split(r"[/\\]", name)


def archive_names(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name and signature of every plain file in a .zip or .tar."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            yield from ((info.filename, (info.file_size, info.CRC)) for info in archive.infolist())
    else:
        with tarfile.open(path) as archive:
            yield from ((info.name, (info.size, int(info.mtime))) for info in archive if info.isfile())


def archive_members(path: Path, problems: list[str]) -> list[Member]:
    """The LiTS or MSD files of one archive; an unreadable archive or an unsafe name goes to `problems`."""
    members = []
    try:
        for name, signature in archive_names(path):
            if (known := identify(name)) and is_unsafe(name):
                problems.append(f"{path}: member {name!r} points outside the archive. Refused; get a clean archive.")
            elif known:
                members.append(Member(*known, path, name, signature))
    except (*READ_ERRORS, tarfile.TarError) as error:
        problems.append(f"{path}: not a readable archive ({brief(error)}). Download it again.")
    return members


def walk(source: Path, skip: Path) -> Iterator[Path]:
    """Every file below `source` in a stable order, leaving out the folder `skip`."""
    for folder, names, files in os.walk(source, followlinks=True):
        names[:] = sorted(name for name in names if Path(folder, name).resolve() != skip)
        yield from (Path(folder, name) for name in sorted(files))


def find_cases(source: Path, skip: Path, problems: list[str]) -> dict[int, dict[str, Member]]:
    """Map case number -> role -> file. Files on disk win over archive members, so an unpacked archive is not read."""
    loose, packed = [], []
    for path in walk(source, skip):
        if path.suffix.lower() in (".zip", ".tar"):
            packed += archive_members(path, problems)
        elif known := identify(path.as_posix()):
            stat = path.stat()
            loose.append(Member(*known, path.absolute(), "", (stat.st_size, stat.st_mtime_ns)))
    cases: dict[int, dict[str, Member]] = {}
    for member in loose + packed:
        cases.setdefault(member.number, {}).setdefault(member.role, member)
    return dict(sorted(cases.items()))


# ---------------------------------------------------------------------------------------------- putting files in place


def replace_with(target: Path, write: Any) -> Path:
    """Call `write(temporary path)`, then rename to `target`: a killed run never leaves half a file under the name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".part-{target.name}")  # keeps the ending, which nibabel goes by
    try:
        write(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def stream(source: BinaryIO, target: Path) -> None:
    """Copy an open file to `target` in blocks."""
    with open(target, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 22)


def unpack(member: Member, target: Path) -> Path:
    """Stream one archive member to `target`."""
    if member.path.suffix.lower() == ".zip":
        with zipfile.ZipFile(member.path) as archive, archive.open(member.inner) as source:
            return replace_with(target, lambda path: stream(source, path))
    with tarfile.open(member.path) as archive:
        source = archive.extractfile(member.inner)
        return replace_with(target, lambda path: stream(source, path))


def place(member: Member, folder: Path, mode: str) -> Path:
    """Path the datalist will hold: the file where it is, or a link, copy or unpacked member in `folder`."""
    target = folder / member.target
    if member.inner:
        return unpack(member, target)
    if mode == "copy":
        return replace_with(target, lambda path: shutil.copyfile(member.path, path))
    if mode == "link":
        return replace_with(target, lambda path: path.symlink_to(member.path.resolve()))
    return member.path


# ---------------------------------------------------------------------------------------------- checking a pair


class Scan(NamedTuple):
    """A NIfTI image with its stored voxels and the line that turns them into values."""

    image: nib.Nifti1Image
    raw: np.ndarray  # [X, Y, Z] as stored
    slope: float
    intercept: float

    def limits(self) -> tuple[float, float]:
        """Smallest and largest value."""
        ends = self.slope * float(self.raw.min()) + self.intercept, self.slope * float(self.raw.max()) + self.intercept
        return min(ends), max(ends)


def brief(error: Exception) -> str:
    """First line of an error, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(".")


def read(path: Path) -> Scan:
    """Read a 3D NIfTI with finite voxels and a usable affine; raises BrokenPair."""
    try:
        image = nib.load(path)
        proxy = image.dataobj
        raw, slope, intercept = np.asanyarray(proxy.get_unscaled()), float(proxy.slope), float(proxy.inter)
    except (*READ_ERRORS, AttributeError) as error:
        raise BrokenPair(f"{path}: cannot be read as NIfTI ({brief(error)}). Download or unpack it again.") from None
    if raw.ndim != 3 or 0 in raw.shape:
        raise BrokenPair(f"{path}: shape {raw.shape} is not one 3D volume. Give one volume per file.")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise BrokenPair(f"{path}: the affine is not finite or is singular. Mend the header (nibabel, ITK-SNAP).")
    if not np.isfinite([slope, intercept]).all() or (raw.dtype.kind == "f" and not np.isfinite(raw).all()):
        raise BrokenPair(f"{path}: holds NaN or infinite voxels. Convert it again from the source.")
    return Scan(image, raw, slope, intercept)


def check_ct(path: Path, scan: Scan) -> None:
    """Raise BrokenPair unless the voxels can be HU. CT clipped to soft tissue (say -40 to 160) passes, MR does not."""
    low, high = scan.limits()
    dark = np.mean(scan.raw[::2, ::2] * np.float32(scan.slope) + np.float32(scan.intercept) < -30)  # air, lung, fat
    if dark < 0.01 or high < 40 or low < -10000 or high > 40000:
        raise BrokenPair(f"{path}: values from {low:g} to {high:g} are not the HU of a CT. Give the CT in HU.")


def check_labels(path: Path, scan: Scan) -> None:
    """Raise BrokenPair unless every voxel is 0, 1 or 2 and some are liver or tumour."""
    low, high = scan.limits()
    values = scan.raw if (scan.slope, scan.intercept) == (1, 0) else scan.raw * scan.slope + scan.intercept
    if low < 0 or high > 2 or (values.dtype.kind == "f" and not (values == np.rint(values)).all()):
        raise BrokenPair(
            f"{path}: labels from {low:g} to {high:g} where 0 background, 1 liver, 2 tumour are allowed. Map them so."
        )
    if high == 0:
        raise BrokenPair(f"{path}: no voxel is labelled as liver. Get the segmentation again.")


def on_grid(ct: Scan, seg: Scan, path: Path) -> nib.Nifti1Image | None:
    """None when both lie on one grid, otherwise the segmentation put onto the CT's grid; raises BrokenPair.

    Some LiTS segmentations carry another header than their CT. If turning the axes as both headers say makes the grids
    agree, the header is right and the array is turned. If not, but array shape and voxel size are the CT's, the
    segmentation was drawn on this CT and only its header is wrong: it gets the CT's.
    """
    if ct.raw.shape == seg.raw.shape and np.allclose(ct.image.affine, seg.image.affine, rtol=0, atol=1e-3):
        return None
    turned = seg.image.as_reoriented(ornt_transform(io_orientation(seg.image.affine), io_orientation(ct.image.affine)))
    if turned.shape == ct.raw.shape and np.allclose(turned.affine, ct.image.affine, rtol=0, atol=1e-2):
        return nib.Nifti1Image(np.asanyarray(turned.dataobj).astype(np.uint8), ct.image.affine)
    sizes = [nib.affines.voxel_sizes(scan.image.affine) for scan in (ct, seg)]
    if ct.raw.shape != seg.raw.shape or not np.allclose(*sizes, rtol=0.01):
        raise BrokenPair(
            f"{path}: grid {seg.raw.shape} of {np.round(sizes[1], 3)} mm differs from its CT's {ct.raw.shape} "
            f"of {np.round(sizes[0], 3)} mm. Get the pair again."
        )
    values = np.rint(seg.raw * seg.slope + seg.intercept).astype(np.uint8)
    return nib.Nifti1Image(values, ct.image.affine)


def check_overlay(path: Path, ct: Scan, labels: np.ndarray) -> None:
    """Raise BrokenPair unless nearly all labelled voxels have a liver's HU; a flipped segmentation mostly has not.

    In LiTS the share is at least 0.99; a noisy scan of a fatty liver stays above 0.9.
    """
    inside = ct.raw[labels > 0] * np.float32(ct.slope) + np.float32(ct.intercept)
    share = np.mean((inside > -40) & (inside < 250))
    if share < 0.8:
        raise BrokenPair(
            f"{path}: only {share:.0%} of it lies on tissue of -40 to 250 HU. Check its orientation and its CT."
        )


def check_pair(image: Path, label: Path, mended: Path) -> Path:
    """Check a CT and its segmentation; return the segmentation to use, `mended` if its header had to be put right."""
    ct, seg = read(image), read(label)
    check_ct(image, ct)
    check_labels(label, seg)
    moved = on_grid(ct, seg, label)
    check_overlay(label, ct, seg.raw if moved is None else np.asanyarray(moved.dataobj))
    if moved is None:
        return label
    return replace_with(mended, lambda path: nib.save(moved, path))


# ---------------------------------------------------------------------------------------------- people and splits


def read_json(path: Path) -> Any:
    """Read JSON; raises BrokenPair naming the file."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise BrokenPair(f"{path}: cannot be read as JSON ({brief(error)}). Check path and syntax.") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step."""
    replace_with(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


def case_number(case: Any, path: Any = "case") -> int:
    """7 from 7, "7", "volume-7", "liver_7" or "volume-7.nii.gz"; raises BrokenPair."""
    if match := re.fullmatch(r"(?:(?:volume|segmentation)-|liver_)?(\d+)(?:\.nii(?:\.gz)?)?", str(case).strip()):
        return int(match[1])
    raise BrokenPair(f"{path}: {case!r} names no case. Write it as volume-7 or 7.")


def read_people(path: Path | None) -> dict[int, str]:
    """Case number -> person, from a JSON object {case: person} or a CSV of case,person; by default the known ones."""
    if path is None:
        return {number: person for person, numbers in KNOWN_PEOPLE.items() for number in numbers}
    if str(path).lower().endswith(".json"):
        rows = list(read_json(path).items())
    else:
        try:
            with open(path, newline="") as file:
                rows = [(row + [""])[:2] for row in csv.reader(file) if row]
        except OSError as error:
            raise BrokenPair(f"{path}: cannot be read ({brief(error)}). Check the path.") from None
        rows = rows[1:] if rows and not re.search(r"\d", rows[0][0]) else rows  # a heading has no case number
    return {case_number(case, path): str(person).strip() for case, person in rows}


def person_of(number: int, people: dict[int, str]) -> str:
    """Group name of a case; a case that nobody grouped is a person of its own."""
    return people.get(number) or f"volume-{number}"


def read_split(path: Path | None) -> dict[str, set[int]]:
    """Case numbers asked for per split: from a JSON {"test": [...], "validation": [...]}, else the reference test."""
    if path is None:
        return {"test": set(REFERENCE_TEST)}
    wanted = {key: {case_number(case, path) for case in cases} for key, cases in read_json(path).items()}
    if unknown := set(wanted) - set(SPLITS):
        raise BrokenPair(f"{path}: unknown split {sorted(unknown)}. Use training, validation and test.")
    return wanted


def choose(groups: set[str], fraction: float, seed: int) -> set[str]:
    """Draw `fraction` of the groups, at least one while two or more are there, the same ones for the same seed."""
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    count = round(fraction * len(order))
    return set(order[: max(count, 1) if fraction > 0 and len(order) > 1 else 0])


def assign(numbers: list[int], people: dict[int, str], wanted: dict[str, set[int]], fraction: float, seed: int) -> dict:
    """Map case number -> "training", "validation", "test" or None (left out), keeping each person on one side.

    A person who has a test case gives nothing to training or validation. Cases that a split file does not name are
    divided by `fraction` unless the file lists validation or training itself; with a training list they stay out.
    """
    tested = {person_of(number, people) for number in wanted.get("test", ())}
    split = {number: "test" for number in numbers if number in wanted.get("test", ())}
    rest = [number for number in numbers if number not in split and person_of(number, people) not in tested]
    if "training" in wanted:
        rest = [number for number in rest if number in wanted["training"] | wanted.get("validation", set())]
    if "validation" in wanted:
        held = {person_of(number, people) for number in wanted["validation"]}
        if both := {person_of(number, people) for number in wanted.get("training", ())} & held:
            raise BrokenPair(f"split: {sorted(both)} are asked for in training and validation. Keep a person together.")
    else:
        held = choose({person_of(number, people) for number in rest}, fraction, seed)
    split |= {number: "validation" if person_of(number, people) in held else "training" for number in rest}
    return {number: split.get(number) for number in numbers}


def slice_lists(entries: list[dict], people: dict[int, str], held: set[str], tested: set[str]) -> dict[str, list[dict]]:
    """Divide isolated slices by person: those of `held` (validation) apart, those of `tested` left out."""
    lists: dict[str, list[dict]] = {key: [] for key in SLICE_SPLITS}
    for entry in entries:
        group = person_of(int(entry["case_id"].split("-")[1]), people)
        if group not in tested:
            lists[SLICE_SPLITS[group in held]].append({**entry, "group": group})
    return lists


def portable(path: Path, folder: Path) -> str:
    """Path relative to `folder` if it lies below, so that the prepared folder can be moved; absolute otherwise."""
    path, folder = Path(path).absolute(), folder.absolute()
    return path.relative_to(folder).as_posix() if folder in path.parents else str(path)


# ---------------------------------------------------------------------------------------------- commands


class State:
    """What earlier runs already prepared: case id -> signatures of its sources and the paths they ended at."""

    def __init__(self, path: Path):
        self.path = path
        try:
            stored = json.loads(path.read_text())
            self.cases = stored["cases"] if stored.get("version") == CHECK_VERSION else {}
        except (OSError, ValueError, KeyError, AttributeError):
            self.cases = {}  # no state or a damaged one: check again

    def find(self, case_id: str, key: list) -> tuple[Path, Path] | None:
        """Paths of a case prepared from exactly these sources, or None."""
        done = self.cases.get(case_id)
        if not done or done["key"] != key:
            return None
        paths = Path(done["image"]), Path(done["label"])
        sizes = [path.stat().st_size if path.is_file() else -1 for path in paths]
        return paths if sizes == done["sizes"] else None

    def add(self, case_id: str, key: list, image: Path, label: Path) -> None:
        """Remember a case and save at once, so that a killed run goes on from here."""
        sizes = [image.stat().st_size, label.stat().st_size]
        self.cases[case_id] = {"key": key, "image": str(image), "label": str(label), "sizes": sizes}
        write_json(self.path, {"version": CHECK_VERSION, "cases": self.cases})


def prepare_case(members: dict[str, Member], folder: Path, mode: str, state: State) -> tuple[Path, Path]:
    """Bring one pair into place and check it, unless an earlier run did; raises BrokenPair."""
    number = next(iter(members.values())).number
    for role in ("volume", "segmentation"):
        if role not in members:
            other = next(iter(members.values())).label
            raise BrokenPair(f"{other}: its {role}-{number} is missing. Put both files below the source folder.")
    pair = members["volume"], members["segmentation"]
    key = [mode, *([member.label, *member.signature] for member in pair)]
    case_id = f"volume-{number}"
    if done := state.find(case_id, key):
        return done
    try:
        image, label = (place(member, folder, mode) for member in pair)
    except (*READ_ERRORS, tarfile.TarError) as error:
        raise BrokenPair(f"{pair[0].label}: cannot be unpacked ({brief(error)}). Download it again.") from None
    label = check_pair(image, label, folder / "mended" / f"segmentation-{number}.nii.gz")
    state.add(case_id, key, image, label)
    return image, label


def write_datalist(output: Path, ready: dict[int, tuple[Path, Path]], split: dict, people: dict[int, str]) -> dict:
    """Write `<output>/datalist.json`, keeping isolated slices that are already in it; returns the datalist."""
    datalist: dict[str, list[dict]] = {key: [] for key in SPLITS}
    for number, (image, label) in ready.items():
        if split[number]:
            paths = {"image": portable(image, output), "label": portable(label, output)}
            entry = {**paths, "case_id": f"volume-{number}", "group": person_of(number, people)}
            datalist[split[number]].append(entry)
    path = output / "datalist.json"
    if path.is_file():
        old = read_json(path)
        slices = [entry for key in SLICE_SPLITS for entry in old.get(key, [])]
        held, tested = ({entry["group"] for entry in datalist[key]} for key in ("validation", "test"))
        datalist |= {key: rows for key, rows in slice_lists(slices, people, held, tested).items() if rows}
    write_json(path, datalist)
    return datalist


def stop(problems: list[str]) -> None:
    """End with exit code 1 if anything went wrong."""
    if problems:
        print(f"{len(problems)} problem(s), see above.", file=sys.stderr)
        raise SystemExit(1)


def prepare(
    source: str,
    output: str,
    groups: str | None = None,
    split: str | None = None,
    val_fraction: float = 0.15,
    seed: int = 0,
    link: bool = False,
    copy: bool = False,
) -> None:
    """Check every CT with its segmentation below SOURCE and write OUTPUT/datalist.json.

    Run it again after a break or a new download: pairs that were checked and have not changed are not read again.

    Args:
        source: folder with LiTS (volume-N.nii[.gz] and segmentation-N.nii[.gz], or its .zip archives) or MSD
            Task03_Liver (imagesTr, labelsTr, or its .tar), at any depth.
        output: folder for the datalist and for what has to be unpacked or mended (OUTPUT/cases).
        groups: JSON {case: person} or CSV of case,person; by default the LiTS volumes known to be one person.
        split: JSON {"test": [cases], "validation": [cases]}; by default LiTS volumes 28 to 47 are the test.
        val_fraction: part of the people drawn for validation if the split file names none.
        seed: of that draw.
        link: put symbolic links to loose files into OUTPUT/cases instead of naming them where they are.
        copy: copy them there.
    """
    try:
        out, folder = Path(output).absolute(), Path(output).resolve() / "cases"
        if not Path(source).is_dir():
            raise BrokenPair(f"{source}: is not a folder. Give the folder that LiTS was downloaded to.")
        people, wanted = read_people(groups), read_split(split)
        problems: list[str] = []
        cases = find_cases(Path(source), folder, problems)
        if not cases:
            problems.append(f"{source}: no LiTS or MSD Task03 files below it. Give the folder with the archives.")
        for problem in problems:
            print(f"ERROR {problem}", file=sys.stderr)
        mode = "copy" if copy else "link" if link else "reference"
        ready = prepare_all(cases, folder, mode, State(out / "prepared.json"), problems)
        sides = assign(list(ready), people, wanted, val_fraction, seed)
        datalist = write_datalist(out, ready, sides, people)
    except BrokenPair as error:
        raise SystemExit(f"ERROR {error}") from None
    counts = ", ".join(f"{key} {len(rows)}" for key, rows in datalist.items())
    left = sum(side is None for side in sides.values())
    print(f"{out / 'datalist.json'}: {counts}; left out by the split {left}; not usable {len(cases) - len(ready)}.")
    stop(problems)


def prepare_all(cases: dict, folder: Path, mode: str, state: State, problems: list[str]) -> dict[int, tuple]:
    """Prepare every case under a progress bar; a broken one is reported in one line and left out."""
    ready = {}
    for number, members in tqdm(cases.items(), desc="LiTS", unit="case"):
        try:
            ready[number] = prepare_case(members, folder, mode, state)
        except BrokenPair as error:
            problems.append(str(error))
            tqdm.write(f"ERROR {error}", file=sys.stderr)
    return ready


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
        replace_with(path, lambda temporary: nib.save(image, temporary))


def write_slices(data: dict[str, np.ndarray], output: Path, tested: set[int], thickness: float) -> list[dict]:
    """Write every slice outside the test volumes as an image and label file; returns entries with absolute paths."""
    entries = []
    for index, (volume, number) in enumerate(zip(tqdm(data["lits_volume"], "slices"), data["slice"])):
        if int(volume) in tested:
            continue
        name, spacing = f"slice-{volume}-{number}", float(data["spacing_mm"][index])
        paths = {key: output / f"{name}_{key}.nii.gz" for key in ("image", "label")}
        save_slice(paths["image"], data["image"][index], spacing, thickness)
        save_slice(paths["label"], data["liver"][index].astype(np.uint8), spacing, thickness)
        entries.append({**{key: str(path) for key, path in paths.items()}, "case_id": name})
    return entries


def slices(
    npz: str, datalist: str, output: str, groups: str | None = None, split: str | None = None, thickness: float = 5.0
) -> None:
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
        thickness: voxel depth to write, in mm; an isolated slice has no neighbour to take it from.
    """
    try:
        path, out = Path(datalist).absolute(), Path(output).absolute()
        content, data = read_json(path), read_slices(npz)
        people = read_people(groups)
        for entry in [entry for key in SPLITS for entry in content.get(key, [])]:
            people[case_number(entry["case_id"])] = entry["group"]
        numbers = read_split(split).get("test", set()) | {case_number(e["case_id"]) for e in content.get("test", [])}
        tested = {person_of(number, people) for number in numbers}
        held = {entry["group"] for entry in content.get("validation", [])}
        entries = write_slices(data, out, numbers, thickness)
        known = {entry["case_id"] for entry in entries}
        earlier = [e for key in SLICE_SPLITS for e in content.get(key, []) if e["case_id"] not in known]
        entries = [{**e, **{key: portable(e[key], path.parent) for key in ("image", "label")}} for e in entries]
        content |= slice_lists(earlier + entries, people, held, tested)
        write_json(path, content)
    except BrokenPair as error:
        raise SystemExit(f"ERROR {error}") from None
    print(f"{path}: " + ", ".join(f"{key} {len(content[key])}" for key in SLICE_SPLITS) + ".")


if __name__ == "__main__":
    fire.Fire({"prepare": prepare, "slices": slices})
