"""Promises of scripts/pacs.py: each series that fits is done once and its results are stored once, whatever is killed;
what does not fit or cannot be used has its line; patient data go nowhere else."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pacs
import pydicom
import pytest
from programs import program
from pydicom.uid import generate_uid
from test_cascade import bundles  # noqa: F401
from test_dicom import BRING_LOOPBACK_UP

from liver_ct import phantom
from liver_ct.chain.progress import Progress
from liver_ct.errors import StudyError
from liver_ct.outputs import folders
from liver_ct.pacs import connection, dicomweb, orthanc, steps, worker
from liver_ct.pacs.rules import Rules, read_rules
from liver_ct.pacs.servers import AwayError, News
from liver_ct.pacs.state import Outcome, State

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (64, 64, 40), (6.0, 6.0, 6.0)
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
URL = "http://127.0.0.1:8042"
SECRET = "Secret"


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> list[pydicom.Dataset]:
    """The slices of a phantom."""
    ct, _, affine = phantom.make_phantom(SIZE, SPACING)
    files = phantom.write_dicom_series(tmp_path_factory.mktemp("phantom"), ct, affine)
    return [pydicom.dcmread(file) for file in files]


def series_of(slices: list[pydicom.Dataset], folder: Path | None = None, **values) -> list[bytes]:
    """Another series of another study and patient with these slices, as files; in a folder, too, if there is one."""
    study, series, frame = (generate_uid() for _ in range(3))
    files = []
    for number, header in enumerate(slices):
        header = copy.deepcopy(header)
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        header.PatientID, header.PatientName = f"{SECRET}{study[-8:]}", f"{SECRET}^Name"
        header.update(values)
        stream = BytesIO()
        header.save_as(stream, enforce_file_format=True)
        files.append(stream.getvalue())
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03d}").write_bytes(files[-1])
    return files


# ---------------------------------------------------------------------------------------------------- the real Orthanc

# Runs beside the server: sends folders to it, deletes, or prints what its REST interface answers.
CLIENT = """
import pathlib, sys, urllib.request
url, what, *words = sys.argv[1:]
if what == "send":
    for file in sorted(file for word in words for file in pathlib.Path(word).iterdir()):
        urllib.request.urlopen(urllib.request.Request(url + "/instances", file.read_bytes())).read()
elif what == "delete":
    urllib.request.urlopen(urllib.request.Request(url + words[0], method="DELETE")).read()
else:
    print("[" + ",".join(urllib.request.urlopen(url + word).read().decode() for word in words) + "]")
