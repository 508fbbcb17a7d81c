"""A bundle's metadata: its version, its changelog, and a pin for every package that it imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from liver_ct.zoo.bundle import METADATA, installed, read_config

OLDEST_PYTHON = "3.10"  # the zoo's CI installs the pinned versions there


def check_metadata(root: Path) -> list[str]:
    """The changelog tells of the version; every import is pinned, to what the zoo's CI can have and was tried here."""
    metadata = read_config(root, METADATA)
    for key in ("changelog", "required_packages_version", "optional_packages_version"):
        if not isinstance(metadata.get(key, {}), dict):
            return [f"{METADATA}: {key} is no JSON object. Write {{name: text}}."]
    problems = check_version(metadata)
    for name, version in pins(metadata).items():
        problem = _check_pin(name, version)
        if problem:
            problems.append(f"{METADATA}: {problem}")
    return problems + check_imports(root)


def check_version(metadata: Mapping[str, Any]) -> list[str]:
    """There is a name, and a version that the changelog tells of."""
    missing = [key for key in ("version", "changelog", "name") if not metadata.get(key)]
    if missing:
        return [f"{METADATA}: no {key}. Add it." for key in missing]
    version, problems = str(metadata["version"]), []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        problems.append(f"{METADATA}: version {version} is not like 1.2.3. Write it so.")
    elif version not in metadata["changelog"]:
        problems.append(f"{METADATA}: the changelog does not tell of version {version}. Add a line.")
    return problems


def pins(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Package and version, as the zoo's CI takes them from the metadata."""
    core = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    pinned = {name: str(metadata[key]) for name, key in core.items() if key in metadata}
    for key in ("optional_packages_version", "required_packages_version"):
        pinned |= {name: str(version) for name, version in dict(metadata.get(key) or {}).items()}
    return pinned


def _check_pin(name: str, version: str) -> str | None:
    try:
        pinned = Version(version)
    except InvalidVersion:
        return f"{name} {version!r} is not one version. Pin it like 1.2.3."
    package = installed(name)
    if package is None:
        return f"{name} {version} is not installed here, so nothing was tried with it. pip install {name}=={version}"
    if Version(Version(package.version).public) != pinned:
        return f"{name} {version} is pinned but {package.version} is installed, so nothing was tried with it. Pin that."
    python = package.metadata["Requires-Python"]
    if python and OLDEST_PYTHON not in SpecifierSet(python):
        return f"{name} {version} wants Python {python}, the zoo's CI has {OLDEST_PYTHON}. Pin an older version."
    return None


def check_imports(root: Path) -> list[str]:
    """Every package that scripts and configs import is pinned in the metadata."""
    provided = {module for name in pins(read_config(root, METADATA)) for module in _modules(name)}
    return [
        f"{name}: imports {module}, of no pinned package. Pin its package in required_packages_version."
        for name, module in sorted({*_script_imports(root), *_config_imports(root)})
        if module not in provided
    ]


def _modules(name: str) -> set[str]:
    """What can be imported of a package; importlib's packages_distributions misses some in Python 3.10."""
    package = installed(name)
    files = package.files or () if package else ()
    return {name, *(file.parts[0].partition(".")[0] for file in files)}


def _script_imports(root: Path) -> Iterator[tuple[str, str]]:
    """Name of a script and a package from elsewhere that it imports."""
    own = {*sys.stdlib_module_names, "scripts"}
    for path in sorted(root.glob("scripts/*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue  # the style check says so
        for module in _imported(tree):
            package = module.partition(".")[0]
            if package not in own:
                yield f"scripts/{path.name}", package


def _imported(tree: ast.Module) -> Iterator[str]:
    """Names of the modules that a module imports, but for those from its own package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _config_imports(root: Path) -> Iterator[tuple[str, str]]:
    """Name of a config and a package from elsewhere that it imports or takes a component from."""
    own = {*sys.stdlib_module_names, "scripts"}
    for path in sorted(root.glob("configs/*.json")):
        modules = re.findall(r'"\$import (\w+)|"_target_": "(\w+)\.', path.read_text(encoding="utf-8"))
        yield from ((f"configs/{path.name}", top) for pair in modules if (top := "".join(pair)) not in own)
