"""Promises of scripts/package.py: archives that run anywhere, the same bytes always, and a line for what is refused."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import monai.bundle.scripts
import nibabel as nib
import numpy as np
import package
import pytest
import torch
from monai.apps import download_url, extractall
from monai.apps.utils import HashCheckError
from monai.bundle import download, get_bundle_info

from liver_ct import phantom
from liver_ct.zoo import archives as zoo_archives
from liver_ct.zoo import bundle as zoo_bundle
from liver_ct.zoo import checks as zoo_checks
from liver_ct.zoo import metadata as zoo_metadata

ROOT = Path(__file__).resolve().parents[1]
SEG, CLS = zoo_archives.ZOO_NAMES.values()
# Inference with a bundle after the other; opening a file or listing a folder of the repository raises.
INFER = """
import json, os, sys
repository, runs = sys.argv[1], json.loads(sys.argv[2])
def guard(event, args):
    if event in ("open", "os.listdir", "os.scandir") and args and isinstance(args[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(args[0]))
        if path.startswith(repository) and not path.startswith(sys.prefix):
            raise PermissionError(f"{path} is in the repository")
if repository:
    sys.addaudithook(guard)
from monai.bundle import run
for words in runs:
    run(**words)
"""


def version(folder: str) -> str:
    return json.loads((ROOT / "bundles" / folder / zoo_bundle.METADATA).read_text())["version"]


def archives() -> list[str]:
    return [f"{name}_v{version(folder)}.zip" for folder, name in zoo_archives.ZOO_NAMES.items()]


def snapshot(folder: Path) -> dict[str, int]:
    """Every file below a folder and when it was written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A folder and the URL under which it is served on loopback."""
    folder = tmp_path_factory.mktemp("served")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def dist(served) -> tuple[Path, str]:
    """The archives, made by the command line."""
    folder, url = served
    before = snapshot(ROOT / "bundles")
    command = [sys.executable, str(ROOT / "scripts" / "package.py"), "--output", str(folder), "--source", url]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert snapshot(ROOT / "bundles") == before
    assert sorted(re.findall(r"\w+_v[\d.]+\.zip", done.stdout)) == sorted(archives())
    return folder, url


@pytest.fixture
def one(tmp_path, monkeypatch) -> Path:
    """A copy of liver_cls to break, the only bundle that is packaged."""
    monkeypatch.setattr(zoo_archives, "ZOO_NAMES", {"liver_cls": CLS})
    skip = shutil.ignore_patterns("__pycache__", "eval", "runs")
    return Path(shutil.copytree(ROOT / "bundles" / "liver_cls", tmp_path / "bundles" / "liver_cls", ignore=skip))


def pack(bundle: Path, output: Path) -> dict[str, bytes]:
    """Package the bundle; what lies in the output folder then."""
    package.package(str(output), bundles=str(bundle.parent))
    return {path.name: path.read_bytes() for path in output.iterdir()}


# ------------------------------------------------------------------------------------------- published and fetched


def test_archives_hold_what_git_holds_under_the_zoo_name(dist):
    folder, _ = dist
    assert sorted(path.name for path in folder.iterdir()) == sorted([*archives(), "SHA256SUMS", "model_info.json"])
    for bundle, name in zoo_archives.ZOO_NAMES.items():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT / "bundles" / bundle, capture_output=True, text=True)
        with zipfile.ZipFile(folder / f"{name}_v{version(bundle)}.zip") as file:
            assert file.testzip() is None
            names = file.namelist()
        assert names == sorted(names)
        if listed.stdout:  # a checkout, not an unpacked copy
            assert names == sorted(f"{name}/{line}" for line in listed.stdout.splitlines())


def test_checksums_and_model_info_are_those_of_the_archives(dist):
    folder, url = dist
    info = json.loads((folder / "model_info.json").read_text())
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sorted(sums) == sorted(archives())
    for name in archives():
        data = (folder / name).read_bytes()
        entry = {"checksum": hashlib.sha1(data).hexdigest(), "source": f"{url}/{name}"}
        assert info[name.removesuffix(".zip")] == entry
        assert sums[name] == hashlib.sha256(data).hexdigest()


def test_monai_finds_the_archives_by_name_in_model_info(dist, monkeypatch):
    """MONAI's address of model_info.json is fixed, so its requests go to ours."""
    folder, url = dist
    reply = types.SimpleNamespace(text=(folder / "model_info.json").read_text(), raise_for_status=lambda: None)
    monkeypatch.setattr(monai.bundle.scripts, "has_requests", True)
    monkeypatch.setattr(monai.bundle.scripts, "requests", types.SimpleNamespace(get=lambda _: reply))
    for name, file in zip((SEG, CLS), archives()):
        assert get_bundle_info(name)["browser_download_url"] == f"{url}/{file}"


def test_monai_refuses_an_archive_that_was_tampered_with(dist, tmp_path):
    folder, url = dist
    name = archives()[1]
    checksum = json.loads((folder / "model_info.json").read_text())[name.removesuffix(".zip")]["checksum"]
    download_url(f"{url}/{name}", tmp_path / name, hash_val=checksum, hash_type="sha1", progress=False)
    extractall(tmp_path / name, tmp_path)
    assert (tmp_path / CLS / "models" / "model.pt").is_file()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "tampered.zip").write_bytes(data)
    sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for value, kind in ((sha256, "sha256"), (checksum, "sha1")):
        with pytest.raises(HashCheckError):
            download_url(f"{url}/tampered.zip", tmp_path / "t.zip", hash_val=value, hash_type=kind, progress=False)
    assert not (tmp_path / "t.zip").exists()