"""


class Network:
    """A network of its own, which has nothing but loopback, with an Orthanc that can be stopped and started in it."""

    def __init__(self, folder: Path, bundles: dict[str, str]) -> None:  # noqa: F811
        self.knobs = [word for key, value in bundles.items() for word in (f"--{key}", value)]
        self.orthanc = program("Orthanc", "orthanc")
        if not PLUGIN.exists():
            program("orthanc-dicomweb", "orthanc-dicomweb")
        self.folder, self.root = folder, os.geteuid() == 0
        config = {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": [str(PLUGIN)],
            "DicomServerEnabled": False, "HttpPort": 8042, "RemoteAccessAllowed": False, "StableAge": 1,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(config))
        apart = ["unshare", "--net"] if self.root else ["unshare", "--user", "--map-root-user", "--net"]
        if subprocess.run([*apart, "true"], capture_output=True).returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("this system allows no network namespace")
        hold = [sys.executable, "-c", f"{BRING_LOOPBACK_UP.replace('sys.argv[1:]', '[sys.argv[1], *sys.argv[2:]]')}"]
        ready = [shutil.which("sh"), "-c", "echo ready; exec sleep 3600"]
        self.holder = subprocess.Popen([*apart, *hold, *ready], stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"  # before that, whoever enters may find the old network still
        self.log = (folder / "log").open("w")
        self.workers: list[subprocess.Popen] = []

    def start(self, *command: str | Path, **knobs) -> subprocess.Popen:
        """Run a program in the network."""
        user = [] if self.root else ["--user", "--preserve-credentials"]
        enter = ["nsenter", "--target", str(self.holder.pid), "--net", *user]
        return subprocess.Popen([*enter, *map(str, command)], text=True, **knobs)

    def start_server(self) -> None:
        deadline = time.monotonic() + 60
        self.server = self.start(self.orthanc, self.folder / "orthanc.json", stdout=self.log, stderr=self.log)
        while self.client("get", "/system", check=False) is None:
            assert self.server.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.2)

    def stop_server(self) -> None:
        self.server.terminate()
        self.server.wait(30)

    def client(self, *words: str | Path, check: bool = True) -> str | None:
        """What the client prints; None where it fails."""
        command = [sys.executable, "-S", "-c", CLIENT, URL, *words]
        running = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        text = running.communicate(timeout=120)[0]
        assert running.returncode == 0 or not check
        return text if running.returncode == 0 else None

    def get(self, *paths: str) -> list:
        return json.loads(self.client("get", *paths))

    def watch(self, state: Path, *words: str, server: str = URL) -> subprocess.Popen:
        """A worker; its lines are in a file beside the state."""
        log = state.with_name(f"{state.name}.{len(self.workers)}.log").open("w")
        command = [sys.executable, ROOT / "scripts" / "pacs.py", "watch", "--server", server, "--state", state]
        command += ["--device", "cpu", "--poll", "0.5", "--settle", "2", *self.knobs, *words]
        self.workers.append(self.start(*command, stdout=log, stderr=log))
        return self.workers[-1]

    def results(self) -> dict[str, list[str]]:
        """SeriesInstanceUID of each CT to what the other series in its study are."""
        every = self.get("/series?expand")[0]
        cts = {
            each["ParentStudy"]: each["MainDicomTags"] for each in every if each["MainDicomTags"]["Modality"] == "CT"
        }
        found: dict[str, list[str]] = {tags["SeriesInstanceUID"]: [] for tags in cts.values()}
        for each in every:
            tags = each["MainDicomTags"]
            if tags["Modality"] != "CT":
                assert len(each["Instances"]) == 1
                found[cts[each["ParentStudy"]]["SeriesInstanceUID"]].append(
                    f"{tags['Modality']} {tags['SeriesDescription']}"
                )
        return {uid: sorted(series) for uid, series in found.items()}

    def close(self) -> None:
        for process in (*self.workers, self.server, self.holder):
            process.kill()
            process.wait(30)
        self.log.close()


@pytest.fixture
def network(tmp_path, bundles) -> Iterator[Network]:  # noqa: F811
    (tmp_path / "pacs").mkdir()
    network = Network(tmp_path / "pacs", bundles)
    network.start_server()
    yield network
    network.close()


def lines_of(state: Path) -> list[str]:
    """What all workers of a state printed."""
    return [line for log in sorted(state.parent.glob(f"{state.name}.*.log")) for line in log.read_text().splitlines()]


def one_set(found: dict[str, list[str]]) -> bool:
    """Whether all studies have the same results, each once: the phantoms are alike."""
    ((*series,),) = {tuple(series) for series in found.values()}
    return len(series) == len({*series}) and [each[:3] for each in series].count("SR ") == 1 and len(series) >= 3


def wait_for(what: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def done_in(state: Path) -> int:
    return sum("results stored" in line for line in lines_of(state))


@pytest.mark.slow
def test_twenty_studies_two_workers_a_kill_and_a_restart_of_the_server(network, slices, tmp_path, capsys):
    state = tmp_path / "state"
    sources = [tmp_path / "in" / str(number) for number in range(20)]
    for source in sources:
        series_of(slices, source)
    short = tmp_path / "in" / "short"  # a slice is missing
    series_of([*slices[:9], *slices[10:]], short)
    first, second = (network.watch(state) for _ in range(2))
    network.client("send", *sources[:8], short)
    wait_for(lambda: done_in(state) >= 2)
    first.send_signal(signal.SIGKILL)  # in the midst of a series, most likely
    network.client("send", *sources[8:14])
    third = network.watch(state)
    wait_for(lambda: done_in(state) >= 7)
    network.client("send", *sources[14:])
    network.stop_server()
    wait_for(lambda: any("Trying again until it works" in line for line in lines_of(state)))
    network.start_server()
    wait_for(lambda: done_in(state) >= 19)  # of 20, a line may have died with the first
    network.watch(state, "--once").wait(600)
    for each in (second, third):
        each.send_signal(signal.SIGTERM)
    assert (second.wait(60), third.wait(60)) == (130, 130)

    found = network.results()
    incomplete = str(pydicom.dcmread(next(short.iterdir())).SeriesInstanceUID)
    assert found.pop(incomplete) == []
    assert len(found) == 20 and one_set(found)
    printed = "\n".join(lines_of(state))
    assert SECRET not in printed and "Traceback" not in printed
    assert 1 <= printed.count("Trying again until it works") <= 3  # of each worker, one
    assert printed.count("going on") == printed.count("Trying again until it works")
    refused = [line for line in lines_of(state) if line.startswith(f"ERROR {incomplete}")]
    assert len(refused) == 1 and "some are missing" in refused[0]
    assert sorted(path.name for path in state.iterdir()) == ["pacs.db", "results"] and not [
        *(state / "results").iterdir()
    ]

    # what is sent again is not done again, nor what was deleted and is sent again
    before, counts = network.results(), network.get("/statistics")
    for each in network.get("/series?expand")[0][:20]:
        if each["MainDicomTags"]["Modality"] == "CT":
            network.client("delete", f"/series/{each['ID']}")
    network.client("send", *sources, short)
    assert network.watch(state, "--once").wait(600) == 0
    assert network.results() == before and network.get("/statistics") == counts
    pacs.status(str(state))
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["refused"], told["waiting"]) == (20, 1, 0)
    assert told["no CT"] == sum(map(len, before.values()))
    assert "some are missing" in told["reasons"][0]["reason"]


def test_another_dicomweb_server(network, slices, tmp_path):
    sources = [tmp_path / "in" / str(number) for number in range(3)]
    for source in sources:
        series_of(slices, source)
    network.client("send", *sources)
    words = ["--dicomweb", "true", "--once"]
    workers = [network.watch(tmp_path / "state", *words, server=f"{URL}/dicom-web") for _ in range(2)]
    assert [worker.wait(600) for worker in workers] == [0, 0], lines_of(tmp_path / "state")
    found = network.results()
    assert len(found) == 3 and one_set(found)
    assert network.watch(tmp_path / "state", *words, server=f"{URL}/dicom-web").wait(600) == 0
    assert network.results() == found and done_in(tmp_path / "state") == 3


# ------------------------------------------------------------------------------------------- a server that goes wrong

NOW = "20260101T120000"


class Fake(ThreadingHTTPServer):
    """As much of an Orthanc as a worker asks for, on loopback; ``fault`` says what goes wrong with a request: a status,
    or "cut" for an answer that ends too early."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.series: dict[str, list[bytes]] = {}
        self.changes: list[dict] = []
        self.stored: list[tuple[str, str, str]] = []  # study, kind, SOPInstanceUID
        self.asked: list[str] = []
        self.headers: list[dict] = []
        self.fault: Callable[[str, str], int | str | None] = lambda method, path: None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: list[bytes]) -> None:
        self.series[name] = files
        seq = len(self.changes) + 1
        self.changes.append({"ChangeType": "StableSeries", "ID": name, "Seq": seq, "ResourceType": "Series"})

    def uid(self, name: str) -> str:
        return str(pydicom.dcmread(BytesIO(self.series[name][0])).SeriesInstanceUID)

    def doubled(self) -> bool:
        """Whether a study has two of one kind of result."""
        objects = {*self.stored}
        return len(objects) > len({(study, kind) for study, kind, _ in objects})

    def reports(self) -> int:
        """How many sets of results there are, by the object that comes once in each."""
        return len({uid for _, kind, uid in self.stored if kind.startswith("SR ")})

    def answer(self, path: str):
        """What a GET is answered: bytes or JSON."""
        route, _, query = path.partition("?")
        _, kind, *rest = route.split("/")
        if kind == "system":
            return {"Version": "fake"}
        if kind == "changes":
            since = int(query.split("since=")[1].split("&")[0])
            return {"Changes": self.changes[since:], "Done": True, "Last": len(self.changes)}
        if kind == "tools":
            return NOW.encode()
        if kind == "instances":
            name, _, number = rest[0].partition(".")
            return self.series[name][int(number)]
        headers = [pydicom.dcmread(BytesIO(file), stop_before_pixels=True, force=True) for file in self.series[rest[0]]]
        if len(rest) == 2:
            return [
                {"ID": f"{rest[0]}.{i}", "FileUuid": str(hash(file)), "MainDicomTags": {"SOPInstanceUID": f"1.{i}"}}
                for i, file in enumerate(self.series[rest[0]])
            ]
        tags = {"Modality": "CT", "SeriesInstanceUID": str(headers[0].get("SeriesInstanceUID", "1.2"))}
        return {"MainDicomTags": tags, "IsStable": True, "LastUpdate": "20260101T110000"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(lambda: self.server.answer(self.path))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))

        def store():
            header = pydicom.dcmread(BytesIO(body), stop_before_pixels=True)
            kind = f"{header.Modality} {header.SeriesDescription}"
            self.server.stored.append((header.StudyInstanceUID, kind, header.SOPInstanceUID))
            return {"Status": "Success"}

        self.reply(store)

    def reply(self, make: Callable) -> None:
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers))
        fault = self.server.fault(self.command, self.path)
        try:
            content = b"" if isinstance(fault, int) else make()
        except (KeyError, IndexError):
            fault, content = 404, b""
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(fault if isinstance(fault, int) else 200)
        self.send_header("Content-Length", str(len(content)))
        if fault == 302:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection = fault == "cut"


