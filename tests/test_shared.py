"""What both bundles need is written once, in bundles/shared, and the copies in the bundles are what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PREFIXES = {"liver_seg": "seg", "liver_cls": "cls"}
HEADER = re.compile(r"# A copy of (\w+\.py) in bundles/shared, ")


def copy_program(bundles: Path, *options: str) -> subprocess.CompletedProcess:
    """The program as a developer runs it, in any folder."""
    command = [sys.executable, str(bundles / "shared" / "copy_into_bundles.py"), *options]
    return subprocess.run(command, cwd="/", capture_output=True, text=True)


def content(bundles: Path) -> dict[Path, bytes]:
    """Every file under a folder."""
    return {path.relative_to(bundles): path.read_bytes() for path in bundles.rglob("*") if path.is_file()}


@pytest.fixture
def bundles(tmp_path) -> Path:
    """The bundles' code alone, to change."""
    for name in ("shared", *(f"{bundle}/scripts" for bundle in PREFIXES)):
        shutil.copytree(
            ROOT / "bundles" / name, tmp_path / "bundles" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path / "bundles"


def test_the_copies_are_what_the_program_would_write():
    done = copy_program(ROOT / "bundles", "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_both_bundles_hold_the_same_shared_code():
    """Without the program: every source is in both, alike but for the names of modules."""
    sources = {path.name for path in (ROOT / "bundles" / "shared").glob("*.py")} - {"copy_into_bundles.py"}
    assert {"reading.py", "errors.py"} <= sources
    for source in sources:
        copies = [ROOT / f"bundles/{bundle}/scripts/{prefix}_{source}" for bundle, prefix in PREFIXES.items()]
        seg, cls = (path.read_text() for path in copies)
        assert HEADER.match(seg)[1] == source
        assert seg.replace("scripts.seg_", "scripts.cls_") == cls
        assert not re.search(r"\bshared\.\w+ import|scripts\.cls_", seg)


def edited(bundles: Path) -> Path:
    path = bundles / "liver_cls" / "scripts" / "cls_errors.py"
    path.write_text(path.read_text().replace("one line", "two lines"))
    return path


def missing(bundles: Path) -> Path:
    path = bundles / "liver_seg" / "scripts" / "seg_reading.py"
    path.unlink()
    return path


def stray(bundles: Path) -> Path:
    scripts = bundles / "liver_seg" / "scripts"
    header = (scripts / "seg_errors.py").read_text().splitlines()[0]
    path = scripts / "seg_old_errors.py"
    path.write_text(header.replace("errors.py", "old_errors.py", 1) + '\n"""Was shared once."""\n')
    return path


@pytest.mark.parametrize("fault", [edited, missing, stray])
def test_a_copy_that_is_not_its_source_is_named_and_put_right(bundles, fault):
    before = content(bundles)
    path = fault(bundles)
    broken = content(bundles)
    done = copy_program(bundles, "--check")
    assert done.returncode == 1 and content(bundles) == broken
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ERROR {path}: ") and line.endswith(".") and "copy_into_bundles.py" in line
    assert copy_program(bundles).returncode == 0
    assert content(bundles) == before


def test_a_changed_source_changes_both_copies(bundles):
    source = bundles / "shared" / "boxes.py"
    source.write_text(source.read_text() + "\n\nTRIED = True\n")
    assert len(copy_program(bundles, "--check").stderr.splitlines()) == 2
    assert copy_program(bundles).returncode == 0
    for bundle, prefix in PREFIXES.items():
        assert "TRIED = True" in (bundles / bundle / "scripts" / f"{prefix}_boxes.py").read_text()


def test_all_modules_of_both_bundles_load_in_one_process_and_keep_errors_of_their_own(tmp_path):
    names = sorted(f"scripts.{path.stem}" for bundle in PREFIXES for path in (ROOT / "bundles" / bundle).glob("*/*.py"))
    assert len(names) == len(set(names))
    lines = ["import importlib, sys"]
    lines += [f"sys.path.append({str(ROOT / 'bundles' / bundle)!r})" for bundle in PREFIXES]
    lines += [f"modules = [importlib.import_module(name) for name in {names}]"]
    lines += ["errors = [m.StudyError for m in modules if m.__name__.endswith('_errors')]"]
    lines += ["assert len(set(errors)) == 2 and {e.__name__ for e in errors} == {'StudyError'}"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
