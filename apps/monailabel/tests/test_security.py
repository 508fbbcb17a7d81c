"""What the MONAI Label server refuses, asked of the real server over raw HTTP: each of these once got through.

Two servers: one on a folder with no setting at all, which listens on every interface as MONAI Label does when it is not
told otherwise; one on a DICOMweb server with token, origins and a limit of 1 MB.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from serving import ROOT, answers, copy_app, serve, wait_for

from liver_ct import phantom

SEG = "liver_ct_segmentation"
TOKEN = "a-token-of-the-test"
FRIEND, FOE = "https://viewer.example", "http://evil.example"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Site:
    """A server's address, and the folder that holds its studies and what must stay as it is."""

    def __init__(self, root: Path, client: MONAILabelClient) -> None:
        self.root, self.client = root, client
        self.studies, self.secret, self.sessions = root / "studies", root / "secret", root / "sessions"
        self.dicom = ""
        self.host, self.port = "127.0.0.1", int(client.get_server_url().rsplit(":", 1)[1])

    def ask(self, method: str, path: str, body: Any = None, headers: dict | None = None, host: str = "") -> tuple:
        """Status, text and headers of a request sent exactly as it is written here."""
        connection = http.client.HTTPConnection(host or self.host, self.port, timeout=60)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace"), dict(answer.getheaders())

    def ask_json(self, method: str, path: str, params: Any) -> tuple:
        """The same, with a JSON body."""
        return self.ask(method, path, json.dumps(params), {"Content-Type": "application/json"})

    def upload(self, method: str, path: str, field: str, name: str, content: bytes, **form: str) -> tuple:
        """The same, with a file in a form."""
        boundary = "limit-of-the-test"
        body = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in form.items()
        )
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        body += content + f"\r\n--{boundary}--\r\n".encode()
        return self.ask(method, path, body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})

    def outside(self) -> dict[str, str]:
        """Whatever lies beside the folders that the server may write to, and the bundles, with checksums."""
        own = ("studies", "sessions", "apps", "server.log")
        files = [f for f in self.root.rglob("*") if f.is_file() and f.relative_to(self.root).parts[0] not in own]
        return {
            str(f): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in files
            if not f.relative_to(self.root).parts[0].startswith("tmp") and f.suffix != ".pyc"
        }


def refused(answer: tuple, status: int = 400) -> str:
    """The one line that a refused request gets."""
    assert answer[0] == status, answer[:2]
    line = json.loads(answer[1])["detail"]
    assert isinstance(line, str) and "\n" not in line and 10 < len(line) < 250
    return line


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Iterator[Site]:
    """Started by hand as MONAI Label's documentation does."""
    root = tmp_path_factory.mktemp("plain")
    (root / "studies" / "labels" / "final").mkdir(parents=True)
    (root / "secret").mkdir()
    image, label = phantom.write_case(root / "secret", 0, size=(64, 64, 40), spacing=(6, 6, 6))
    shutil.copy(image, root / "studies" / "volume-0.nii.gz")
    shutil.copy(image, root / "studies" / "volume-1.nii.gz")
    (root / "studies" / "link.nii.gz").symlink_to(image)
    (root / "studies" / "labels" / "final" / "volume-1.nii.gz").symlink_to(label)
    (root / "secret" / "meta.info").write_text(json.dumps({"image": "gone"}))
    (root / "src").symlink_to(ROOT / "src")
    for name in ("liver_seg", "liver_cls"):
        shutil.copytree(ROOT / "bundles" / name, root / "bundles" / name, ignore=shutil.ignore_patterns("eval", "runs"))
    paths = {"MONAI_LABEL_SESSION_PATH": str(root / "sessions"), "PYTHONDONTWRITEBYTECODE": "1"}
    with serve(copy_app(root / "apps" / "monailabel"), root / "studies", root, host="0.0.0.0", **paths) as client:
        yield Site(root, client)


