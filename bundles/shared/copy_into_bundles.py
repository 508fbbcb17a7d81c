"""Copy what both bundles need into each of them, since a Model Zoo bundle is complete in itself.

python bundles/shared/copy_into_bundles.py           writes the copies, and removes those whose source is gone
python bundles/shared/copy_into_bundles.py --check   writes nothing; a line and exit status 1 where a copy differs

Both bundles are loaded by one Python process, so that a module is called ``seg_<name>`` in one and ``cls_<name>`` in
the other. Here the modules import each other as ``from shared.<name> import ...``; the copies as
``from scripts.seg_<name>``.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

SHARED = Path(__file__).resolve().parent
PREFIXES = {"liver_seg": "seg", "liver_cls": "cls"}
COMMAND = "python bundles/shared/copy_into_bundles.py"
HEADER = "# A copy of {source} in bundles/shared, made by copy_into_bundles.py there: change that file, not this one."
A_COPY = re.compile(r"# A copy of \S+\.py in bundles/shared, ")


def wanted_copies(shared: Path) -> dict[Path, str]:
    """Path and text of every copy, both bundles' folders being beside ``shared``."""
    sources = [path for path in sorted(shared.glob("*.py")) if path.name != Path(__file__).name]
    copies = {}
    for bundle, prefix in PREFIXES.items():
        for source in sources:
            target = shared.parent / bundle / "scripts" / f"{prefix}_{source.name}"
            copies[target] = copy_text(source.read_text(encoding="utf-8"), source.name, prefix)
    return copies


def copy_text(text: str, source: str, prefix: str) -> str:
    """A module's text as a bundle holds it: with the header, and importing the bundle's own copies."""
    text = re.sub(r"^(\s*from )shared\.(\w+ import )", rf"\1scripts.{prefix}_\2", text, flags=re.MULTILINE)
    return f"{HEADER.format(source=source)}\n{text}"


def stray_copies(shared: Path, wanted: dict[Path, str]) -> list[Path]:
    """Files of the bundles that say they are copies and have no source."""
    scripts = [path for bundle in PREFIXES for path in sorted((shared.parent / bundle / "scripts").glob("*.py"))]
    return [path for path in scripts if path not in wanted and A_COPY.match(path.read_text(encoding="utf-8"))]


def check(shared: Path) -> list[str]:
    """A line for every copy that is missing, differs or has no source."""
    wanted = wanted_copies(shared)
    problems = []
    for path, text in wanted.items():
        if not path.is_file():
            problems.append(f"{path}: is missing. Run {COMMAND}.")
        elif path.read_text(encoding="utf-8") != text:
            problems.append(f"{path}: differs from its source. Change the file in bundles/shared and run {COMMAND}.")
    strays = stray_copies(shared, wanted)
    return problems + [
        f"{path}: is a copy of a file that is not there. Run {COMMAND}, which removes it." for path in strays
    ]


def write(shared: Path) -> None:
    """Write every copy through a temporary name, and remove those without a source."""
    wanted = wanted_copies(shared)
    for path in stray_copies(shared, wanted):
        path.unlink()
    for path, text in wanted.items():
        part = path.with_name(f".part-{path.name}")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which copies differ from what would be written")
    arguments = parser.parse_args()
    if not arguments.check:
        write(SHARED)
    elif problems := check(SHARED):
        raise SystemExit("\n".join(f"ERROR {problem}" for problem in problems))


if __name__ == "__main__":
    main()
