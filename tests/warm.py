"""Python programs that use MONAI without the five seconds of its imports, which many tests would wait for.

A process that has imported MONAI forks for each call; the fork is what a new process would be then, but that it leaves
MONAI's modules to the system at its end, whose tidying takes another two seconds. Tests of how a process starts, is
killed or ends use processes of their own.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

IMPORTS = (
    "torch", "monai.bundle", "monai.data", "monai.engines", "monai.handlers", "monai.inferers", "monai.losses",
    "monai.networks.nets", "monai.transforms", "ignite.engine", "ignite.metrics", "nibabel",
)  # fmt: skip
TORCHRUN = (__file__, "torchrun")  # before the words that two processes are to be
ONE_AT_A_TIME = threading.Lock()
ended: list[int] = []  # exit status of the job that this process became


def python(*words: object, cwd: str | Path = ".", **env: str) -> subprocess.CompletedProcess:
    """``python`` with these words, a script or -m and a module first, with one thread, in ``cwd``."""
    with TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        job = {"words": [*map(str, words)], "cwd": str(Path(cwd).resolve()), "files": files}
        job["env"] = {**os.environ, **env, "OMP_NUM_THREADS": "1"}
        with ONE_AT_A_TIME:
            waiting = server()
            waiting.stdin.write(json.dumps(job) + "\n")
            waiting.stdin.flush()
            code = int(waiting.stdout.readline())
        return subprocess.CompletedProcess(job["words"], code, *(Path(file).read_text() for file in files))


@cache
def server() -> subprocess.Popen:
    """The process that has imported MONAI; it ends when its input does."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = subprocess.Popen([sys.executable, __file__], env=env, **pipes)
    atexit.register(started.stdin.close)
    return started


def serve() -> None:
    """Fork for each job on stdin, and answer with its exit status."""
    atexit.register(leave)  # before all others, so that it is called after them
    for name in IMPORTS:
        __import__(name)
    gc.freeze()  # a collection in a fork would copy all of that
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def leave() -> None:
    """End a fork at once."""
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


def become(job: Mapping) -> None:
    """Run a job in this process."""
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(job["files"], start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    try:
        call(*job["words"])
        ended.append(0)
    except SystemExit as stop:
        ended.append(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
        raise
    except BaseException:
        ended.append(1)
        raise


def call(first: str, *words: str) -> None:
    """Do what Python does with these words."""
    if first == "-m":
        sys.path[0], sys.argv = str(Path.cwd()), [*words]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(first).parent), [first, *words]
        runpy.run_path(first, run_name="__main__")


def torchrun(words: Sequence[str]) -> None:
    """Become two processes that know of each other as ``torchrun --standalone --nproc_per_node=2`` lets them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    children = set()
    for rank in ("0", "1"):
        child = os.fork()
        if child == 0:
            os.environ.update(known, RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2")
            return call(*words)
        children.add(child)
    failed = False
    while children:
        child, status = os.wait()
        children.discard(child)
        if status and not failed:
            failed = True
            for other in children:
                os.kill(other, signal.SIGTERM)
    sys.exit(failed)


if __name__ == "__main__":
    torchrun(sys.argv[2:]) if sys.argv[1:2] == ["torchrun"] else serve()