@pytest.fixture(autouse=True)
def nothing_changes_outside(request) -> Iterator[None]:
    """Whatever a test asks of the server on a folder, files outside its folders stay as they are."""
    site = request.getfixturevalue("plain") if "plain" in request.fixturenames else None
    before = site.outside() if site else {}
    yield
    if site:
        assert site.outside() == before


WAYS_OUT = {
    "parent": "../../secret",
    "encoded twice": "..%2F..%2Fsecret",
    "encoded thrice": "%252e%252e%252f%252e%252e%252fsecret",
    "backslash": "..\\..\\secret",
    "dots": "..",
    "dot": ".",
    "encoded dots": "%2e%2e",
    "NUL": "a\0b",
    "newline": "a\nb",
    "long": "a" * 300,
}


@pytest.fixture(params=[*WAYS_OUT, "absolute"])
def way_out(request, plain) -> str:
    """A name that leads out of a folder, for a query."""
    return quote(WAYS_OUT.get(request.param, str(plain.secret)), safe="")


def test_label_tags_stay_in_the_labels_folder(plain, way_out):
    answer = plain.upload("PUT", f"/datastore/label?image=volume-0&tag={way_out}", "label", "x.nii.gz", b"hostile")
    assert "tag" in refused(answer)
    for method, path in (("GET", "label?label="), ("DELETE", "label?id="), ("GET", "label/info?label=")):
        refused(plain.ask(method, f"/datastore/{path}volume-0&tag={way_out}"))
        refused(plain.ask(method, f"/datastore/{path}{way_out}&tag=final"))


def test_image_ids_stay_in_the_studies_folder(plain, way_out):
    refused(plain.upload("PUT", f"/datastore/image?image={way_out}", "file", "x.nii.gz", b"hostile"))
    refused(plain.upload("PUT", f"/datastore/label?image={way_out}", "label", "x.nii.gz", b"hostile"))
    refused(plain.ask("DELETE", f"/datastore/image?id={way_out}"))
    refused(plain.ask("GET", f"/datastore/image?image={way_out}"))
    refused(plain.ask("POST", f"/infer/{SEG}?image={way_out}"))


def test_no_study_is_read_from_elsewhere(plain):
    outside = str(plain.secret / "volume-0.nii.gz")
    refused(plain.ask("POST", f"/infer/{SEG}?image={quote(outside)}&output=json"))
    for params in ({"image": outside}, {"label": outside}, {"session": outside}, {"model": "../x"}):
        answer = plain.upload("POST", f"/infer/{SEG}", "file", "x.nii.gz", b"", params=json.dumps(params))
        assert next(iter(params)) in refused(answer)


def test_results_are_not_written_elsewhere(plain):
    params = json.dumps({"result_extension": "/../../../secret/x.nrrd"})
    name = (plain.studies / "volume-0.nii.gz").read_bytes()
    refused(plain.upload("POST", f"/infer/{SEG}", "file", "x.nii.gz", name, params=params))


def test_links_out_of_the_studies_are_not_followed(plain):
    size = len((plain.secret / "volume-0.nii.gz").read_bytes())
    for answer in (
        plain.ask("GET", "/datastore/image?image=link"),
        plain.ask("POST", f"/infer/{SEG}?image=link&output=json"),
        plain.upload("PUT", "/datastore/image?image=link", "file", "x.nii.gz", b"hostile"),
        plain.ask("DELETE", "/datastore/image?id=link"),
        plain.ask("GET", "/datastore/label?label=volume-1&tag=final"),
        plain.upload("PUT", "/datastore/label?image=volume-1&tag=final", "label", "x.nii.gz", b"hostile"),
        plain.ask("DELETE", "/datastore/label?id=volume-1&tag=final"),
        plain.ask("GET", "/datastore/dataset"),
    ):
        assert "link out of the studies" in refused(answer)
    assert len((plain.secret / "volume-0.nii.gz").read_bytes()) == size