@pytest.fixture
def fake(monkeypatch) -> Iterator[Fake]:
    monkeypatch.setattr(steps, "LONGEST", 0.01)
    monkeypatch.setattr(worker, "LONGEST", 0.01)
    server = Fake()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def watch(fake, bundles, tmp_path):  # noqa: F811
    """A worker in this process that does what is there; returns its exit status."""

    def run(**knobs) -> int:
        knobs = {"server": fake.url, "state": str(tmp_path / "state"), "device": "cpu", **bundles, **knobs}
        try:
            pacs.watch(once=True, poll=0.01, **knobs)
        except SystemExit as e:
            if isinstance(e.code, str):
                sys.stderr.write(f"{e.code}\n")
                return 1
            return e.code
        return 0

    return run


def test_what_goes_wrong_with_one_series_does_not_stop_the_others(fake, watch, slices, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(steps, "TRIES", 3)
    names = ("good", "cut", "broken", "gone", "junk", "mr", "thick", "unstored")
    for name in names:
        fake.add(name, series_of(slices))
    fake.series["junk"] = [b"no DICOM at all" * 100] * 5
    fake.series["mr"] = series_of(slices, Modality="MR")
    fake.series["thick"] = series_of(slices, SliceThickness=7.5)
    seen = Counter()
    last = [""]

    def fault(method: str, path: str) -> int | str | None:
        seen[path] += 1
        if path == "/instances/cut.3/file" and seen[path] == 1:
            return "cut"
        if method == "POST":
            return 400 if last[0].startswith("/instances/unstored") else None
        last[0] = path
        return {"/instances/broken.5/file": 500, "/instances/gone.7/file": 404}.get(path)

    fake.fault = fault
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"slice_thickness": {"max": 7}, "description": {"any": ["PORTAL"], "none": ["lung"]}}))
    assert watch(rules=str(file)) == 1
    printed = capfd.readouterr()
    out, err = printed.out.splitlines(), printed.err.splitlines()
    assert SECRET not in printed.out + printed.err
    lines = {name: [line for line in err + out if fake.uid(name) in line] for name in names if name != "junk"}
    for name in ("good", "cut"):
        assert re.fullmatch(r".*: 40 slices, \d+ results stored", lines[name][-1])
    assert "broke off" in lines["cut"][0] and "Trying again later" in lines["cut"][0]
    assert len(lines["broken"]) == 3 and "HTTP 500" in lines["broken"][-1] and lines["broken"][-1].startswith("ERROR")
    assert lines["gone"] == [f"{fake.uid('gone')}: no longer on the server"]
    assert "no CT" in lines["mr"][0]
    assert lines["thick"] == [f"{fake.uid('thick')}: passed over, slice_thickness is not as the rules want it"]
    assert "HTTP 400" in lines["unstored"][-1]
    assert len([line for line in err if "no DICOM" in line]) == 1
    assert len(fake.stored) == len({*fake.stored}) and fake.reports() == 2 and not fake.doubled()
    assert not [*(tmp_path / "state" / "results").iterdir()] and not (tmp_path / "state" / "incoming").exists()

    asked = len(fake.asked)
    assert watch(rules=str(file)) == 0  # all of it is remembered, and why
    assert len(fake.asked) - asked <= 3 and not capfd.readouterr().err
    pacs.status(str(tmp_path / "state"))
    told = json.loads(capfd.readouterr().out)
    assert (told["done"], told["refused"], told["unfit"], told["gone"]) == (2, 4, 1, 1)
    assert all(each["reason"] for each in told["reasons"])

    file.write_text("{}")  # other rules, and refused ones again
    fake.fault = lambda method, path: None
    assert watch(rules=str(file), retry=True) == 1
    out = capfd.readouterr().out
    assert [name for name in names if name != "junk" and f"{fake.uid(name)}: 40 slices" in out] == [
        "broken", "thick", "unstored"
    ]  # fmt: skip


