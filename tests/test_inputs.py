"""Promises on what lies in an input folder and what it is called: nothing hangs a run, nothing is passed over in
silence, any name works, and each study's result is its own."""

from __future__ import annotations

import contextlib
import errno
import gzip
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import bundle_module
from monai.bundle import ConfigParser
from test_cascade import bundles, entries, read_result, run, save_ct, stamps  # noqa: F401

from liver_ct import phantom
from liver_ct.chain import studies
from liver_ct.errors import StudyError, describe
from liver_ct.files import replace_folder
from liver_ct.lits import finding
from liver_ct.outputs import folders, names, writing

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534
HOSTILE = ["a$_$b", "index.html", "-o", "肝脏 münchen", "bad\nname", "\x1b[31mred", "%41 #3 <b>&\"'", "x" * 248]


def nifti(path: Path, packed: bool = False) -> Path:
    """A file that begins as NIfTI does; it is only to be found."""
    header = bytearray(400)
    header[:4], header[344:348] = (348).to_bytes(4, "little"), b"n+1\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(header)) if packed else bytes(header))
    return path


def found(folder: Path) -> tuple[list[str], list[str]]:
    """Cases, and lines on what was not taken, without the folder."""
    lines: list[str] = []
    cases = [study.case for study in studies.find_studies(folder, lines.append)]
    return cases, [line.replace(f"{folder}{os.sep}", "") for line in lines]