@pytest.mark.parametrize("name", ["..", "../x.nii.gz/..", "%2e%2e", "a/../../x.nii.gz", "x%00.nii.gz", "x/"])
def test_names_of_files_lead_nowhere(plain, name):
    listed = plain.ask("GET", "/datastore/?output=all")[1]
    for method, path, field in (
        ("PUT", "/datastore/image", "file"),
        ("PUT", "/datastore/label?image=volume-0", "label"),
        ("PUT", "/session/", "files"),
        ("POST", f"/infer/{SEG}", "file"),
        ("PUT", f"/model/{SEG}", "file"),
    ):
        refused(plain.upload(method, path, field, name, b"hostile"))
    assert plain.ask("GET", "/datastore/?output=all")[1] == listed


@pytest.mark.parametrize("name", ["sitecustomize.py", "datastore_v2.json", "x.sh", ".lock"])
def test_only_images_are_kept_among_the_studies(plain, name):
    before = (plain.studies / "datastore_v2.json").read_bytes()
    stem = name.partition(".")[0]
    assert ".nii.gz" in refused(plain.upload("PUT", f"/datastore/image?image={stem}", "file", name, b"{}"))
    refused(plain.upload("PUT", "/datastore/label?image=volume-0", "label", name, b"{}"))
    assert (plain.studies / "datastore_v2.json").read_bytes() == before


def test_sessions_stay_in_their_folder(plain, way_out):
    refused(plain.ask("POST", f"/infer/{SEG}?session_id={way_out}"))
    refused(plain.ask("POST", f"/infer/{SEG}?session_id={quote('../secret', safe='')}"))  # held a dangling session
    for method in ("GET", "DELETE"):
        assert 400 <= plain.ask(method, f"/session/{way_out}")[0] < 500
        refused(plain.ask(method, "/session/.."))


def test_archives_are_not_unpacked(plain):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(f"../../..{plain.secret}/planted"), io.BytesIO())
        tar.addfile(tarfile.TarInfo(f"{plain.secret}/planted-too"), io.BytesIO())
    refused(plain.upload("PUT", "/session/?uncompress=true", "files", "x.tar", archive.getvalue()))


@pytest.mark.parametrize(
    "path", ["/batch/infer/liver_ct_two_stage?images=all", "/scoring/uncertainty", f"/train/{SEG}"]
)
@pytest.mark.parametrize(
    "params",
    [
        {"label_tag": "../../secret"},
        {"images": ["../../secret/volume-0"]},
        {SEG: {"model_filename": "../x.pt"}},
        {"learning_rate": "$open('planted', 'w')"},
        {"batch_size": {"_target_": "os.mkdir", "path": "planted"}},
        {"tracking": "%planted.json"},
        {"bundle_path": "planted"},
        ["a list"],
    ],
    ids=lambda params: str(params)[:30],
)
def test_parameters_of_tasks_name_no_files_and_run_nothing(plain, path, params):
    refused(plain.ask_json("POST", path, params))
    refused(plain.ask("POST", path, json.dumps(params)))  # as whatever type it comes


def test_code_of_clients_is_not_run(plain):
    """A file left by an upload, and put on the Python path of the next task, once ran."""
    plain.client.create_session(str(write(plain.root / "tmp-planted" / "sitecustomize.py", marker(plain))))
    (planted,) = plain.sessions.glob("*/sitecustomize.py")
    params = {"bundle_path": str(planted.parent), "max_batch_size": 1, "max_workers": 1}
    answer = plain.ask_json("POST", "/batch/infer/liver_ct_prob_mask?images=all", params)
    time.sleep(5)
    assert not (plain.secret / "it-ran").exists()
    refused(answer)


def marker(site: Site) -> str:
    """Code that leaves a file."""
    return f"open({str(site.secret / 'it-ran')!r}, 'w').close()"