def one_step(fake: Fake, state: State, chain: Callable[[Path, str], Path], fault: int | None = None) -> steps.Steps:
    """What a worker does for the only series, after which the server answers nothing but a fault, if there is one."""
    server = orthanc.Orthanc(connection.Connection(fake.url), 0)
    state.note(server.news(""))
    fake.fault = lambda method, path: fault
    each = steps.Steps(server, state, Rules({}), chain, steps.Options(), Progress())
    (state.file.parent / "incoming").mkdir()
    each.advance(state.row(1), state.file.parent / "incoming")
    return each


@pytest.mark.parametrize("cause", [OSError(errno.ENOSPC, "No space left on device"), MemoryError()], ids=repr)
def test_what_the_machine_lacks_is_no_fault_of_a_series(fake, slices, tmp_path, cause):
    """A bundle that cannot write, or has too little memory, says so in a StudyError."""

    def chain(source: Path, case: str) -> Path:
        raise StudyError(f"{source}: cannot be done. Do something.") from cause

    fake.add("a", series_of(slices[:3]))
    state = worker.open_state(tmp_path / "state", fake.url)
    lacks = pytest.raises(AwayError, match="cannot be done") if isinstance(cause, OSError) else nullcontext()
    with lacks as away:
        assert one_step(fake, state, chain).refused == 0
    assert state.row(1).outcome == "" and state.is_waiting()
    assert not isinstance(cause, OSError) or away.value.wholly