def test_fetched_bundles_find_what_the_repositorys_find(dist, tmp_path):
    folder, url = dist
    for name, file in zip((SEG, CLS), archives()):
        download(name=name, url=f"{url}/{file}", bundle_dir=tmp_path / "bundles", progress=False)
    ct, _, affine = phantom.make_phantom((128, 128, 50), (3.0, 3.0, 6.0), seed=0, tumours=2)
    (tmp_path / "cts").mkdir()
    nib.save(nib.Nifti1Image(ct, affine), tmp_path / "cts" / "case.nii.gz")
    fetched = infer(tmp_path / "bundles" / SEG, tmp_path / "bundles" / CLS, tmp_path, str(ROOT))
    own = infer(ROOT / "bundles" / "liver_seg", ROOT / "bundles" / "liver_cls", tmp_path, "")
    for run in (fetched, own):
        _, error = run.communicate()
        assert run.returncode == 0, error[-2000:]
    outputs = [Path(run.args[-1]) for run in (fetched, own)]
    for name in ("case/case_prob.nii.gz", "case/case_seg.nii.gz"):
        masks = [np.asarray(nib.load(output / name).dataobj) for output in outputs]
        np.testing.assert_array_equal(*masks)
        assert masks[0].max() > 0.9
    tables = [(output / "case/case_slices.csv").read_text() for output in outputs]
    assert tables[0] == tables[1] and tables[0].count("\n") > 10


def test_the_repository_is_out_of_reach_there(tmp_path):
    run = infer(ROOT / "bundles" / "liver_seg", ROOT / "bundles" / "liver_cls", tmp_path, str(ROOT))
    _, error = run.communicate()
    assert run.returncode and f"{ROOT}/bundles/liver_seg/configs" in error and "is in the repository" in error


def infer(seg: Path, cls: Path, folder: Path, out_of_reach: str) -> subprocess.Popen:
    """Start inference over folder/cts with both bundles, from an empty folder; its last argument is the output's."""
    output = Path(tempfile.mkdtemp(dir=folder))
    common = {"dataset_dir": str(folder / "cts"), "output_dir": str(output)}
    runs = [
        {"config_file": f"{root}/configs/inference.json", "bundle_root": str(root), **common} for root in (seg, cls)
    ]
    runs[1]["prob_dir"] = str(output)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", INFER, out_of_reach, json.dumps(runs), str(output)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tempfile.mkdtemp(dir=folder), env=env, **pipes)


# ------------------------------------------------------------------------------------------------ the same bytes


