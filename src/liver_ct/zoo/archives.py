"""The Model Zoo's archives of both bundles, if they pass what the zoo's CI checks."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from liver_ct.errors import StudyError
from liver_ct.files import read_json, write_json, write_text, written_whole
from liver_ct.zoo.bundle import METADATA, bundle_files
from liver_ct.zoo.checks import check_bundle
from liver_ct.zoo.hub import in_the_way, write_hub_folder
from liver_ct.zoo.style import missing_tools

ZOO_NAMES = {"liver_seg": "liver_ct_segmentation", "liver_cls": "liver_tumor_ct_classification"}
MODEL_INFO, SHA256SUMS = "model_info.json", "SHA256SUMS"


class Refused(StudyError):  # noqa: N818 (the door says it)
    """Bundles that are not packaged: ``problems``, a line ``<file>: <cause>. <fix>`` each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def package(output: Path, bundles: Path, source: str = "", hub: Path | None = None) -> list[str]:
    """Check both bundles as the Model Zoo's CI does and write an archive of each; nothing if one of them fails.

    OUTPUT gets <zoo name>_v<version>.zip, the same bytes wherever and whenever it is made, SHA256SUMS, and
    model_info.json in the zoo's form. The bundles are left as they are.

    Args:
        output: folder for the archives.
        bundles: folder that holds liver_seg and liver_cls.
        source: URL of the folder where the archives will lie, for model_info.json.
        hub: folder that also gets one for each bundle, as a model hub takes it; None leaves that out.

    Returns:
        A line for each archive: its path, size and checksum; and for each folder for the hub.

    Raises:
        Refused: a bundle fails a check, or packages that the checks need are missing.
        StudyError: the output cannot be written.
    """
    if missing := missing_tools():
        raise Refused([f"{', '.join(missing)}: not installed. pip install 'liver-ct[zoo]'"])
    archives: dict[str, bytes] = {}
    problems, copies = [], []
    with tempfile.TemporaryDirectory() as work:
        for folder, name in ZOO_NAMES.items():
            copy = copy_bundle(bundles / folder, Path(work, "models", name))
            copies.append(copy)
            found = check_bundle(copy)
            problems += [f"{bundles / folder}/{problem}" for problem in found]
            if not found:
                archives[f"{name}_v{read_json(copy / METADATA)['version']}"] = archive(copy)
            problems += in_the_way(copy, hub) if hub else []
        problems += republished(output / MODEL_INFO, archives)
        if problems:
            raise Refused(problems)
        try:
            written = publish(output, archives, source)
            return written + ([write_hub_folder(copy, hub) for copy in copies] if hub else [])
        except OSError as e:
            raise StudyError(f"{e.filename or output}: {e.strerror}. Choose another --output or free space.") from None


def copy_bundle(source: Path, target: Path) -> Path:
    """Copy what would be shipped of a bundle, so that no check leaves anything in the bundle itself."""
    target.mkdir(parents=True)
    for name, path in bundle_files(source).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name, follow_symlinks=False)
    return target


def archive(root: Path) -> bytes:
    """A zip of a bundle under its folder's name, of the same bytes whatever the day, umask, machine and zlib.

    Stored, not deflated: zlib's output differs between its versions, and weights hardly shrink.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, path in bundle_files(root).items():
            entry = zipfile.ZipInfo(f"{root.name}/{name}")  # of 1980-01-01
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            file.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def republished(info: Path, archives: Mapping[str, bytes]) -> list[str]:
    """A version that was packaged before with other content; the zoo takes each version once."""
    try:
        known = read_json(info) if info.is_file() else {}
        changed = [
            name for name, data in archives.items() if known.get(name, {}).get("checksum", sha1(data)) != sha1(data)
        ]
    except (ValueError, AttributeError):
        return [f"{info}: is no list of models. Remove it or choose another --output."]
    fix = "Raise the version, with a line in the changelog, or remove the entry if it was never published."
    return [f"{info}: {name} is there with other content. {fix}" for name in changed]


def publish(output: Path, archives: Mapping[str, bytes], source: str) -> list[str]:
    """Write archives, checksums and model_info.json, each through a temporary name; a line for each archive."""
    output.mkdir(parents=True, exist_ok=True)
    info, sums = output / MODEL_INFO, output / SHA256SUMS
    entries = read_json(info) if info.is_file() else {}
    lines: dict[str, str] = {}
    for line in sums.read_text().splitlines() if sums.is_file() else ():
        value, name = line.split(maxsplit=1)
        lines[name] = value
    written = []
    for name, data in archives.items():
        with written_whole(output / f"{name}.zip") as part:
            part.write_bytes(data)
        url = f"{source.rstrip('/')}/{name}.zip" if source else ""
        entries[name] = {"checksum": sha1(data), "source": url}
        lines[f"{name}.zip"] = hashlib.sha256(data).hexdigest()
        written.append(f"{output / name}.zip    {len(data) / 1e6:.1f} MB    sha256 {lines[f'{name}.zip']}")
    write_text(sums, "".join(f"{value}  {name}\n" for name, value in sorted(lines.items())))
    write_json(info, entries, indent=4)
    return written


def sha1(data: bytes) -> str:
    """The checksum of the zoo's model_info.json, which is no safeguard; SHA256SUMS is."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