@pytest.mark.parametrize("status", [302, 404])
def test_what_a_proxy_says_instead_of_the_server_is_no_fault_of_a_series(fake, slices, tmp_path, status):
    fake.add("a", series_of(slices[:3]))
    state = worker.open_state(tmp_path / "state", fake.url)
    with pytest.raises(AwayError) as away:
        one_step(fake, state, lambda source, case: source, status)
    assert away.value.wholly and state.row(1).outcome == "" and state.is_waiting()


class Killed(BaseException):
    """As a kill: nothing that catches errors catches it."""


@pytest.mark.parametrize("moment", ["fetched", "made", "noted", "one sent", "all sent"])
def test_a_kill_at_any_moment_loses_and_doubles_nothing(fake, watch, slices, moment, monkeypatch):
    for name in "ab":
        fake.add(name, series_of(slices))

    def killed(*_: object, **__: object):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "fetched":
            patch.setattr(steps, "content_of", killed)
        elif moment == "made":
            change = State.change
            patch.setattr(
                State, "change", lambda self, row, **new: killed() if new.get("made") else change(self, row, **new)
            )
        elif moment == "noted":
            patch.setattr(steps.Steps, "_send", killed)
        elif moment == "one sent":
            store = orthanc.Orthanc.store
            patch.setattr(orthanc.Orthanc, "store", lambda self, file: killed() if fake.stored else store(self, file))
        else:
            patch.setattr(State, "finish", killed)
        with pytest.raises(Killed):
            watch()
    sent = {*fake.stored}
    assert len(sent) >= {"one sent": 1, "all sent": 3}.get(moment, 0)
    assert watch() == 0
    assert fake.reports() == 2 and not fake.doubled()  # the same objects where they are sent again
    stored = [*fake.stored]
    assert watch() == 0 and fake.stored == stored


def test_more_of_a_series_that_was_done_is_another_result(fake, watch, slices, capfd):
    files = series_of(slices)
    fake.add("a", files[:30])
    assert watch() == 0
    fake.add("a", files)
    assert watch() == 0
    assert fake.reports() == 2
    assert re.findall(r": (\d+) slices, \d+ results stored", capfd.readouterr().out) == ["30", "40"]