def test_an_archive_is_the_same_another_day_from_another_checkout_with_another_umask(dist, tmp_path, monkeypatch):
    other, own = tmp_path / "elsewhere" / "liver_cls", ROOT / "bundles" / "liver_cls"
    before = os.umask(0o077)
    try:
        for name, path in reversed(zoo_bundle.bundle_files(own).items()):  # so that folders list files in another order
            (other / name).parent.mkdir(parents=True, exist_ok=True)
            (other / name).write_bytes(path.read_bytes())
            (other / name).chmod(0o700)
            os.utime(other / name, (1, 1))
        for leftover in ("eval/result.txt", "runs/model.pt", "scripts/__pycache__/cls_io.cpython-311.pyc"):
            (other / leftover).parent.mkdir(exist_ok=True)
            (other / leftover).write_text("left by a run")
        monkeypatch.setattr(time, "time", lambda: 2e9)
        monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
        again = zoo_archives.archive(zoo_archives.copy_bundle(other, tmp_path / CLS))
    finally:
        os.umask(before)
    assert again == (dist[0] / archives()[1]).read_bytes()


def test_entries_say_nothing_of_the_machine_and_need_no_zlib(dist):
    folder, _ = dist
    for name in archives():
        with zipfile.ZipFile(folder / name) as file:
            for entry in file.infolist():
                assert entry.date_time == (1980, 1, 1, 0, 0, 0) and entry.compress_type == zipfile.ZIP_STORED
                assert (entry.create_system, entry.external_attr >> 16, entry.extra) == (3, 0o100644, b"")


# ------------------------------------------------------------------------------------------------------ refusals


def edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    """A break that changes a JSON file."""

    def apply(bundle: Path) -> None:
        content = json.loads((bundle / name).read_text())
        change(content)
        (bundle / name).write_text(json.dumps(content, indent=4))

    return apply


def put(name: str, data: bytes) -> Callable[[Path], object]:
    """A break that writes a file."""
    return lambda bundle: (bundle / name).write_bytes(data)


def append(name: str, text: str) -> Callable[[Path], object]:
    """A break that adds text to a file."""
    return lambda bundle: (bundle / name).write_text((bundle / name).read_text() + text)


def meta(**changes) -> Callable[[Path], object]:
    return edit("configs/metadata.json", lambda m: m.update(changes))


def pin(name: str, value: str | None) -> Callable[[Path], object]:
    packages = "required_packages_version"
    return edit(
        "configs/metadata.json", lambda m: m[packages].update({name: value}) if value else m[packages].pop(name)
    )


def shape(side: str, tensor: str, **changes) -> Callable[[Path], object]:
    return edit("configs/metadata.json", lambda m: m["network_data_format"][side][tensor].update(changes))


def other_weights(bundle: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, bundle / "models" / "model.pt")


def too_large(bundle: Path) -> None:
    os.truncate(bundle / "models" / "model.pt", 25_000_001)


def link(bundle: Path) -> None:
    (bundle / "docs" / "README.md").unlink()
    (bundle / "docs" / "README.md").symlink_to(ROOT / "README.md")