class TestFolder:
    def test_what_never_answers_or_leads_back_is_passed_over(self, tmp_path, monkeypatch):
        folder = tmp_path / "in"
        nifti(folder / "a.nii")
        nifti(tmp_path / "not_below.nii")
        for name in ("pipe", "pipe.mha", "pipe.zip", "volume-1.nii"):
            os.mkfifo(folder / name)
        links = {"l1": ".", "l2": ".", "up": "..", "root": "/", "self": "self", "zero.nii": "/dev/zero"}
        for name, to in links.items():
            (folder / name).symlink_to(to)
        (folder / "README.txt").symlink_to("../.git/annex/objects/none")
        monkeypatch.chdir(folder)  # a socket's path has to be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("sock")
            assert found(folder) == (["a"], [])
            problems: list[str] = []
            assert finding.find_cases(folder, tmp_path / "out", problems, []) == {} and problems == []

    def test_a_link_to_a_ct_that_is_not_there_is_named(self, tmp_path):
        nifti(tmp_path / "volume-2.nii")
        (tmp_path / "volume-1.nii").symlink_to("gone")
        assert found(tmp_path)[0] == ["volume-1", "volume-2"]  # reading it says so
        problems: list[str] = []
        assert [*finding.find_cases(tmp_path, tmp_path / "out", problems, [])] == ["2"]
        assert len(problems) == 1 and "volume-1.nii: cannot be read (No such file" in problems[0]

    def test_what_is_above_a_link_is_that_of_the_system(self, tmp_path, monkeypatch):
        nifti(tmp_path / "archive" / "monday" / "ct.nii")
        nifti(tmp_path / "archive" / "tuesday" / "meant.nii")
        nifti(tmp_path / "tuesday" / "other.nii")
        (tmp_path / "today").symlink_to("archive/monday")
        monkeypatch.chdir(tmp_path)
        assert [study.case for study in studies.find_studies(Path("today/../tuesday"))] == ["meant"]
        assert [study.path for study in studies.find_studies(Path("archive/../today"))] == [tmp_path / "today/ct.nii"]

    def test_a_very_deep_folder_is_looked_through(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for _ in range(1200):
            Path("a").mkdir()
            os.chdir("a")
        Path("ct.nii").touch()
        assert found(tmp_path)[0] == ["ct"]
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)

    @pytest.mark.parametrize(
        ("name", "content", "word"),
        [
            ("ct.hdr", b"", "not read"),
            ("CT.IMG", b"", "voxels without their header (.hdr), which are not read"),
            ("cut.hdr", b"\x5c\x01\0\0" + bytes(300), "damaged and not read"),
            ("ct.MGZ", b"", "not read"),
            ("ct.nii.bz2", b"BZh9", "not read"),
            ("nrrd", b"NRRD0004\ntype: short\n", "NRRD"),
            ("export.dat", b"ObjectType = Image\nNDims = 3\n", "MetaImage"),
            ("1", b"\x5c\x01\0\0" + bytes(340) + b"n+1\0", "NIfTI"),
            ("2", b"\0\0\x01\x5c" + bytes(340) + b"n+1\0", "NIfTI"),
            ("3.gz", gzip.compress(b"\x5c\x01\0\0" + bytes(340) + b"n+1\0", mtime=0), "NIfTI"),
            ("4", b"\x1c\x02\0\0n+2\0" + bytes(600), "NIfTI"),
            ("5", b"\x5c\x01\0\0" + bytes(600), "Analyze"),
            ("ct.dcm.gz", gzip.compress(bytes(128) + b"DICM" + bytes(99), mtime=0), "not read"),
            ("IM1", gzip.compress(bytes(128) + b"DICM" + bytes(99), mtime=0), "DICOM in gzip"),
            (".ct.nii", b"\x5c\x01\0\0" + bytes(340) + b"n+1\0", "hidden"),
        ],
    )
    def test_what_looks_like_an_image_and_is_not_read_gives_a_line(self, tmp_path, name, content, word):
        nifti(tmp_path / "good.nii")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / name).write_bytes(content)
        cases, (line,) = found(tmp_path)
        assert cases == ["good"] and line.startswith(f"sub/{name}: ") and word in line and line.endswith(".")

    def test_what_is_no_image_gives_none(self, tmp_path):
        nifti(tmp_path / "good.nii")
        nifti(tmp_path / "segmentation-1.nii")
        nifti(tmp_path / ".git" / "objects" / "a.nii")
        contents = {
            "notes.txt": b"348",
            "ct.raw": np.arange(8, 999, dtype=np.int16).tobytes(),
            "b.raw": b"\x08\0\x05\0",
            "._good.nii": b"\0\x05\x16\x07",
            "picture.png": b"\x89PNG",
            "empty": b"",
            "DICOMDIR": bytes(128) + b"DICM" + bytes(99),
            "x.gz": b"\x1f\x8bno",
        }
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        assert found(tmp_path) == (["good"], [])

    def test_dicom_without_preamble_and_suffix_is_a_series(self, tmp_path):
        pydicom = pytest.importorskip("pydicom")
        for path in phantom.write_dicom_series(tmp_path / "ct", *phantom.make_phantom((16, 16, 4), (20, 20, 20))[::2]):
            data = pydicom.dcmread(path)
            data.file_meta, data.preamble = pydicom.dataset.FileMetaDataset(), None
            path.unlink()
            pydicom.dcmwrite(path.with_suffix(""), data, implicit_vr=path.stem[-1] in "02468", little_endian=True)
        assert found(tmp_path) == (["ct"], [])

    def test_a_folder_that_cannot_be_read_gives_a_line(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            nifti(folder / "good.nii")
            nifti(folder / "secret" / "b.nii")
            (folder / "lost").write_bytes(b"x")
            (folder / "secret").chmod(0)
            (folder / "lost").chmod(0)
            problems: list[str] = []
            with another_user():
                cases, lines = found(folder)
                finding.find_cases(folder, folder / "out", problems, [])
            (folder / "secret").chmod(0o755)
        assert cases == ["good"] and len(lines) == 2 and len(problems) == 1
        assert "secret: the folder cannot be read (Permission denied)" in problems[0]
        assert {line.split(":")[0] for line in lines} == {"lost", str(folder / "secret").replace(f"{folder}/", "")}

    def test_each_line_counts_as_a_failure(self, bundles, tmp_path, capfd):  # noqa: F811
        save_ct(tmp_path / "ct.nii.gz")
        (tmp_path / "pair.hdr").touch()
        (tmp_path / "pair.img").touch()
        os.mkfifo(tmp_path / "pipe.nii")
        with pytest.raises(SystemExit) as stop:
            run(tmp_path, tmp_path / "out", bundles)
        (line,) = capfd.readouterr().err.splitlines()
        assert stop.value.code == 1 and line.startswith(f"ERROR {tmp_path / 'pair.hdr'}: ")
        assert entries(tmp_path / "out") == {"ct"}


@contextlib.contextmanager
def another_user():
    """For root permissions are no matter."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_pipe_that_nobody_reads_is_no_error_of_a_study(bundles, tmp_path):  # noqa: F811
    ct, output = save_ct(tmp_path / "ct.nii.gz"), tmp_path / "out"
    words = [sys.executable, str(ROOT / "scripts" / "cascade.py"), "-i", str(ct), "-o", str(output)]
    knobs = [f"--{name}={value}" for name, value in {**bundles, "picture": False, "report": False}.items()]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*words, *knobs], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "") and entries(output) == {"ct"}


def test_a_pipe_that_nobody_reads_is_no_error_of_figures():
    words = ["compare", "--one", "prob", "--other", "binary", "--results", str(ROOT / "docs" / "experiment" / "judged")]
    reading, writing = os.pipe()
    os.close(reading)
    study = [sys.executable, str(ROOT / "scripts" / "study.py"), *words]
    done = subprocess.run(study, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


class TestNames:
    def test_all_at_once_on_a_terminal_that_knows_ascii_for_a_user_without_a_name(self, bundles, tmp_path):  # noqa: F811
        source, output = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        ct = save_ct(tmp_path / "ct.nii.gz")
        for hostile in HOSTILE:
            shutil.copy(ct, source / f"{hostile}.nii.gz")
        shutil.copy(ct, os.fsencode(source) + b"/M\xfcnchen.nii.gz")
        (source / "z\n\x1b]0;bad.nii.gz").write_bytes(b"x" * 99)
        words = [sys.executable, str(ROOT / "scripts" / "cascade.py"), "-i", str(source), "-o", str(output)]
        words += [word for key, value in bundles.items() for word in (f"--{key}", value)]
        (tmp_path / "sitecustomize.py").write_text(  # as in containers; to be such a user takes root
            "import pwd\ndef getpwuid(number):\n    raise KeyError(number)\npwd.getpwuid = getpwuid\n"
        )
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
        env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        done = subprocess.run(words, env=env, capture_output=True)
        lines = [line for line in done.stderr.decode("ascii").splitlines() if line.startswith("ERROR")]
        assert done.returncode == 1 and len(lines) == 1, done.stderr
        assert "z\\n\\x1b]0;bad.nii.gz: " in lines[0] and "unexpected" not in lines[0]
        assert b"\x1b" not in done.stdout + done.stderr
        assert done.stdout.count(b": highest slice") == len(HOSTILE) + 1
        results = [read_result(path.parent) for path in output.glob("*/result.json")]
        assert len(results) == len(HOSTILE) + 1 and len({result["liver_volume_ml"] for result in results}) == 1
        assert {"a$_$b", "_index.html", "-o", "bad%0Aname", "%1B[31mred", "M%FCnchen"} <= entries(output)
        page = (output / "index.html").read_text(encoding="utf-8")
        assert page.count("report.html") >= len(HOSTILE) + 1 and "\x1b" not in page and "z%0A" in page

    def test_monai_is_imported_for_a_user_without_a_name(self):
        """By the line that an installation of the package reads at Python's start."""
        words = "import pwd, site\ndef getpwuid(number):\n    raise KeyError(number)\npwd.getpwuid = getpwuid\n"
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        alone = subprocess.run([sys.executable, "-c", words + "import monai.bundle"], env=env, capture_output=True)
        assert b"KeyError" in alone.stderr  # or the line below is needed no more
        words += f"site.addsitedir({str(ROOT / 'src')!r})\nimport monai.bundle"
        done = subprocess.run([sys.executable, "-c", words], env=env, capture_output=True)
        assert done.returncode == 0, done.stderr

    def test_studies_whose_safe_names_meet_are_told_apart(self, tmp_path):
        for name in ("a\n", "a%0A", "sub/a\n", ".b/c", "INDEX.HTML", "_index.html", "sub-a%0A"):
            nifti(tmp_path / f"{name}.nii")
        cases = [case.lower() for case in found(tmp_path)[0]]
        assert len({*cases}) == len(cases) == 6 and names.INDEX not in cases

    def test_a_hidden_file_asked_for_by_its_name_is_taken(self, bundles, tmp_path):  # noqa: F811
        run(save_ct(tmp_path / ".failed.nii.gz"), tmp_path / "out", bundles, report=True)
        assert entries(tmp_path / "out") == {"_.failed", "index.html", "summary.csv"}
        assert "_.failed" in (tmp_path / "out" / "index.html").read_text()


class TestTheRightStudy:
    def test_only_the_content_decides_what_is_finished(self, bundles, tmp_path, capfd):  # noqa: F811
        ct, output = save_ct(tmp_path / "ct.nii"), tmp_path / "out"
        run(ct, output, bundles)
        before, times = stamps(output / "ct"), ct.stat()
        (tmp_path / "moved").mkdir()
        moved = ct.rename(tmp_path / "moved" / "ct.nii")
        os.utime(moved, (1, 1))
        run(moved, output, bundles)
        assert stamps(output / "ct") == before and "finished before" in capfd.readouterr().out
        image = nib.load(moved)
        voxels = np.asarray(image.dataobj).copy()
        voxels[voxels > 60] += 1
        nib.save(nib.Nifti1Image(voxels, None, image.header), moved)
        os.utime(moved, ns=(times.st_atime_ns, times.st_mtime_ns))
        moved.rename(ct)
        assert ct.stat().st_size == times.st_size
        run(ct, output, bundles)
        assert stamps(output / "ct")["result.json"] != before["result.json"] and entries(output) == {"ct"}

    def test_voxels_beside_their_header_count(self, tmp_path):
        (tmp_path / "a.mhd").write_text("NDims = 3\nElementDataFile = LIST\none.raw\ntwo.raw\n")
        for name in ("one.raw", "two.raw", "other.raw"):
            (tmp_path / name).write_bytes(name.encode())
        before = studies.fingerprint(tmp_path / "a.mhd")
        (tmp_path / "other.raw").write_bytes(b"x")
        assert studies.fingerprint(tmp_path / "a.mhd") == before
        (tmp_path / "two.raw").write_bytes(b"TWO.raw")
        assert studies.fingerprint(tmp_path / "a.mhd") != before

    @pytest.mark.parametrize("name", ["a:b.raw", "T=1.raw", "a b.raw"])
    @pytest.mark.parametrize("header, line", [("a.mhd", "ElementDataFile = {}\n"), ("a.nhdr", "data file: {}\r\n\r\n")])
    def test_voxels_count_whatever_their_file_is_called(self, tmp_path, header, line, name):
        (tmp_path / header).write_text(line.format(name))
        (tmp_path / name).write_bytes(b"one")
        before = studies.fingerprint(tmp_path / header)
        (tmp_path / name).write_bytes(b"two")
        assert studies.fingerprint(tmp_path / header) != before

    def test_two_of_one_name_do_not_overwrite_each_other(self, bundles, tmp_path):  # noqa: F811
        output = tmp_path / "out"
        for name, seed in (("ann", 0), ("bob", 1)):
            (tmp_path / name).mkdir()
            run(save_ct(tmp_path / name / "ct.nii.gz", seed=seed), output, bundles)
        one, other = sorted(entries(output), key=len)
        assert one == "ct" and other.startswith("ct-") and read_result(output / other)["case"] == other
        before = {case: stamps(output / case) for case in (one, other)}
        for name in ("ann", "bob"):
            run(tmp_path / name / "ct.nii.gz", output, bundles)
        assert {case: stamps(output / case) for case in entries(output)} == before
        run(tmp_path / "bob" / "ct.nii.gz", output, bundles, overwrite=True)
        after = {case: stamps(output / case) for case in entries(output)}
        assert after[one] == before[one] and after[other] != before[other]

    def test_two_runs_side_by_side_on_one_output(self, bundles, tmp_path, capfd):  # noqa: F811
        (tmp_path / "in").mkdir()
        for seed in range(3):
            save_ct(tmp_path / "in" / f"{seed}.nii.gz", seed=seed)
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(run, tmp_path / "in", tmp_path / "out", bundles, overwrite=True) for _ in range(2)]
            assert [each.result() for each in runs] == [None, None]
        assert capfd.readouterr().err == "" and entries(tmp_path / "out") == {"0", "1", "2"}

    def test_two_runs_that_write_different_things_at_once(self, bundles, tmp_path):  # noqa: F811
        ct = save_ct(tmp_path / "ct.nii.gz")
        with ThreadPoolExecutor(2) as pool:
            kinds = ({"picture": True}, {"report": True})
            [*pool.map(lambda kind: run(ct, tmp_path / "out", bundles, **kind), kinds)]
        assert {"overview.png", "report.html"} <= entries(tmp_path / "out" / "ct")

    def test_a_failure_is_not_forgotten_where_another_of_its_name_is_finished(self, bundles, tmp_path):  # noqa: F811
        for name in ("ann", "bob"):
            (tmp_path / name).mkdir()
        (tmp_path / "ann" / "ct.nii.gz").write_bytes(b"no image")
        with pytest.raises(SystemExit):
            run(tmp_path / "ann" / "ct.nii.gz", tmp_path / "out", bundles, report=True)
        for name in ("bob", "ann"):
            run(save_ct(tmp_path / name / "ct.nii.gz", seed=len(name)), tmp_path / "out", bundles, report=True)
            left = "not a readable image" in (tmp_path / "out" / "index.html").read_text()
            assert left == (name == "bob")

    def test_what_lies_beside_an_earlier_result_is_found(self, bundles, tmp_path):  # noqa: F811
        run(save_ct(tmp_path / "ct.nii.gz"), tmp_path / "out", bundles)
        (tmp_path / "out" / "ct" / "more").mkdir()
        save_ct(tmp_path / "out" / "ct" / "later.nii.gz")
        save_ct(tmp_path / "out" / "ct" / "more" / "deeper.nii.gz")
        assert {study.case for study in studies.find_studies(tmp_path)} == {"ct", "later", "deeper"}

    def test_two_runs_of_two_studies_of_one_name_at_once(self, bundles, tmp_path):  # noqa: F811
        for name, seed in (("ann", 0), ("bob", 1)):
            (tmp_path / name).mkdir()
            save_ct(tmp_path / name / "ct.nii.gz", seed=seed)
        with ThreadPoolExecutor(2) as pool:
            [*pool.map(lambda name: run(tmp_path / name / "ct.nii.gz", tmp_path / "out", bundles), ("ann", "bob"))]
        prints = {read_result(folder)["input_fingerprint"] for folder in (tmp_path / "out").iterdir()}
        assert prints == {studies.fingerprint(tmp_path / name / "ct.nii.gz") for name in ("ann", "bob")}

    def test_what_another_run_works_on_is_left_and_what_a_dead_one_left_goes(self, tmp_path):
        (tmp_path / ".partial" / "a").mkdir(parents=True)
        (tmp_path / ".partial" / "a" / "old").touch()
        (tmp_path / ".partial" / ".old-x" / "folder").mkdir(parents=True)  # killed between its two renames
        with folders.work_folder(tmp_path, "a") as one, folders.work_folder(tmp_path, "a") as other:
            assert one != other and not [*one.iterdir()]
            (one / "result.json").touch()
            (other / "result.json").write_text("other")
            folders.publish(one, tmp_path / "a")
            folders.publish(other, tmp_path / "a")
        assert (tmp_path / "a" / "result.json").read_text() == "other" and entries(tmp_path) == {"a"}
        assert not (tmp_path / ".partial").exists()

    @pytest.mark.parametrize(
        "known, beside", [((None, None), True), (("a", "c"), False), (("x", "y"), True), ((), False)]
    )
    def test_a_result_of_a_ct_in_memory_is_another_cts(self, tmp_path, known, beside):
        keys = ("input_fingerprint", "input_path_sha256")
        (tmp_path / "result.json").write_text(json.dumps(dict(zip(keys, known))))
        place = studies.place_of(tmp_path, dict(zip(keys, "ab")))
        assert (place.name == f"{tmp_path.name}-a") == beside

    def test_what_a_system_leaves_where_somebody_looked_is_not_in_the_way(self, tmp_path):
        for name in ("Thumbs.db", ".DS_Store", "._report.html", "result.json"):
            (tmp_path / name).touch()
        folders.check_target(tmp_path)
        (tmp_path / "mine.txt").touch()
        with pytest.raises(StudyError, match="in the way of a new result, as it holds mine.txt, which is none of"):
            folders.check_target(tmp_path)

    def test_an_earlier_result_stays_where_the_new_one_cannot_be_put(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "result.json").touch()
        with pytest.raises(FileNotFoundError):  # somebody took it away
            replace_folder(tmp_path / "gone", tmp_path / "a")
        assert entries(tmp_path) == {"a"} and entries(tmp_path / "a") == {"result.json"}

    @pytest.mark.parametrize("again", [False, True])
    def test_an_output_that_vanishes_is_an_error(self, bundles, tmp_path, monkeypatch, capsys, again):  # noqa: F811
        source, output = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        for seed in range(2):
            save_ct(source / f"{seed}.nii.gz", seed=seed)
        write = writing.write_rows

        def vanish(rows, file):
            if (output / "0").exists():
                shutil.rmtree(output)
                if again:
                    file.parent.mkdir(parents=True)
            write(rows, file)

        monkeypatch.setattr(writing, "write_rows", vanish)
        with pytest.raises(SystemExit) as stop:
            run(source, output, bundles, jobs=1)
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 1 and all("vanished during the run" in line for line in lines) and lines


