"""The package's rooms import downwards only, are light to enter, print and end nothing, and stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "liver_ct"
# Each room may import from those before it.
LOWER = ("errors", "files", "outputs", "phantom", "zoo", "chain", "lits")
ROOMS = (*LOWER, "training", "experiment", "pacs", "cli", "__main__")
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """Of ``liver_ct.chain.studies``: chain."""
    return [*module.split("."), ""][1]


def imported(file: Path) -> list[str]:
    """Modules of the package that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "liver_ct":
            found += [f"liver_ct.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return [name for name in found if name.split(".")[0] == "liver_ct"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_from_those_below_it_only(file):
    own = file.relative_to(PACKAGE).with_suffix("").parts[0]
    allowed = {*ROOMS[: ROOMS.index(own) + 1]} if own in ROOMS else set()
    if own == "__init__":  # the package's names, imported from their rooms when they are asked for
        allowed = {*ROOMS} - {"cli"}
    assert {room(name) for name in imported(file)} <= allowed | {"", "__version__"}


def test_every_room_is_known_and_says_what_it_is_for():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == set(ROOMS) - {"errors", "files", "__main__"}
    for name in folders:
        tree = ast.parse((PACKAGE / name / "__init__.py").read_text())
        assert len(ast.get_docstring(tree).splitlines()) == 1


@pytest.mark.parametrize("module", ["liver_ct", "liver_ct.chain.studies", "liver_ct.cli.cascade", "liver_ct.phantom"])
def test_entering_is_light(module):
    code = f"import sys, {module}\nsys.exit(bool({{'torch', 'monai', 'matplotlib'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", check=True)


def test_only_commands_print_or_end_the_program():
    for file in FILES:
        if file.is_relative_to(PACKAGE / "cli"):
            continue
        words = {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
        assert not words & {"print", "SystemExit", "tqdm", "exit"} - allowed_words(file), file


def allowed_words(file: Path) -> set[str]:
    """MONAI's checks and the bundles' end the program where they fail, which the zoo's and the chain catch."""
    return {"SystemExit"} if file in (PACKAGE / "zoo" / "workflows.py", PACKAGE / "chain" / "stages.py") else set()


def test_no_file_is_long():
    long = {str(file): lines for file in FILES if (lines := len(file.read_text().splitlines())) > 350}
    assert not long


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda script: script.name)
def test_a_script_works_from_outside_the_repository(script, tmp_path):
    done = subprocess.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and script.stem in done.stdout + done.stderr


def paths_in_tree(readme: str) -> list[Path]:
    """Paths in the code block under "What lies where"; an entry lies in the last one above it that is indented less."""
    block = readme.split("## What lies where")[1].split("```")[1]
    above: list[tuple[int, Path]] = [(-1, Path())]
    paths = []
    for line in filter(None, block.splitlines()):
        indent = len(line) - len(line.lstrip())
        above = [(depth, folder) for depth, folder in above if depth < indent]
        paths.append(above[-1][1] / line.split()[0])
        above.append((indent, paths[-1]))
    return paths


def test_the_readme_s_tree_is_true_and_names_every_room():
    paths = paths_in_tree((ROOT / "README.md").read_text())
    assert not [str(path) for path in paths if not (ROOT / path).exists()]
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= {path.name for path in paths if path.parent == Path("src/liver_ct")}


def test_a_wheel_carries_what_the_package_reads_of_the_repository():
    """Where only the wheel is installed there is no repository to fall back on."""
    asked = {name for file in FILES for name in re.findall(r'\bshipped\("([^"]+)"\)', file.read_text())}
    carried = {"bundles"}
    for node in ast.parse((ROOT / "hatch_build.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "SETTINGS":
            carried |= set(ast.literal_eval(node.value))
    assert asked == carried
    assert all((ROOT / name).exists() for name in asked)