REFUSALS = {
    **{
        f"without {name}": (lambda bundle, name=name: (bundle / name).unlink(), f"{name}: is missing")
        for name in zoo_checks.REQUIRED
    },
    "an empty file": (put("LICENSE", b""), "LICENSE: is empty"),
    "a file above 25 MB": (too_large, r"models/model.pt: 25.0 MB, and the zoo takes no file above 25 MB"),
    "a CT": (put("docs/ct.nii.gz", b"x"), "docs/ct.nii.gz: does not belong into an archive"),
    "an exported model": (put("models/model.ts", b"x"), "models/model.ts: does not belong"),
    "a hidden file": (put(".DS_Store", b"x"), ".DS_Store: does not belong"),
    "a link": (link, "docs/README.md: a link leads out of the archive"),
    "no JSON": (put("configs/train.json", b"{"), r"configs/train.json: not JSON \(Expecting property name"),
    "no JSON object": (put("configs/inference.json", b"[]"), "configs/inference.json: is no JSON object"),
    "pins that are a list": (meta(required_packages_version=["isal"]), "required_packages_version is no JSON object"),
    "a path of one machine": (
        edit("configs/inference.json", lambda c: c.update(dataset_dir="/home/someone/cts")),
        "configs/inference.json: names /home/someone/cts, a path of one machine",
    ),
    "no changelog": (edit("configs/metadata.json", lambda m: m.pop("changelog")), "metadata.json: no changelog"),
    "an old changelog": (meta(version="9.9.9"), "the changelog does not tell of version 9.9.9"),
    "an odd version": (meta(version="1.0-beta"), "version 1.0-beta is not like 1.2.3"),
    "a range for a version": (meta(numpy_version=">=2.2.6"), "numpy '>=2.2.6' is not one version"),
    "another version than installed": (pin("isal", "1.0.0"), "isal 1.0.0 is pinned but"),
    "a package that is not there": (pin("no-such-package-xyz", "1.0"), "no-such-package-xyz 1.0 is not installed"),
    "a script's import without pin": (pin("isal", None), "scripts/cls_headers_nifti.py: imports isal, of no pinned"),
    "a config's import without pin": (pin("pytorch-ignite", None), "configs/train.json: imports ignite, of no pinned"),
    "no output_dir": (
        edit("configs/inference.json", lambda c: c.pop("output_dir")),
        "inference.json: has no output_dir",
    ),
    "no validate#handlers": (
        edit("configs/train.json", lambda c: c["validate"].pop("handlers")),
        "train.json: has no validate#handlers",
    ),
    "the schema": (
        edit("configs/metadata.json", lambda m: m.pop("task")),
        "metadata.json: 'task' is a required property",
    ),
    "an unknown schema": (
        meta(schema="https://example.org/other.json"),
        "schema https://example.org/other.json is not",
    ),
    "input channels": (
        shape("inputs", "image", num_channels=4),
        r"metadata.json with configs/inference.json: .*channels",
    ),
    "output channels": (shape("outputs", "pred", num_channels=2), "output channel number `1` doesn't match: `2`"),
    "output type": (shape("outputs", "pred", dtype="int64"), "dtype of output data `torch.float32` doesn't match"),
    "other weights": (other_weights, r"models/model.pt: .*Missing key"),
    "damaged weights": (put("models/model.pt", b"x" * 1000), "models/model.pt: "),
    "a network TorchScript cannot take": (
        edit("configs/inference.json", lambda c: c["network_def"].update(deep_supervision="no")),
        "models/model.pt: ",
    ),
    "a property of inference": (
        edit(
            "configs/inference.json",
            lambda c: c.update(own=c["handlers"]) or c["evaluator"].update(val_handlers="@own"),
        ),
        "inference.json: lacks the properties handlers",
    ),
    "a property of training": (
        edit("configs/train.json", lambda c: c.update(own=[]) or c["train"]["trainer"].update(train_handlers="@own")),
        "train.json: lacks the properties train_handlers",
    ),
}


STYLE_REFUSALS = {
    "black": (append("scripts/cls_io.py", "X  = 1\n"), "scripts/cls_io.py: black would write it otherwise"),
    "isort": (
        lambda b: (b / "scripts/cls_new.py").write_text("import os\nimport json\n\nprint(os, json)\n"),
        "scripts/cls_new.py: isort would write it otherwise",
    ),
    "flake8": (append("scripts/cls_io.py", "\n\nimport math\n"), r"scripts/cls_io.py: .*math.*F401"),
    "bugbear": (append("scripts/cls_io.py", "\n\ndef f(x=[]):\n    return x\n"), "scripts/cls_io.py: .*B006"),
    "broken Python": (append("scripts/cls_io.py", "\ndef\n"), "scripts/cls_io.py: .*E999"),
}


@pytest.mark.parametrize("broken", STYLE_REFUSALS)
def test_a_bundle_that_is_written_otherwise_is_refused_with_a_line(broken, one, tmp_path):
    refused(one, tmp_path / "dist", *STYLE_REFUSALS[broken])


@pytest.mark.parametrize("broken", REFUSALS)
def test_a_bundle_the_zoo_would_refuse_is_refused_with_a_line(broken, one, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_checks, "check_style", lambda _: [])  # which takes longer than most other checks
    refused(one, tmp_path / "dist", *REFUSALS[broken])