def test_results_are_kept_where_that_is_wanted_and_new_ones_alone_are_taken(fake, watch, slices, tmp_path):
    fake.add("old", series_of(slices))
    assert watch(new_only=True, output=str(tmp_path / "out")) == 0 and not fake.stored
    fake.add("new", series_of(slices))
    assert watch(new_only=True, output=str(tmp_path / "out")) == 0 and fake.reports() == 1
    folder = tmp_path / "out" / fake.uid("new")
    assert {"report.html", "report.dcm", "result.json"} <= {path.name for path in folder.iterdir()}
    assert (tmp_path / "out" / "index.html").exists()


def test_a_server_that_goes_away_is_one_line_and_then_waited_for(fake, watch, slices, capfd, monkeypatch):
    fake.add("a", series_of(slices))
    left = [20]

    def away(method: str, path: str) -> int | None:
        left[0] -= method == "POST" or left[0] < 20
        return 503 if 0 < left[0] < 20 else None

    fake.fault = away
    assert watch() == 0
    printed = capfd.readouterr()
    assert printed.err.splitlines() == [
        f"ERROR {fake.url}: cannot do this now (HTTP 503). Trying again until it works."
    ]
    assert f"{fake.url}: going on" in printed.out and fake.reports() == 1 and not fake.doubled()
    monkeypatch.setattr(worker, "GIVE_UP", 0.05)
    fake.fault = lambda method, path: 503
    assert watch() == 1 and "Start again when it works" in capfd.readouterr().err


def test_a_series_that_went_and_comes_again_is_done_then(tmp_path):
    """A DICOMweb server has no log of changes: it may come with as many slices as it had."""
    state, listed = State(tmp_path / "pacs.db"), News((), {"1/2": 40}, "")
    for news, waits in ((listed, True), (listed, False), (News((), {}, ""), False), (listed, True), (listed, False)):
        state.note(news)
        assert bool(state.waiting()) == waits
        if waits:
            state.finish(state.row(1), Outcome.GONE)


@pytest.mark.parametrize("count", [199, 200, 201, 400, 1000])
@pytest.mark.parametrize("knows", [("limit", "offset"), ("limit",), ()], ids=str)
def test_all_of_a_series_is_found_whatever_a_dicomweb_server_knows_of_pages(count, knows):
    class Server:
        server = "http://127.0.0.1"

        def get_json(self, path: str, query: dict, accept: str) -> list[dict]:
            start = query["offset"] if "offset" in knows else 0
            end = start + query["limit"] if "limit" in knows else count
            return [{dicomweb.SOP: {"Value": [f"1.{number}"]}} for number in range(count)[start:end]]

    found = dicomweb.DicomWeb(Server(), 0).series("1/2").instances
    assert [each.uid for each in found] == [f"1.{number}" for number in range(count)]


# ------------------------------------------------------------------------------------------- refused before any work


