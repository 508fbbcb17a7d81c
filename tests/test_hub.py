"""Promises of the folders for a model hub: MONAI's own download takes them from a hub, and they run.

The hub is a server of this file's on loopback, which answers what its client asks for when it takes a whole repository.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import package
import pytest
import yaml

from liver_ct import phantom
from liver_ct.zoo import archives as zoo_archives
from liver_ct.zoo.bundle import METADATA, bundle_files

ROOT = Path(__file__).resolve().parents[1]
NAMES = zoo_archives.ZOO_NAMES
SEG, CLS = NAMES.values()
COMMIT = "0123456789" * 4
FETCH = """
import json, sys
from monai.bundle import download
for words in json.loads(sys.argv[1]):
    download(progress=False, **words)
"""
INFER = """
import json, sys
from monai.bundle import run
for words in json.loads(sys.argv[1]):
    run(**words)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of a hub: a repository's tags, its commit, its files, and each file with its checksum."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        owner, _, rest = path.removeprefix("/api/models").strip("/").partition("/")
        name, _, rest = rest.partition("/")
        root = self.folder / name
        if owner not in ("MONAI", "someone") or not root.is_dir():
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        version = json.loads((root / METADATA).read_text())["version"]
        if not path.startswith("/api/"):
            return self.file(root / rest.removeprefix(f"resolve/{COMMIT}/"))
        if rest.startswith("revision/") and rest not in (f"revision/{version}", f"revision/{COMMIT}"):
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        tag = {"name": version, "ref": f"refs/tags/{version}", "targetCommit": COMMIT}
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        tree = [
            {"type": "file", "path": str(path.relative_to(root)), "size": path.stat().st_size, "oid": checksum(path)}
            for path in files
        ]
        siblings = [{"rfilename": entry["path"]} for entry in tree]
        answers = {
            "refs": {"branches": [], "converts": [], "tags": [tag]},
            "revision": {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings},
            "tree": tree,
        }
        return self.answer(200, json.dumps(answers[rest.partition("/")[0]]).encode(), {})

    def file(self, path: Path) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{checksum(path)}"'}
        self.answer(200, path.read_bytes(), headers)

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


def checksum(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """The folders, as the command makes them; what it checks before is for test_package.py."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo_archives, "check_bundle", lambda _: [])
        package.package(str(folder / "dist"), hub=str(folder / "hub"))
    return folder / "hub"


@pytest.fixture(scope="module")
def served(hub) -> Iterator[tuple[str, list[str]]]:
    """The hub's address, and what it was asked for."""
    handler = type("Served", (Hub,), {"folder": hub, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()


@pytest.fixture(scope="module")
def fetched(served, tmp_path_factory) -> Path:
    """Both bundles as MONAI downloads them: the newest version from a repository of anybody's, and from MONAI's own."""
    pytest.importorskip("huggingface_hub")
    folder = tmp_path_factory.mktemp("fetched")
    calls = [
        {"name": SEG, "source": "huggingface_hub", "repo": f"someone/{SEG}", "bundle_dir": str(folder)},
        {"name": CLS, "source": "monaihosting", "version": version("liver_cls"), "bundle_dir": str(folder)},
    ]
    done = in_python(FETCH, calls, folder, HF_ENDPOINT=served[0], HF_HOME=str(folder / "home"))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def in_python(code: str, calls: list[dict], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Python code of its own with these calls to make, from an empty folder, with nothing of this repository."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_TOKEN")} | environment
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, json.dumps(calls)]
    (folder / "work").mkdir(exist_ok=True)
    return subprocess.run(command, cwd=folder / "work", env=env, capture_output=True, text=True)


def version(bundle: str) -> str:
    return json.loads((ROOT / "bundles" / bundle / METADATA).read_text())["version"]


def read_card(folder: Path) -> tuple[dict, str]:
    """What a hub reads of a model card, and the page."""
    _, front, page = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), page


def test_monai_downloads_every_file_as_it_is(fetched, hub, served):
    for name in NAMES.values():
        files = {path.relative_to(hub / name) for path in (hub / name).rglob("*") if path.is_file()}
        assert len(files) > 40
        for file in files:
            assert (fetched / name / file).read_bytes() == (hub / name / file).read_bytes(), file
    assert f"/api/models/someone/{SEG}/refs" in served[1]  # asked which version is the newest
    assert f"/api/models/MONAI/{CLS}/revision/{version('liver_cls')}" in served[1]