def write(path: Path, text: str) -> Path:
    """A file of this text."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("option, value, line", [
    ("learning_rate", [0.1], "learning_rate: '[0.1]' is not a number."),
    ("val_split", 1, "val_split: 1 leaves none to learn from, or is no share."),
])  # fmt: skip
def test_options_of_a_training_are_numbers(plain, option, value, line):
    assert plain.ask_json("POST", f"/train/{SEG}", {option: value})[0] == 200
    status = wait_for(plain.client.train_status, lambda task: task["status"] not in ("SUBMITTED", "RUNNING"))
    assert status["status"] == "ERROR" and line in "".join(status["details"])


def test_the_bundles_own_weights_are_not_deleted(plain):
    refused(plain.ask("DELETE", f"/model/{SEG}"), 404)
    assert (plain.root / "bundles" / "liver_seg" / "models" / "model.pt").is_file()


@pytest.mark.parametrize("model", ["..%2F..%2Fx", "%2e%2e", "..", "spleen", "..%5Cx", "a%00"])
def test_models_are_those_that_are_listed(plain, model):
    for method in ("GET", "DELETE"):
        assert 400 <= plain.ask(method, f"/model/{model}")[0] < 500
    assert 400 <= plain.upload("PUT", f"/model/{model}", "file", "model.pt", b"hostile")[0] < 500


def test_unknown_images_and_labels_are_not_found(plain):
    assert "volume-9" in refused(plain.ask("DELETE", "/datastore/image?id=volume-9"), 404)
    refused(plain.upload("PUT", "/datastore/label?image=volume-9", "label", "x.nii.gz", b"x"), 404)


def test_a_file_where_the_server_was_started_is_no_study(plain):
    assert Path("pyproject.toml").exists()  # the tests' own folder is the server's
    assert "where the server was started" in refused(plain.ask("POST", f"/infer/{SEG}?image=pyproject.toml"))
    params = json.dumps({"label": "pyproject.toml"})
    answer = plain.upload("POST", "/infer/liver_tumor_ct_classification", "file", "x.nii.gz", b"", params=params)
    assert "where the server was started" in refused(answer)


def test_good_names_pass(plain):
    for name in ("näme", "a b", "100%25", "$_$", "-rf", "a..b", "1.2.840"):
        content = (plain.studies / "volume-0.nii.gz").read_bytes()
        answer = plain.upload("PUT", f"/datastore/image?image={quote(name)}", "file", "/tmp/whole/path.nii.gz", content)
        assert answer[0] == 200, answer
        got = requests.get(f"{plain.client.get_server_url()}/datastore/image", {"image": name}, timeout=30)
        assert got.content == content and (plain.studies / f"{name}.nii.gz").exists()
        assert plain.upload("PUT", f"/datastore/label?image={quote(name)}&tag=draft", "label", "l.nrrd", b"x")[0] == 200
        assert (plain.studies / "labels" / "draft" / f"{name}.nrrd").exists()
        assert plain.ask("DELETE", f"/datastore/image?id={quote(name)}")[0] == 200
        assert not (plain.studies / f"{name}.nii.gz").exists()


@pytest.mark.parametrize("method, path", [("GET", "/info/"), ("POST", "/reload"), ("DELETE", "/datastore/image?id=x")])
@pytest.mark.parametrize("origin", [FOE, "null", "http://localhost:1", "https://127.0.0.1"])
def test_pages_of_other_origins_are_refused(plain, method, path, origin):
    status, line, headers = plain.ask(method, path, headers={"Origin": origin})
    assert status == 403 and "LIVER_CT_ORIGINS" in line
    assert not [name for name in headers if name.lower().startswith("access-control")]
    asks = {"Origin": origin, "Access-Control-Request-Method": method}
    status, _, headers = plain.ask("OPTIONS", path, headers=asks)
    assert 400 <= status < 500 and "access-control-allow-origin" not in {name.lower() for name in headers}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_name_that_only_leads_here_is_refused(plain, host):
    assert "not an address of this server" in refused(plain.ask("GET", "/info/", headers={"Host": host}), 403)


def test_its_own_pages_pass(plain):
    for host in (f"127.0.0.1:{plain.port}", f"localhost:{plain.port}", "localhost:9000"):  # the last: a tunnel
        assert plain.ask("GET", "/info/", headers={"Host": host, "Origin": f"http://{host}"})[0] == 200
    assert plain.ask("GET", "/ohif/")[0] == plain.ask("GET", "/")[0] == 200
    assert plain.ask("GET", "/auth/")[0] == 404  # tells clients that there is no login


def own_address() -> str:
    """This machine's address in its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("no network")
        return probe.getsockname()[0]


