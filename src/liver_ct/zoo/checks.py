"""What the Model Zoo's CI asks of a bundle, each check a list of lines ``<file>: <cause>. <fix>``.

The zoo's own scripts (ci/verify_bundle.py, runtests.sh) work inside its repository and stop at the first problem. MONAI's
functions do here what they do there; around them stands what the zoo asks in words only (CONTRIBUTING.md).
"""

from __future__ import annotations

import ast
import json
import logging
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, distribution
from io import StringIO
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from liver_ct.files import shipped

SCHEMAS = Path(__file__).resolve().parent
METADATA, INFERENCE, TRAIN = (f"configs/{name}.json" for name in ("metadata", "inference", "train"))
WEIGHTS = "models/model.pt"
REQUIRED = ("LICENSE", METADATA, INFERENCE, "configs/logging.conf", WEIGHTS, "docs/README.md", "docs/data_license.txt")
ALLOWED = re.compile(
    r"LICENSE|configs/\w+\.(json|ya?ml|conf)|models/model\.pt|docs/[\w.-]+\.(md|txt|png)|scripts/\w+\.py"
)
LEFTOVERS = ("__pycache__", "eval", "runs")  # what running a bundle in its own folder leaves there
MAX_BYTES = 25_000_000
OLDEST_PYTHON = "3.10"  # the zoo's CI installs the pinned versions there
KEYS = {
    INFERENCE: ("bundle_root", "device", "dataset_dir", "output_dir", "network_def", "inferer", "evaluator"),
    TRAIN: (
        *("bundle_root", "device", "dataset_dir", "output_dir", "network_def", "val_interval"),
        *("train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers"),
        *("validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data"),
    ),
}
STYLE = ("black", "isort", "flake8", "flake8-bugbear", "flake8-comprehensions", "flake8-executable", "pep8-naming")


def missing_tools() -> list[str]:
    """The packages the checks need and this environment lacks."""
    return [name for name in (*STYLE, "jsonschema") if _installed(name) is None]