@pytest.mark.parametrize(
    ("error", "words", "without"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "Free space", "report"),
        (PermissionError(errno.EACCES, "Permission denied", "/in/ct.nii"), "Check that it can be read", "Free"),
        (PermissionError(errno.EACCES, "Permission denied", "/out/ct"), "Choose another --output", "Free"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/out/x"), "Shorten", "Free"),
        (MemoryError(), "not enough memory", "report"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "not enough memory", "report"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "--device cpu", "report"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "GPU", "not enough memory"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "not installed", "report"),
        (KeyError("a"), "please report it", "Free"),
        (StudyError("\x1b[2J\n: bad. Fix."), "\\x1b[2J\\n: bad. Fix.", "\x1b"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_are_true_also_inside_transforms(error, words, without):
    try:
        raise RuntimeError("applying transform <LoadStudyd>") from error
    except RuntimeError as wrapped:
        line = describe(wrapped, Path("/in/ct.nii"))
        of_bundle = bundle_module("seg", "errors").describe(wrapped, "/in/ct.nii")
    assert words in line and without not in line and len(line.splitlines()) == 1
    assert ("not enough memory" in of_bundle) == ("memory" in words or words == "--device cpu")


class TestBundles:
    @pytest.fixture(params=["liver_seg", "liver_cls"])
    def bundle(self, request, monkeypatch) -> tuple[Path, str]:
        """A bundle's folder and what the names of its copies begin with."""
        root = ROOT / "bundles" / request.param
        monkeypatch.syspath_prepend(root)
        return root, request.param.removeprefix("liver_")

    def knobs(self, bundle, monkeypatch, *words: str) -> None:
        """The check that `run` begins with, on these words of a command line."""
        root, prefix = bundle
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", [f"{Path(torch.__file__).parents[1]}/monai/bundle/__main__.py", "run", *words])
        ConfigParser({"x": {"_target_": f"scripts.{prefix}_knobs.require_known_knobs"}}).get_parsed_content("x")

    @pytest.mark.parametrize("configs", ["configs/train.json", "['configs/train.json','configs/multi_gpu_train.json']"])
    def test_a_misspelt_knob_is_named(self, bundle, monkeypatch, configs):
        for words in (["--epcohs", "3"], ["--epcohs=3"]):
            with pytest.raises(SystemExit, match="--epcohs: no such id in configs/train.json.* Did you mean --epochs?"):
                self.knobs(bundle, monkeypatch, "--config_file", configs, *words)
        with pytest.raises(SystemExit, match="--network_dfe#filters"):
            self.knobs(bundle, monkeypatch, "--config_file", configs, "--network_dfe#filters", "[3]")

    def test_knobs_that_are_there_are_taken(self, bundle, monkeypatch, tmp_path):
        (tmp_path / "args.json").write_text(json.dumps({"config_file": "configs/train.json", "epochs": 3}))
        config = "--config_file=configs/train.json"
        overlay = ["--config_file", "['configs/train.json','configs/evaluate.json']"]
        for words in (
            [config, "--epochs", "-1", "--network_def#filters", "[3]", "--optimizer#eps=1e-6"],
            [config, "--run_id", "run", "--train::trainer::max_epochs", "2", "--tracking=mlflow"],
            ["--args_file", str(tmp_path / "args.json"), "--val_interval", "3"],
            [*overlay, "--ckpt_path", "x", "--validate#handlers#0#load_path", "y"],
        ):
            self.knobs(bundle, monkeypatch, *words)
        (tmp_path / "args.json").write_text(json.dumps({"config_file": "configs/train.json", "epohcs": 3}))
        with pytest.raises(SystemExit, match="--epohcs"):
            self.knobs(bundle, monkeypatch, "--args_file", str(tmp_path / "args.json"))

    def test_every_config_that_runs_looks_at_the_knobs(self, bundle):
        root, prefix = bundle
        first, steps = {"_target_": f"scripts.{prefix}_knobs.require_known_knobs"}, {}
        for file in root.glob("configs/*.json"):
            content = json.loads(file.read_text())
            before = content.get("checks#before", content.get("checks", {}).get("before"))
            steps[file.name] = content.get("run", [first])[0], (before or [first])[0]
        assert all(step in (first, "@checks#before") and before == first for step, before in steps.values()), steps

    @pytest.mark.parametrize(("studies_there", "words"), [(0, "no study to train on"), (1, "make no batch of 2")])
    def test_a_training_without_a_batch_is_an_error(self, bundle, tmp_path, studies_there, words, monkeypatch):
        monkeypatch.chdir(bundle[0])
        image, label = phantom.write_case(tmp_path, 0, size=(16, 16, 8), spacing=(20, 20, 20))
        entry = {"image": str(image), "label": str(label), "prob": str(label), "case_id": "a", "group": "a"}
        content = {"training": [entry] * studies_there, "validation": [entry]}
        (tmp_path / "datalist.json").write_text(json.dumps(content))
        steps = json.loads((bundle[0] / "configs" / "train.json").read_text())["checks"]["before"]
        step = next(step for step in steps if "require_batches" in str(step))
        parser = ConfigParser()
        parser.read_config(bundle[0] / "configs" / "train.json")
        parser.update({"datalist_file": str(tmp_path / "datalist.json"), "cache_rate": 0, "volume_repeats": 1})
        parser.update({"epochs": 1, "train#dataloader#batch_size": 2, "train#dataloader#drop_last": True})
        parser["check"] = step
        with pytest.raises(SystemExit, match=words):
            parser.get_parsed_content("check")

    def test_pipes_are_passed_over_where_a_folder_is_listed(self, bundle, tmp_path):
        nifti(tmp_path / "a.nii.gz")
        nifti(tmp_path / ".b.nii.gz")
        os.mkfifo(tmp_path / "c.nii.gz")
        (tmp_path / "d.nii.gz").symlink_to("gone")
        parser = ConfigParser()
        parser.read_config(bundle[0] / "configs" / "inference.json")
        parser.update({"dataset_dir": str(tmp_path)})
        listed = [Path(entry["image"]).name for entry in parser.get_parsed_content("datalist")]
        assert listed == ["a.nii.gz", "d.nii.gz"]
        reading = importlib.import_module(f"scripts.{bundle[1]}_reading")
        with pytest.raises(ValueError, match="a pipe, socket or device"):
            reading.read_image(tmp_path / "c.nii.gz")