def refused(one: Path, output: Path, break_it: Callable[[Path], object], line: str) -> None:
    """Break the bundle and see that its line is among well-formed ones, and that nothing is written."""
    break_it(one)
    with pytest.raises(SystemExit) as stop:
        pack(one, output)
    lines = str(stop.value.code).splitlines()  # Python prints a text to stderr and exits with status 1
    assert any(re.search(re.escape(f"ERROR {one}/") + f".*{line}", text) for text in lines), lines
    assert all(re.fullmatch(r"ERROR \S.*: .+\. \S.*", text) for text in lines), lines
    assert not output.exists()


def test_a_pinned_version_that_the_zoos_python_lacks_is_refused(one, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_metadata, "OLDEST_PYTHON", "3.6")
    monkeypatch.setattr(zoo_checks, "check_style", lambda _: [])
    with pytest.raises(SystemExit, match=r"numpy \S+ wants Python >=3.10, the zoo's CI has 3.6. Pin an older version"):
        pack(one, tmp_path / "dist")


def test_the_command_names_every_problem_and_writes_nothing(tmp_path):
    skip = shutil.ignore_patterns("__pycache__", "eval", "runs")
    bundles = Path(shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=skip))
    (bundles / "liver_seg" / "LICENSE").unlink()
    (bundles / "liver_seg" / "docs" / "data_license.txt").unlink()
    append("scripts/cls_io.py", "\n\nX = 'a'\n")(bundles / "liver_cls")
    command = [sys.executable, str(ROOT / "scripts" / "package.py"), "--output", str(tmp_path / "dist")]
    done = subprocess.run([*command, "--bundles", str(bundles)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout and not (tmp_path / "dist").exists()
    lines = done.stderr.splitlines()
    assert [line.split(": ")[0].replace(str(bundles), "") for line in lines] == [
        "ERROR /liver_seg/LICENSE",
        "ERROR /liver_seg/docs/data_license.txt",
        "ERROR /liver_cls/scripts/cls_io.py",
    ]


def test_without_the_style_tools_it_says_how_to_get_them(one, tmp_path, monkeypatch):
    found = zoo_bundle.distribution

    def lacking(name: str):
        if name in ("black", "jsonschema"):
            raise zoo_bundle.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(zoo_bundle, "distribution", lacking)
    with pytest.raises(SystemExit, match=r"ERROR black, jsonschema: not installed. pip install 'liver-ct\[zoo\]'"):
        pack(one, tmp_path / "dist")


def test_a_folder_without_bundles_is_named(one, tmp_path):
    with pytest.raises(SystemExit, match="nowhere/liver_cls/.: holds no bundle. Check the path"):
        pack(tmp_path / "nowhere" / "liver_cls", tmp_path / "dist")


def test_a_version_is_packaged_with_one_content_only(one, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_archives, "check_bundle", lambda _: [])  # a bundle that passes
    first = pack(one, tmp_path / "dist")
    assert pack(one, tmp_path / "dist") == first
    append("docs/README.md", "\nMore.\n")(one)
    with pytest.raises(
        SystemExit, match=r"model_info.json: \w+_v[\d.]+ is there with other content. Raise the version"
    ):
        pack(one, tmp_path / "dist")
    edit("configs/metadata.json", lambda m: m.update(version="9.0.0", changelog={"9.0.0": "x", **m["changelog"]}))(one)
    files = pack(one, tmp_path / "dist")
    assert f"{CLS}_v9.0.0.zip" in files and set(first) <= set(files)
    assert len(json.loads(files["model_info.json"])) == len(files["SHA256SUMS"].splitlines()) == 2


def test_an_output_that_cannot_be_written_is_named(one, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_archives, "check_bundle", lambda _: [])  # a bundle that passes
    (tmp_path / "dist").write_text("in the way")
    with pytest.raises(SystemExit, match=r"^ERROR \S+dist: .+\. Choose another --output or free space\.$"):
        pack(one, tmp_path / "dist")
    assert (tmp_path / "dist").read_text() == "in the way"


def test_a_model_info_of_another_kind_is_left_as_it_is(one, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_archives, "check_bundle", lambda _: [])  # a bundle that passes
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "model_info.json").write_text("[]")
    with pytest.raises(SystemExit, match="model_info.json: is no list of models. Remove it or choose another --output"):
        pack(one, tmp_path / "dist")
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["model_info.json"]