def bundle_files(root: Path) -> dict[str, Path]:
    """What is shipped of a bundle's folder, by relative name, sorted; what running it leaves behind is not."""
    paths = {path.relative_to(root): path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
    return {name.as_posix(): path for name, path in sorted(paths.items()) if not set(name.parts) & {*LEFTOVERS}}


def check_bundle(root: Path) -> list[str]:
    """All problems of the first kind that shows any: files, then what is written in them, then what MONAI makes of it.

    Args:
        root: a copy of the bundle that may be written to, in a folder with its zoo name.
    """
    return (
        check_files(bundle_files(root))
        or check_metadata(root) + check_keys(root) + check_style(root)
        or check_with_monai(root)
    )


# ---------------------------------------------------------------------------------------- files and what they say


def check_files(files: Mapping[str, Path]) -> list[str]:
    """Required files are there, no others, none empty, damaged or too large."""
    if not files:
        return [".: holds no bundle. Check the path."]
    problems = [f"{name}: is missing. The zoo requires it." for name in REQUIRED if name not in files]
    for name, path in files.items():
        if path.is_symlink():
            problems.append(f"{name}: a link leads out of the archive. Put the file itself there.")
        elif not ALLOWED.fullmatch(name):
            problems.append(f"{name}: does not belong into an archive for others. Remove it.")
        elif path.stat().st_size == 0:
            problems.append(f"{name}: is empty. Fill it.")
        elif path.stat().st_size > MAX_BYTES:
            size = path.stat().st_size / 1e6
            problems.append(f"{name}: {size:.1f} MB, and the zoo takes no file above 25 MB. Use a smaller network.")
        elif path.suffix == ".json":
            problems += _check_json(name, path)
    return problems


def _check_json(name: str, path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if not isinstance(json.loads(text), dict):
            return [f"{name}: is no JSON object. Fix it."]
    except ValueError as e:
        return [f"{name}: not JSON ({e}). Fix it."]
    personal = re.search(r"(/home|/root|/Users|/mnt|/tmp)/[^\s'\"]*", text)
    return [f"{name}: names {personal[0]}, a path of one machine. Start from @bundle_root."] if personal else []


def check_metadata(root: Path) -> list[str]:
    """The changelog tells of the version; every import is pinned, to what the zoo's CI can have and was tried here."""
    metadata = _read(root, METADATA)
    problems = [f"{METADATA}: no {key}. Add it." for key in ("version", "changelog", "name") if not metadata.get(key)]
    for key in ("changelog", "required_packages_version", "optional_packages_version"):
        if not isinstance(metadata.get(key, {}), dict):
            return [f"{METADATA}: {key} is no JSON object. Write {{name: text}}."]
    version = str(metadata.get("version"))
    if not problems and not re.fullmatch(r"\d+\.\d+\.\d+", version):
        problems.append(f"{METADATA}: version {version} is not like 1.2.3. Write it so.")
    if not problems and version not in metadata["changelog"]:
        problems.append(f"{METADATA}: the changelog does not tell of version {version}. Add a line.")
    wrong = [f"{METADATA}: {problem}" for pin in pins(metadata).items() if (problem := _check_pin(*pin))]
    return problems + wrong + check_imports(root)


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
    package = _installed(name)
    if package is None:
        return f"{name} {version} is not installed here, so nothing was tried with it. pip install {name}=={version}"
    if Version(Version(package.version).public) != pinned:
        return f"{name} {version} is pinned but {package.version} is installed, so nothing was tried with it. Pin that."
    python = package.metadata["Requires-Python"]
    if python and OLDEST_PYTHON not in SpecifierSet(python):
        return f"{name} {version} wants Python {python}, the zoo's CI has {OLDEST_PYTHON}. Pin an older version."
    return None


def check_keys(root: Path) -> list[str]:
    """The ids that the zoo's CONTRIBUTING.md asks for are in the configs, found as MONAI finds them."""
    from monai.bundle import ConfigParser

    problems = []
    for name, keys in KEYS.items():
        if (root / name).is_file():
            parser = ConfigParser(_read(root, name))
            problems += [f"{name}: has no {key}. Add it under this id." for key in keys if key not in parser]
    return problems


def check_imports(root: Path) -> list[str]:
    """Every package that scripts and configs import is pinned in the metadata."""
    provided = {module for name in pins(_read(root, METADATA)) for module in _modules(name)}
    return [
        f"{name}: imports {module}, of no pinned package. Pin its package in required_packages_version."
        for name, module in sorted({*_script_imports(root), *_config_imports(root)})
        if module not in provided
    ]


def _modules(name: str) -> set[str]:
    """What can be imported of a package; importlib's packages_distributions misses some in Python 3.10."""
    package = _installed(name)
    files = package.files or () if package else ()
    return {name, *(file.parts[0].partition(".")[0] for file in files)}


def _script_imports(root: Path) -> Iterator[tuple[str, str]]:
    """Name of a script and a package from elsewhere that it imports."""
    own = {*sys.stdlib_module_names, "scripts"}
    for path in sorted(root.glob("scripts/*.py")):
        try:
            nodes = list(ast.walk(ast.parse(path.read_bytes())))
        except SyntaxError:
            continue  # the style check says so
        modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        yield from ((f"scripts/{path.name}", top) for m in modules if (top := m.partition(".")[0]) not in own)


def _config_imports(root: Path) -> Iterator[tuple[str, str]]:
    """Name of a config and a package from elsewhere that it imports or takes a component from."""
    own = {*sys.stdlib_module_names, "scripts"}
    for path in sorted(root.glob("configs/*.json")):
        modules = re.findall(r'"\$import (\w+)|"_target_": "(\w+)\.', path.read_text(encoding="utf-8"))
        yield from ((f"configs/{path.name}", top) for pair in modules if (top := "".join(pair)) not in own)


# --------------------------------------------------------------------------------------------------------- style


def check_style(root: Path) -> list[str]:
    """black, isort and flake8 with this repository's settings, which are the zoo's, from where the zoo runs them."""
    settings = shipped("pyproject.toml")
    tools = {
        "black": (("--check", "--config", str(settings)), r"(?:would reformat|error: cannot format) (\S+?):?(?: .*)?"),
        "isort": (("--check-only", "--settings-file", str(settings)), r"ERROR: (\S+) .*"),
        "flake8": (
            ("--config", str(shipped(".flake8")), "--format=%(path)s: %(text)s (%(code)s, line %(row)d)"),
            r"(.+)",
        ),
    }
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda tool: _run_tool(root, tool, *tools[tool][0]), tools)
    return [
        line for (tool, (_, pattern)), text in zip(tools.items(), done) for line in _style_lines(tool, pattern, text)
    ]


def _run_tool(root: Path, tool: str, *options: str) -> str:
    """Everything a tool says of the bundle, with paths from the bundle's folder; nothing where it finds nothing."""
    command = [sys.executable, "-m", tool, *options, root.name]
    done = subprocess.run(command, cwd=root.parent, capture_output=True, text=True)
    said = (done.stdout + done.stderr).replace(f"{root}/", "").replace(f"{root.name}/", "")
    return said if done.returncode else ""


def _style_lines(tool: str, pattern: str, text: str) -> list[str]:
    found = [match[1] for line in text.splitlines() if (match := re.fullmatch(pattern, line))]
    if text and not found:
        return [f"scripts: {tool} failed ({' '.join(text.split())[-200:]}). Run it by hand."]
    if tool == "flake8":
        return [f"{line}. Fix it, as flake8 asks." for line in found]
    return [f"{line}: {tool} would write it otherwise. Run {tool} on it." for line in found]


# --------------------------------------------------------------------------------------------------------- MONAI


def check_with_monai(root: Path) -> list[str]:
    """Schema, shapes, TorchScript export and workflow properties, each by the function of monai.bundle."""
    checks: dict[str, Callable[[Path], None]] = {METADATA: verify_schema}
    checks |= {f"{METADATA} with {INFERENCE}": verify_shapes, WEIGHTS: verify_torchscript, INFERENCE: verify_inference}
    checks |= {TRAIN: verify_train} if (root / TRAIN).is_file() else {}
    problems = []
    for name, check in checks.items():
        with _alone(root):
            try:
                check(root)
            except (Exception, SystemExit) as e:
                problems.append(f"{name}: {_first_words(e)}. {check.__doc__}")
    return problems


def verify_schema(root: Path) -> None:
    """Fix the metadata."""
    from monai.bundle import verify_metadata

    schema = root / "eval" / "schema.json"  # where the zoo has it; a file that is there is not downloaded
    schema.parent.mkdir(exist_ok=True)
    url = _read(root, METADATA).get("schema", "")
    local = SCHEMAS / url.rpartition("/")[2]
    if not url or not local.is_file():
        raise ValueError(f"schema {url} is not {[path.name for path in SCHEMAS.glob('meta_schema_*')][0]}")
    shutil.copyfile(local, schema)
    verify_metadata(meta_file=str(root / METADATA), filepath=schema)


def verify_shapes(root: Path) -> None:
    """Make network_data_format and network_def agree."""
    from monai.bundle import verify_net_in_out

    files = {"meta_file": str(root / METADATA), "config_file": str(root / INFERENCE)}
    verify_net_in_out("network_def", **files, device="cpu", bundle_root=str(root))


def verify_torchscript(root: Path) -> None:
    """Make the weights fit network_def and network_def fit TorchScript."""
    from monai.bundle import ckpt_export

    files = {"meta_file": str(root / METADATA), "config_file": str(root / INFERENCE)}
    exported = root / "eval" / "model.ts"
    exported.parent.mkdir(exist_ok=True)
    ckpt_export("network_def", str(exported), str(root / WEIGHTS), **files, bundle_root=str(root))


def verify_inference(root: Path) -> None:
    """Fix the config, whose ids are those of monai.bundle.properties."""
    _verify_properties(root, INFERENCE, "inference")


def verify_train(root: Path) -> None:
    """Fix the config, whose ids are those of monai.bundle.properties."""
    _verify_properties(root, TRAIN, "train")


def _verify_properties(root: Path, config: str, kind: str) -> None:
    from monai.bundle import create_workflow

    files = {"config_file": str(root / config), "meta_file": str(root / METADATA), "bundle_root": str(root)}
    workflow = create_workflow(workflow_type=kind, logging_file=False, **files)
    if lacking := workflow.check_properties():
        raise ValueError(f"lacks the properties {', '.join(lacking)}")


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """The bundle's ``scripts`` and no other's, as in a process of its own; and none of MONAI's messages."""
    before, path = _scripts(), list(sys.path)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        for name in _scripts():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path


def _scripts() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "scripts"}


def _first_words(error: BaseException) -> str:
    """What an exception's first cause says, in one line and without a full stop."""
    while error.__cause__:
        error = error.__cause__
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines() or [type(error).__name__])
    return re.split(r"\s*Failed validating", " ".join(line for line in lines if line))[0][:200].rstrip(".: ")


def _read(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / name).read_text(encoding="utf-8"))


def _installed(name: str) -> Any:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