def test_downloaded_bundles_find_the_liver_and_judge_its_slices(fetched, tmp_path):
    ct, labels, affine = phantom.make_phantom((128, 128, 50), (3.0, 3.0, 6.0), seed=0, tumours=2)
    (tmp_path / "cts").mkdir()
    nib.save(nib.Nifti1Image(ct, affine), tmp_path / "cts" / "case.nii.gz")
    calls = []
    for name in (SEG, CLS):
        root = fetched / name
        call = {"config_file": f"{root}/configs/inference.json", "bundle_root": str(root)}
        calls.append(call | {"dataset_dir": str(tmp_path / "cts"), "output_dir": str(tmp_path / "out")})
    calls[1]["prob_dir"] = str(tmp_path / "out")
    done = in_python(INFER, calls, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    mask = np.asarray(nib.load(tmp_path / "out" / "case" / "case_seg.nii.gz").dataobj) > 0
    assert 2 * (mask & (labels > 0)).sum() / (mask.sum() + (labels > 0).sum()) > 0.9
    assert (tmp_path / "out" / "case" / "case_slices.csv").read_text().count("\n") > 10


@pytest.mark.parametrize("bundle, name", NAMES.items())
class TestFolder:
    def test_it_is_the_bundle_and_a_card(self, hub, bundle, name):
        files = {path.relative_to(hub / name).as_posix() for path in (hub / name).rglob("*") if path.is_file()}
        assert files == {*bundle_files(ROOT / "bundles" / bundle), "README.md", ".gitattributes"}
        assert "*.pt filter=lfs" in (hub / name / ".gitattributes").read_text()
        assert f"hub/{name}    {len(files)} files\n" in (ROOT / "docs" / "model_zoo.md").read_text()

    def test_a_hub_can_read_the_card(self, hub, bundle, name):
        front, _ = read_card(hub / name)
        assert front["library_name"] == "monai" and front["version"] == version(bundle)
        assert front["license"] == "other" and (hub / name / front["license_link"]).is_file()
        assert {"monai", "medical"} <= {*front["tags"]}
        assert front["pipeline_tag"] == {"liver_seg": "image-segmentation", "liver_cls": "image-classification"}[bundle]

    def test_the_card_says_what_the_metadata_says(self, hub, bundle, name):
        metadata, (_, page) = json.loads((hub / name / METADATA).read_text()), read_card(hub / name)
        for key in ("name", "description", "data_source", "intended_use", "image_classes", "pred_classes", "task"):
            assert metadata[key] in page, key
        for figure, value in metadata["eval_metrics"].items():
            assert f"| {figure.replace('_', ' ')} | {value} |" in page
        assert metadata["changelog"][metadata["version"]] in page
        assert all(reference in page for reference in metadata["references"])

    def test_the_card_has_limits_terms_and_commands_that_fit(self, hub, bundle, name):
        _, page = read_card(hub / name)
        limits = page.split("## Limits\n")[1].split("\n## ")[0]
        assert "not for diagnosis" in limits and limits.strip() in (hub / name / "docs" / "README.md").read_text()
        assert (hub / name / "docs" / "data_license.txt").read_text().strip() in page
        assert f"--name {name} --source huggingface_hub --repo OWNER/{name}" in page
        for knob in ("dataset_dir", "output_dir", *(["prob_dir"] if bundle == "liver_cls" else [])):
            assert f"--{knob} " in page and knob in json.loads((hub / name / "configs/inference.json").read_text())
        assert not re.search(r"\{\w", page)

    def test_its_links_lead_somewhere(self, hub, bundle, name):
        for link in re.findall(r"\]\(([^)#]+)", read_card(hub / name)[1]):
            assert link.startswith("https://") or (hub / name / link).is_file(), link


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(zoo_archives, "check_bundle", lambda _: [])


def test_made_again_it_is_the_same_and_what_was_removed_is_gone(hub, quick, tmp_path):
    first = {path: path.read_bytes() for path in hub.rglob("*") if path.is_file()}
    (hub / SEG / "scripts" / "old.py").write_text("")
    package.package(str(tmp_path / "dist"), hub=str(hub))
    assert {path: path.read_bytes() for path in hub.rglob("*") if path.is_file()} == first


@pytest.mark.parametrize("entry", [".git", "notes.txt"])
def test_what_is_not_of_this_program_is_not_replaced(quick, tmp_path, entry):
    (tmp_path / "hub" / SEG).mkdir(parents=True)
    (tmp_path / "hub" / SEG / entry).write_text("mine")
    with pytest.raises(SystemExit, match=rf"^ERROR \S+{SEG}: is in the way and not made by this program. Choose anoth"):
        package.package(str(tmp_path / "dist"), hub=str(tmp_path / "hub"))
    assert [path.name for path in (tmp_path / "hub" / SEG).iterdir()] == [entry]
    assert not (tmp_path / "dist").exists()


def test_a_refused_bundle_gets_none(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_archives, "check_bundle", lambda _: ["LICENSE: is missing. The zoo requires it."])
    with pytest.raises(SystemExit):
        package.package(str(tmp_path / "dist"), hub=str(tmp_path / "hub"))
    assert not (tmp_path / "hub").exists()
