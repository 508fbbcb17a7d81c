"""The CTs and segmentations below a folder, loose or in archives, in LiTS or MSD Task03 layout; and unpacking them."""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from liver_ct.files import walk, written_whole
from liver_ct.lits.cases import CASE, READ_ERRORS, BrokenPair, brief, natural_order, plain_name

LITS_NAME = re.compile(rf"(volume|segmentation)-({CASE})\.nii(\.gz)?")
MSD_NAME = re.compile(r"liver_(\d+)\.nii(\.gz)?")
MSD_ROLES = {"imagesTr": "volume", "labelsTr": "segmentation"}


@dataclass(frozen=True)
class Member:
    """One NIfTI file of a case, on disk (`inner` is empty) or inside the archive `path` under the name `inner`."""

    role: str  # "volume" or "segmentation"
    case: str  # such as "7" or "b05"
    path: Path
    inner: str
    signature: tuple[int, int]  # size and modification time on disk, size and checksum (or time) in an archive

    @property
    def label(self) -> str:
        """The file as messages name it."""
        return f"{self.path}!{self.inner}" if self.inner else str(self.path)

    @property
    def source(self) -> str:
        """The data set it belongs to: the folder that it, or its archive, lies in (Task03_Liver, not its imagesTr)."""
        folder = self.path.absolute().parent
        return (folder.parent if folder.name in MSD_ROLES else folder).name

    @property
    def target(self) -> str:
        """File name in LiTS style; never taken from the archive's own paths."""
        return f"{self.role}-{self.case}.nii" + (".gz" if (self.inner or self.path.name).endswith(".gz") else "")


def identify(name: str) -> tuple[str, str] | None:
    """Role and case name from a path in LiTS or MSD Task03 layout, or None for any other file."""
    path = PurePosixPath(name)
    if match := LITS_NAME.fullmatch(path.name):
        return match[1], plain_name(match[2])
    match, role = MSD_NAME.fullmatch(path.name), MSD_ROLES.get(path.parent.name)
    return (role, plain_name(match[1])) if match and role else None


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


def files_below(source: Path, skip: Path, problems: list[str]) -> Iterator[Path]:
    """Every file below `source` in a stable order, leaving out the folder `skip`; what cannot be read is a problem."""

    def refused(error: OSError) -> None:
        problems.append(f"{error.filename}: the folder cannot be read ({error.strerror}). Check its permissions.")

    for folder, names, files in walk(source, refused):
        names[:] = [name for name in names if Path(folder, name).resolve() != skip]
        yield from (folder / name for name in files)


def find_cases(source: Path, skip: Path, problems: list[str], notes: list[str]) -> dict[str, dict[str, Member]]:
    """Map case name -> role -> file. Files on disk win over archive members, so an unpacked archive is not read; that
    another file than a copy is left out, since there is one of its name, is noted."""
    loose, packed = [], []
    for path in files_below(source, skip, problems):
        if path.suffix.lower() in (".zip", ".tar"):
            packed += archive_members(path, problems)
        elif known := identify(path.as_posix()):
            try:
                stat = path.stat()
            except OSError as error:  # such as a link that leads nowhere
                problems.append(f"{path}: cannot be read ({error.strerror}). Download it again.")
                continue
            loose.append(Member(*known, path.absolute(), "", (stat.st_size, stat.st_mtime_ns)))
    cases: dict[str, dict[str, Member]] = {}
    twice = []
    for member in loose + packed:
        first = cases.setdefault(member.case, {}).setdefault(member.role, member)
        if first.signature != member.signature and bool(first.inner) == bool(member.inner):
            twice.append((member, first))
    if twice:
        (member, first), others = twice[0], f" and {len(twice) - 1} other files" if twice[1:] else ""
        cause = f"{member.role}-{member.case} is {first.label} already"
        fix = "If these are other people, give them names of their own, such as volume-b1."
        notes.append(f"{member.label}{others}: left out, as {cause}. {fix}")
    return {case: cases[case] for case in sorted(cases, key=natural_order)}


def stream(source: IO[bytes], target: Path) -> None:
    """Copy an open file to `target` in blocks."""
    with written_whole(target) as part, part.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 22)


def unpack(member: Member, target: Path) -> Path:
    """Stream one archive member to `target`."""
    if member.path.suffix.lower() == ".zip":
        with zipfile.ZipFile(member.path) as archive, archive.open(member.inner) as source:
            stream(source, target)
        return target
    with tarfile.open(member.path) as tar:
        inner = tar.extractfile(member.inner)
        if inner is None:  # a folder or a device of that name; archive_names saw a file
            raise BrokenPair(f"{member.label}: is no plain file. Download the archive again.")
        with inner:
            stream(inner, target)
    return target


def place(member: Member, folder: Path, mode: str) -> Path:
    """Path the datalist will hold: the file where it is, or a link, copy or unpacked member in `folder`."""
    target = folder / member.target
    if member.inner:
        return unpack(member, target)
    if mode == "copy":
        with written_whole(target) as part:
            shutil.copyfile(member.path, part)
        return target
    if mode == "link":
        with written_whole(target) as part:
            part.symlink_to(member.path.resolve())
        return target
    return member.path
