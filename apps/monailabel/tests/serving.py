"""The real server, started for the tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from monailabel.client import MONAILabelClient

ROOT = Path(__file__).resolve().parents[3]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def wait_for(ask: Callable[[], Any], fine: Callable[[Any], bool], seconds: float = 300) -> Any:
    """Ask until the answer is fine."""
    end = time.monotonic() + seconds
    while not fine(answer := ask()):
        assert time.monotonic() < end, f"still {answer}"
        time.sleep(0.5)
    return answer


def copy_app(folder: Path) -> Path:
    """The app without what a server left in it."""
    left = shutil.ignore_patterns("model", "logs", "bin", "tests", "__pycache__")
    return Path(shutil.copytree(ROOT / "apps" / "monailabel", folder, ignore=left))


def free_port() -> int:
    """A port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(
    app: Path, studies: str | Path, folder: Path, host: str = "127.0.0.1", **environment: str
) -> Iterator[MONAILabelClient]:
    """A client of the real server, started as the README says, on a free port, of loopback as a rule."""
    port = str(free_port())
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", host, "--port", port]
    with (folder / "server.log").open("w") as log:
        settings = {**os.environ, **ONE_THREAD, **environment}
        server = subprocess.Popen(command, stdout=log, stderr=log, env=settings, start_new_session=True)
        client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=tempfile.mkdtemp(dir=folder))
        if token := environment.get("LIVER_CT_TOKEN"):
            client.update_auth({"token_type": "Bearer", "access_token": token})
        try:
            wait_for(lambda: answers(client) or server.poll() is not None, bool, 120)
            assert server.poll() is None, (folder / "server.log").read_text()[-3000:]
            yield client
            assert server.poll() is None, (folder / "server.log").read_text()[-3000:]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)  # also a scoring that still runs
            server.wait(30)


def answers(client: MONAILabelClient) -> bool:
    """Whether the server is there."""
    try:
        return bool(client.info())
    except OSError:
        return False
