"""Promises of the commands: what is wrong is refused in one line before any work, help is plain text, Ctrl-C is one
line, and ``liver-ct`` is the same code as the scripts."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import liver_ct

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "monai", "matplotlib", "scipy", "numpy")
PROGRAMS = ("cascade", "demo", "lits", "prob_masks", "cross_validate", "train", "study", "phantom", "package", "pacs")
PHANTOM = ("phantom", "make", "--size", "16,16,8", "--spacing=20,20,20", "--tumours", "0")


def liver(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m liver_ct`` with these words, which lists what was imported on stderr."""
    path = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "100"}
    command = [sys.executable, "-X", "importtime", "-m", "liver_ct", *words]
    return subprocess.run(command, env=path, cwd=cwd, capture_output=True, text=True)


def light_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines on stderr, where nothing heavy was imported."""
    imports = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert imports and not imports & {*HEAVY}
    return [line for line in done.stderr.splitlines() if not line.startswith("import time")]


CT = ("cascade", "--input", "ct.nii.gz", "--output", "out")
FOLDS = ("cross_validate", "run", "--masks", "m", "--output", "o")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((*CT, "--jbos", "2"), ["--jbos", "Did you mean --jobs?"]),
        ((*CT, "--mask-sorce=none"), ["--mask_sorce", "Did you mean --mask_source?"]),
        ((*CT, "--nothing_like_it"), ["--nothing_like_it", "liver-ct cascade --help"]),
        ((*CT, "--jobs", "1", "--jobs=2"), ["--jobs", "given twice"]),
        ((*CT, "-i", "other.nii.gz"), ["-i", "given twice"]),
        ((*CT, "--picture", "true", "--nopicture"), ["--nopicture", "given twice"]),
        ((*FOLDS, "--learning_rate", "1", "--learning_rate", "2"), ["--learning_rate", "given twice"]),
        ((*CT, "--jobs", "two"), ["--jobs two", "whole number"]),
        ((*CT, "--picture", "perhaps"), ["--picture perhaps", "true or false"]),
        ((*CT, "--device"), ["--device", "value is missing"]),
        ((*CT, *"abcdefghijkl"), ["one word too many"]),
        (("cascade", "-i", "ct.nii.gz"), ["--output: missing"]),
        (("cascade", "-i", "ct.nii.gz", "-o", ""), ["--output: its value is empty"]),
        ((*CT, "--log_file", "ct.nii.gz/log"), ["--log_file", "Choose another file"]),
        (("phantom", "make", "--output", "o", "--size", "16,x,8"), ["--size 16,x,8", "whole numbers"]),
        ((*FOLDS, "--maks", "n"), ["--maks", "Did you mean --masks?"]),
        ((*FOLDS, "--patiense", "3"), ["--patiense", "Did you mean --patience?"]),
        ((*FOLDS, "--learning_rate", "fast"), ["--learning_rate fast", "not a number"]),
        (("prob_masks",), ["command is missing", "make or unseen or evaluate"]),
        (("prob_masks", "mkae"), ["mkae", "make or unseen or evaluate"]),
        (("casacde",), ["casacde", "Did you mean cascade?"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_refused_in_one_line_before_any_work(words, parts, tmp_path):
    (tmp_path / "ct.nii.gz").touch()
    done = liver(*words, cwd=tmp_path)
    lines = light_lines(done)
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("ERROR ") and not done.stdout
    assert all(part in lines[0] for part in parts)
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]


@pytest.mark.parametrize("program", [CT, ("demo", "--ct", "ct.nii.gz")])
def test_an_input_that_is_not_there_or_never_answers_is_refused_at_once(program, tmp_path):
    done = liver(*program, cwd=tmp_path)
    assert done.returncode == 1 and light_lines(done) == ["ERROR ct.nii.gz: no such file or folder. Check --input."]
    os.mkfifo(tmp_path / "ct.nii.gz")
    done = liver(*program, cwd=tmp_path)
    assert done.returncode == 1 and "a pipe, socket or device" in light_lines(done)[0]
    assert not (tmp_path / "out").exists()


def test_further_knobs_of_the_config_are_taken(tmp_path):
    knobs = ("--patience", "3", "--network_def#filters", "[16,16]", "--optimizer#eps=1e-6")
    done = liver(*FOLDS, *knobs, "--epochs", "few", cwd=tmp_path)
    assert "--epochs few" in light_lines(done)[0]  # the one thing wrong
    done = liver(*FOLDS, *knobs, "--bundle", "none", cwd=tmp_path)
    assert done.returncode == 1 and "ERROR none: no bundle here" in light_lines(done)[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_plain_light_and_complete(name):
    done = liver(name, "--help")
    assert done.returncode == 0 and light_lines(done) == []
    assert done.stdout.startswith(f"Usage: liver-ct {name}") and "--log_file" in done.stdout
    assert "\x1b" not in done.stdout and "``" not in done.stdout and "Args:" not in done.stdout


def test_help_shows_units_and_defaults():
    lines = " ".join(liver("phantom", "make", "-h").stdout.split())
    assert "--spacing X,X,... voxel size in mm along the same axes. (default: 1.5,1.5,3.0)" in lines
    assert "-o, --output TEXT folder to write to. (required)" in lines
    lines = " ".join(liver("cascade", "--help").stdout.split())
    assert "(default: bundles/liver_seg)" in lines and "-i, --input TEXT" in lines and "(default: false)" in lines


def test_all_programs_are_listed():
    done = liver("--help")
    assert done.returncode == 0 and light_lines(done) == []
    assert all(f"\n  {name} " in done.stdout for name in PROGRAMS)


@pytest.mark.parametrize("words", [("--version",), ("cascade", "--version"), ("lits", "prepare", "--version")])
def test_version(words):
    done = liver(*words)
    assert done.stdout == f"liver-ct {liver_ct.__version__}\n" and done.returncode == 0 and light_lines(done) == []


def test_a_script_is_the_same_program(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "lits.py"), "slices"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    command = liver("lits", "slices")
    assert done.returncode == command.returncode == 2
    assert done.stderr.split(" See ")[0] == light_lines(command)[0].split(" See ")[0]


@pytest.mark.parametrize("output", [("-o", "out"), ("--output=out",), ("-o=out",), ("out",)])
def test_ways_to_write_an_option(output, tmp_path):
    done = liver(*PHANTOM, *output, "--val-fraction", cwd=tmp_path)
    assert "--val_fraction" in light_lines(done)[0]  # dashes are underscores, and the output was understood
    done = liver(*PHANTOM, *output, cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "out" / "volume-0.nii.gz").exists(), done.stderr


def test_quiet_leaves_out_results_and_keeps_errors(tmp_path):
    done = liver(*PHANTOM, "-o", "out", "--quiet", cwd=tmp_path)
    assert done.returncode == 0 and not done.stdout and (tmp_path / "out" / "volume-0.nii.gz").exists()
    done = liver(*PHANTOM, "-o", "out", "--quiet", "--layout", "none", cwd=tmp_path)
    assert done.returncode == 1 and "ERROR" in done.stderr and not done.stdout


def test_the_log_file_gets_what_the_terminal_does(tmp_path):
    first = liver(*PHANTOM, "-o", "out", "--log_file", "logs/log.txt", cwd=tmp_path)
    liver(*PHANTOM, "-o", "out", "--log_file", "logs/log.txt", "--quiet", cwd=tmp_path)
    liver(*PHANTOM, "-o", "out", "--log_file", "logs/log.txt", "--layout", "none", cwd=tmp_path)
    log = (tmp_path / "logs" / "log.txt").read_text()
    lines = [line for line in log.splitlines() if not line.startswith("import time")]
    assert first.stdout and lines[:2] == first.stdout.splitlines() * 2 and lines[2].startswith("ERROR")


def test_a_log_that_takes_no_more_does_not_stop_what_it_is_copied_from():
    from liver_ct.cli import terminal

    reading, writing = os.pipe()
    nobody, gone = os.pipe()
    os.close(nobody)
    with open("/dev/full", "wb", buffering=0) as log:  # noqa: PTH123
        copying = threading.Thread(target=terminal.copy, args=(reading, gone, log), daemon=True)
        copying.start()
        for _ in range(40):
            os.write(writing, b"x" * 10_000)  # more than a pipe holds
        os.close(writing)
        copying.join(timeout=20)
    os.close(gone)
    assert not copying.is_alive()


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- >&- 2>&-"])
def test_a_program_works_without_standard_output(closed, tmp_path):
    command = shlex.join([sys.executable, str(ROOT / "scripts" / "phantom.py"), *PHANTOM[1:], "-o", "out"])
    done = subprocess.run(f"{command} {closed}", shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and not done.stderr and (tmp_path / "out" / "volume-0.nii.gz").exists()


@pytest.mark.parametrize("moment", ["fire", "libtorch", "libtorch_python"])
def test_an_interrupt_is_one_line_also_while_importing(moment, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "cascade.py"), "-i", str(ROOT / "bundles"), "-o", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        maps = Path(f"/proc/{run.pid}/maps")
        if not maps.exists():
            pytest.skip("needs /proc to see what a process has loaded")
        seen = "_datetime" if moment == "fire" else f"{moment}.so"  # an extension that comes with it
        while run.poll() is None and seen not in maps.read_text():
            time.sleep(0.005)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (130, "", "stopped; the same command goes on with what is left\n")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_in_the_middle_of_work(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "phantom.py"), "make", "-o", "out", "--cases", "1000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        while not (tmp_path / "out").exists() and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and err == "stopped; the same command begins again\n"


def test_the_chain_starts_without_what_it_does_not_use(tmp_path):
    code = (
        "import sys; from liver_ct.cli.imports import import_chain; import_chain({'input': 'ct.nii', "
        "'picture': 'false', 'report': 'false'}); print({m.split('.')[0] for m in sys.modules} & "
        "{'mlflow', 'matplotlib', 'sklearn', 'skimage', 'pandas', 'ignite', 'itk'}); import matplotlib, sklearn, ignite"
    )
    (tmp_path / "ct.nii").touch()
    path = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=path, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "set()\n" and done.returncode == 0, done.stderr  # and what it left out can be had later