def test_other_machines_need_a_token(plain):
    assert "LIVER_CT_TOKEN" in refused(plain.ask("GET", "/info/", host=own_address()), 403)


class DicomServer(BaseHTTPRequestHandler):
    """An empty DICOMweb server that remembers what it was asked."""

    asked: list[tuple[str, dict]]

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers)))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def closed(tmp_path_factory) -> Iterator[Site]:
    """With a token, an origin let in, and a limit."""
    root = tmp_path_factory.mktemp("closed")
    for name in ("bundles", "src"):
        (root / name).symlink_to(ROOT / name)
    DicomServer.asked = []
    dicom = ThreadingHTTPServer(("127.0.0.1", 0), DicomServer)
    threading.Thread(target=dicom.serve_forever, daemon=True).start()
    settings = {"LIVER_CT_TOKEN": TOKEN, "LIVER_CT_ORIGINS": f"{FRIEND} http://other.example/"}
    settings |= {"LIVER_CT_MAX_UPLOAD_MB": "1", "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(root / "cache")}
    studies = f"http://127.0.0.1:{dicom.server_port}/dicom-web"
    with serve(copy_app(root / "apps" / "monailabel"), studies, root, **settings) as client:
        site = Site(root, client)
        site.dicom = studies
        yield site
    dicom.shutdown()


ADDRESSES = (
    "/ /info/ /docs /openapi.json /favicon.ico /static/ohif/index.html /ohif/ /ohif/viewer /datastore/ /logs/ /model/x "
    "/train/ /session/x /proxy/dicom/studies /auth/token/valid /nowhere"
)


@pytest.mark.parametrize("path", ADDRESSES.split())
def test_every_address_asks_for_the_token(closed, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKEN}x"}):
        status, line, about = closed.ask("GET", path, headers=headers)
        assert status == 401 and "token" in line and about["www-authenticate"].startswith("Basic")
    assert closed.ask("GET", path, headers=BEARER)[0] != 401


def test_reload_and_preflight_with_a_token(closed):
    assert closed.ask("POST", "/reload")[0] == 401
    asks = {"Origin": FRIEND, "Access-Control-Request-Method": "POST"}
    assert closed.ask("OPTIONS", "/info/", headers=asks)[2]["access-control-allow-origin"] == FRIEND


def test_a_browser_sends_the_token_as_password(closed):
    for scheme, word, status in (("Basic", TOKEN, 200), ("basic", TOKEN, 200), ("Basic", "no", 401)):
        secret = base64.b64encode(f"anyone:{word}".encode()).decode()
        assert closed.ask("GET", "/ohif/", headers={"Authorization": f"{scheme} {secret}"})[0] == status
    assert closed.ask("GET", "/info/", headers={"Authorization": "Basic %%%"})[0] == 401


def test_slicer_logs_in_with_the_token(closed):
    client = MONAILabelClient(closed.client.get_server_url())
    assert client.auth_enabled() and not client.auth_valid_token()
    with pytest.raises(MONAILabelClientException):
        client.auth_token("anyone", "wrong")
    client.update_auth(client.auth_token("anyone", TOKEN))
    assert client.auth_valid_token() and SEG in client.info()["models"]


def test_a_training_asks_for_the_scoring_after_it_with_the_token(closed):
    app = closed.root / "apps" / "monailabel"
    settings = {"MONAI_LABEL_APP_DIR": str(app), "MONAI_LABEL_STUDIES": closed.dicom, "LIVER_CT_TOKEN": TOKEN}
    settings |= {"MONAI_LABEL_SERVER_PORT": str(closed.port), "PYTHONPATH": f"{app}:{ROOT / 'src'}"}
    settings |= {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(closed.root / "cache")}
    code = "from monailabel.interfaces.utils.app import app_instance as app; print(app().async_scoring('uncertainty'))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True)
    assert "'status': 'SUBMITTED'" in done.stdout, done.stderr[-2000:]


def test_origins_let_in_by_name_and_no_other(closed):
    status, _, headers = closed.ask("GET", "/info/", headers={**BEARER, "Origin": FRIEND})
    assert status == 200 and headers["access-control-allow-origin"] == FRIEND
    assert closed.ask("GET", "/info/", headers={**BEARER, "Host": "viewer.example"})[0] == 200  # a proxy before it
    assert closed.ask("GET", "/info/", headers={**BEARER, "Origin": FOE})[0] == 403


@pytest.mark.parametrize("path", ["../instances", "%2e%2e/instances", "%252e%252e/instances", "a%5c..%5cinstances"])
def test_the_proxy_stays_at_its_dicomweb_address(closed, path):
    for kind in ("", "wado/", "qido/", "stow/"):
        for method in ("GET", "POST"):
            refused(closed.ask(method, f"/proxy/dicom/{kind}{path}", headers=BEARER))
    assert closed.ask("GET", "/proxy/dicom/qido/studies", headers=BEARER)[0] == 200
    assert {asked.split("/")[1] for asked, _ in DicomServer.asked} == {"dicom-web"}


def test_the_token_does_not_reach_the_dicom_server(closed):
    assert closed.ask("POST", "/proxy/dicom/stow/studies", b"{}", BEARER)[0] == 200
    assert not [about for _, about in DicomServer.asked if TOKEN in str(about)]


def chunks(size: int) -> Iterator[bytes]:
    """A body whose size is not told."""
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.nii.gz"\r\n\r\n'
    for _ in range(size // 1024):
        yield bytes(1024)
    yield b"\r\n--b--\r\n"


def test_size_of_an_upload_is_bounded(closed):
    url, kind = f"{closed.client.get_server_url()}/datastore/image?image=big", "multipart/form-data; boundary=b"
    for size, fine in ((1 << 19, True), (1 << 21, False)):
        for body in (b"".join(chunks(size)), chunks(size)):
            answer = requests.put(url, data=body, headers={**BEARER, "Content-Type": kind}, timeout=60)
            assert answer.status_code == (200 if fine else 413), answer.text
    assert not [file for file in (closed.root / "cache").rglob("big*") if file.stat().st_size > 1 << 20]
    assert answers(closed.client)


def test_size_of_any_other_body_is_bounded_too(plain):
    assert plain.ask_json("POST", "/scoring/uncertainty", {"client_id": "x" * (1 << 21)})[0] == 413


@pytest.mark.parametrize(
    "setting", [{"LIVER_CT_ORIGINS": "*"}, {"LIVER_CT_MAX_UPLOAD_MB": "lots"}], ids=lambda setting: next(iter(setting))
)
def test_settings_that_cannot_be_used_stop_the_start(tmp_path, setting):
    for name in ("bundles", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "studies").mkdir()
    server = serve(copy_app(tmp_path / "apps" / "monailabel"), tmp_path / "studies", tmp_path, **setting)
    with pytest.raises(AssertionError, match=next(iter(setting))), server:
        pass