@pytest.mark.parametrize(
    ("server", "part"),
    [
        ("http://pacs.example:8042", "unencrypted"),
        ("http://10.0.0.1", "--allow_http true"),
        ("https://me:hunter2@pacs.example", "list of processes"),
        ("ftp://127.0.0.1", "not the address"),
        ("127.0.0.1:8042", "not the address"),
        ("http://127.0.0.1:99999", "not the address"),
    ],
)
def test_an_address_that_would_give_data_away_is_refused(server, part, tmp_path):
    with pytest.raises(SystemExit) as ended:
        pacs.watch(server, str(tmp_path / "state"))
    assert part in ended.value.code and "hunter2" not in ended.value.code and len(ended.value.code.splitlines()) == 1
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"descripton": {"any": ["a"]}}', ["descripton", "Did you mean description?"]),
        ('{"description": {"anny": ["a"]}}', ["anny", "Did you mean any?"]),
        ('{"description": "portal"}', ["description", "braces"]),
        ('{"description": {"any": "portal"}}', ["any cannot be that"]),
        ('{"slices": {"min": "many"}}', ["min cannot be that"]),
        ('{"slices": {"min": NaN}}', ["min cannot be that"]),
        ('{"slices": {"min": 9, "max": 3}}', ["min is above max"]),
        ('{"slices": {"min": 9,}}', ["no JSON (line 1)"]),
        ('{"slices": {"min": 9}, "slices": {"max": 99}}', ["slices: stands there twice"]),
        ("[]", ["braces"]),
        ("[" * 100000, ["no JSON"]),
    ],
    ids=range(11),
)
def test_a_rule_that_is_none_is_refused(text, parts, tmp_path):
    file = tmp_path / "rules.json"
    file.write_text(text)
    with pytest.raises(StudyError) as caught:
        read_rules(file)
    assert str(caught.value).startswith(f"{file}: ") and all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("rules", "fits"),
    [
        ({"body_part": {"any": ["liver", "abdomen"]}}, True),
        ({"body_part": {"any": ["CHEST"]}}, False),
        ({"protocol": {"any": [""]}}, True),  # missing
        ({"protocol": {"any": ["x", ""]}, "kernel": {"none": ["", "b60"]}}, True),
        ({"description": {"none": ["VENOUS"]}}, False),
        ({"slices": {"min": 40, "max": 40}}, True),
        ({"slices": {"min": 41}}, False),
        ({"slice_thickness": {"min": 5}}, True),
        ({"image_type": {"none": ["AXIAL"]}}, False),
        ({"series_number": {"max": 0}}, False),
    ],
)
def test_rules_are_compared_as_they_stand(rules, fits, slices):
    assert (Rules(rules).why_not(slices[0], len(slices)) is None) == fits


def test_rules_of_an_editor_of_windows_are_read(tmp_path):
    (tmp_path / "rules.json").write_text('\ufeff{"kvp": {"min": 100}}', encoding="utf-8")
    assert read_rules(tmp_path / "rules.json").fields == {"kvp": {"min": 100}}


def test_the_age_of_a_study(slices):
    assert Rules({}, days=3).why_not(slices[0], 40) == "the study is older than 3 days"
    header = copy.deepcopy(slices[0])
    header.StudyDate = f"{date.today():%Y%m%d}"
    assert Rules({}, days=3).why_not(header, 40) is None


def test_credentials_come_from_file_environment_or_netrc_and_are_sent_to_the_server_alone(fake, tmp_path, monkeypatch):
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"LIVER_CT_PACS_{name}", raising=False)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password fromnetrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    file = tmp_path / "credentials"
    file.write_text("\ufeffme:fromfile\n", encoding="utf-8")  # as an editor of Windows writes it
    assert connection.authorisation(fake.url, None) == ("me", "fromnetrc")
    monkeypatch.setenv("LIVER_CT_PACS_TOKEN", "fromenvironment")
    assert connection.authorisation(fake.url, None) == "fromenvironment"
    with pytest.raises(StudyError, match="others can read"):
        connection.authorisation(fake.url, file)
    file.chmod(0o600)
    assert connection.authorisation(fake.url, file) == ("me", "fromfile")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # no proxy is used
    connection.Connection(fake.url, "token").get_json("/system")
    assert fake.headers[-1]["Authorization"] == "Bearer token"
    connection.Connection(fake.url, ("m\u00fcller", "\u20ac")).get_json("/system")
    assert b64decode(fake.headers[-1]["Authorization"].split()[1]).decode() == "m\u00fcller:\u20ac"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    with pytest.raises(StudyError, match=r"gone.pem: no such file or folder, though REQUESTS_CA_BUNDLE names it"):
        connection.Connection(fake.url)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    fake.fault = lambda method, path: 302
    with pytest.raises(StudyError, match="redirects elsewhere"):
        connection.Connection(fake.url, "token").get_json("/system")


def test_a_state_is_for_one_server_and_a_server_for_its_kind(fake, watch, tmp_path, capfd, monkeypatch):
    assert watch() == 0
    assert watch(server=f"{fake.url}/elsewhere") == 1 and "state of another server" in capfd.readouterr().err
    fake.fault = lambda method, path: 404
    assert watch() == 1 and "not an Orthanc" in capfd.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_take", lambda lock, wait: True)  # as where the system has no locks
        assert watch() == 1 and "without locks" in capfd.readouterr().err
    (tmp_path / "state" / "pacs.db").write_text("no database" * 1000)
    assert watch() == 1 and "pacs.db: cannot be used" in capfd.readouterr().err
