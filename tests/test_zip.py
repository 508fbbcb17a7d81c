"""Zipped DICOM series as input: read as their folder is, or refused with a line where it is another zip."""

from __future__ import annotations

import bz2
import errno
import gc
import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pydicom
import pytest
from test_cascade import bundles, entries, read_result, run  # noqa: F401
from test_dicom import DICOM_FILES, FILES, write_series

from liver_ct import LiverCT
from liver_ct.chain import archives
from liver_ct.chain.studies import find_studies
from liver_ct.chain.zips import unpack
from liver_ct.errors import StudyError


def pack(folder: Path, target: Path, home: str = "", **knobs) -> Path:
    """A folder's files as a zip, under a folder's name in it."""
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED, **knobs) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{home}{file.name}")
    return target


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    return write_series(tmp_path_factory.mktemp("zip") / "CT")


@pytest.fixture
def empty_temporary(tmp_path, monkeypatch) -> Path:
    """The system's temporary folder, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_it_gives_what_its_folder_gives_and_is_finished_then(series, bundles, tmp_path, capsys, empty_temporary):  # noqa: F811
    """As an archive has it: the patient's name in the folders, a scout and a report beside the series, leftovers."""
    source = tmp_path / "in"
    source.mkdir()
    shutil.copytree(series, source / "folder")
    packed = pack(series, source / "Export.ZIP", "DOE^JANE/CT abdomen/")
    with zipfile.ZipFile(packed, "a") as archive:
        for name in ("DICOMDIR", "DOE^JANE/CT abdomen/.DS_Store", "__MACOSX/DOE^JANE/._IM0001", "README.txt"):
            archive.writestr(name, b"leftover")
    for _ in range(2):
        run(source, tmp_path / "out", bundles, dicom_output=True)
    printed = capsys.readouterr()
    assert printed.out.count("finished before") == 2 and "DOE" not in printed.out + printed.err
    one, other = (tmp_path / "out" / name for name in ("folder", "Export"))
    assert entries(one) == entries(other) == FILES | DICOM_FILES
    for name in ("prob_mask.nii.gz", "liver_mask.nii.gz", "slices.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert read_result(other)["input"] == "Export.ZIP" and not any(empty_temporary.iterdir())
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("more.txt", b"another content")
    run(source, tmp_path / "out", bundles, dicom_output=True)
    assert capsys.readouterr().out.count("finished before") == 1


def test_what_lies_beside_it_in_the_temporary_folder_is_not_looked_at(
    series, bundles, tmp_path, capsys, empty_temporary
):  # noqa: F811
    (tmp_path / "in").mkdir()
    (empty_temporary / "of-another").mkdir()
    pack(series, tmp_path / "in" / "CT.zip")
    for path in series.iterdir():  # the series goes on there
        header = pydicom.dcmread(path)
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x, y, float(z) + 1000]
        header.save_as(empty_temporary / "of-another" / path.name)
    run(tmp_path / "in", tmp_path / "out", bundles)
    assert "CT: highest slice" in capsys.readouterr().out


def test_of_several_series_one_is_chosen(series, bundles, tmp_path, capsys):  # noqa: F811
    """Their files have the same names in folders of their own."""
    packed = pack(series, tmp_path / "study.zip", "S1/")
    other = write_series(tmp_path / "other", SeriesNumber=5)
    for number, file in enumerate(sorted(other.iterdir())):
        file.rename(other / sorted(series.iterdir())[number].name)
    pack(other, packed, "S5/")
    with pytest.raises(SystemExit):
        run(packed, tmp_path / "out", bundles)
    error = capsys.readouterr().err
    assert f"ERROR {packed}: 2 CT series in this folder" in error and "--series" in error
    run(packed, tmp_path / "out", bundles, series="5")
    assert read_result(tmp_path / "out" / "study")["series"] == "5"


def test_what_is_wrong_with_a_slice_names_zip_and_slice(series, bundles, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "CT"
    shutil.copytree(series, folder)
    file = sorted(folder.iterdir())[3]
    file.write_bytes(file.read_bytes()[:-5000])
    packed = pack(folder, tmp_path / "cut.zip", "SECRET/")
    with pytest.raises(SystemExit):
        run(packed, tmp_path / "out", bundles)
    error = capsys.readouterr().err
    assert error.startswith(f"ERROR {packed}/{file.name}: ") and "SECRET" not in error and "liver-ct-" not in error


def test_the_result_of_the_python_interface_keeps_its_slices(series, bundles, tmp_path, empty_temporary):  # noqa: F811
    study = LiverCT(device="cpu", **bundles)(pack(series, tmp_path / "a.zip"))
    study.save(tmp_path / "saved", ["dicom"])
    assert study.case == "a" and entries(tmp_path / "saved") == FILES | DICOM_FILES
    del study
    gc.collect()
    assert not any(empty_temporary.iterdir())


def lock(path: Path) -> None:
    """Mark every entry of a zip as encrypted."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(mark, at + 4)
    path.write_bytes(data)


def lie(path: Path) -> None:
    """Declare the first entry as three petabytes: the size moves to a zip64 extra field."""
    with zipfile.ZipFile(path) as archive:
        contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.infolist()[0].file_size = 3 * 2**50


def zips(series: Path, folder: Path) -> dict[str, str]:
    """Zips that are no series to be read, and what is said of each."""
    folder.mkdir()
    pack(series, folder / "locked.zip"), lock(folder / "locked.zip")
    pack(series, folder / "bomb.zip"), lie(folder / "bomb.zip")
    data = pack(series, folder / "cut.zip").read_bytes()
    (folder / "cut.zip").write_bytes(data[: len(data) // 2])
    (folder / "zero.zip").touch()
    damaged = bytearray(pack(series, folder / "damaged.zip").read_bytes())
    damaged[5000:5050] = bytes(50)
    (folder / "damaged.zip").write_bytes(damaged)
    out = pack(series, folder / "out.zip")
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("../../evil.dcm", b"evil")
    back = pack(series, folder / "back.zip")
    with zipfile.ZipFile(back, "a") as archive:
        archive.writestr("..\\..\\evil.dcm", b"evil")
    zipfile.ZipFile(folder / "none.zip", "w").close()
    twice = pack(series, folder / "twice.zip")
    pack(series, twice)
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        for path in series.iterdir():
            archive.writestr(f"{path.name}.gz", gzip.compress(path.read_bytes(), 1))
    return {
        "locked": "a zip with a password",
        "bomb": "unpacked it takes 3145728.0 GB",
        "cut": "damaged or cut short",
        "zero": "",
        "damaged": "damaged or cut short",
        "out": "named to lie outside of it",
        "back": "named to lie outside of it",
        "none": "an empty zip",
        "twice": "have the same name",
        "packed": "compressed once more",
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_is_not_to_be_read_has_its_line_and_the_others_are_done(
    series, bundles, tmp_path, capsys, empty_temporary
):  # noqa: F811, E501
    said = zips(series, tmp_path / "in")
    pack(series, tmp_path / "in" / "good.zip")
    with zipfile.ZipFile(tmp_path / "in" / "code.zip", "w") as archive:  # an archive of something else
        archive.writestr("main.py", "print()")
    with pytest.raises(SystemExit):
        run(tmp_path / "in", tmp_path / "out", bundles)
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("ERROR ")]
    assert len(lines) == len(said) and entries(tmp_path / "out") == {"good"} and "good: highest slice" in printed.out
    for name, cause in said.items():
        (line,) = (line for line in lines if f"/{name}.zip: " in line)
        assert cause in line
    assert not any(empty_temporary.iterdir()) and not (tmp_path / "evil.dcm").exists()
    for name, cause in said.items():  # named as the input itself
        with pytest.raises(SystemExit):
            run(tmp_path / "in" / f"{name}.zip", tmp_path / "out", bundles)
        assert cause in capsys.readouterr().err


def test_other_archives_are_no_studies(tmp_path):
    for name, content in {
        "nifti.zip": "a.nii.gz",
        "inner.zip": "b.zip",
        "code.zip": "c.py",
        "x.nii.zip": "x.nii",
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(content, b"content")
    told: list[str] = []
    with pytest.raises(StudyError, match="holds no CT"):
        find_studies(tmp_path, told.append)
    assert len(told) == 3 and "a zip in a zip" in told[0] and "images other than DICOM" in told[1]


NIFTI = (348).to_bytes(4, "little") + bytes(340) + b"n+1\0"
DICOM = bytes(128) + b"DICM" + bytes(99)


def zipped(name: str, content: bytes) -> bytes:
    """A zip of one file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("name, content, cause", [
    ("ct.nii.gz", b"", "images other than DICOM, or beside it"),
    ("volume", NIFTI, "images other than DICOM, or beside it"),
    ("ct.nrrd.xz", lzma.compress(b"NRRD0004"), "images other than DICOM, or beside it"),
    ("b.tar.gz", b"", "another archive in a zip"),
    ("b", b"7z\xbc\xaf\x27\x1c", "another archive in a zip"),
    ("b.zip", b"", "a zip in a zip"),
    ("b.dat", zipped("IM1", DICOM), "another archive in a zip"),
    ("b.exe", b"MZ" + bytes(99) + zipped("IM1", DICOM), "another archive in a zip"),
    ("a.vtk", b"", "images other than DICOM, or beside it"),
    ("IM1.dcm.gz", gzip.compress(DICOM, mtime=0), "compressed once more"),
    ("IM1", bz2.compress(DICOM), "compressed once more"),
])  # fmt: skip
def test_what_a_zip_holds_and_is_not_read_from_it_has_its_line(series, tmp_path, name, content, cause):
    """Beside a series, which is read, too, as in a folder."""
    for folder in ("in", "to"):
        (tmp_path / folder).mkdir()
    alone, beside = tmp_path / "in" / "alone.zip", pack(series, tmp_path / "in" / "beside.zip", "CT/")
    for file in (alone, beside):
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(f"more/{name}", content)
    with pytest.raises(StudyError, match=cause):
        unpack(alone, tmp_path / "to")
    unpack(beside, tmp_path / "to")
    told: list[str] = []
    itself: list[str] = []
    assert [study.case for study in find_studies(tmp_path / "in", told.append)] == ["beside"]
    assert [study.case for study in find_studies(beside, itself.append)] == ["beside"] and itself == told[1:]
    for line, file in zip(told, (alone, beside), strict=True):
        assert line.startswith(f"{file}: ") and cause in line and f"({name})" in line


def test_labels_and_results_in_a_zip_are_no_cts(series, tmp_path):
    packed = pack(series, tmp_path / "a.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        for name in ("segmentation-1.nii.gz", "prob_mask.nii.gz", ".DS_Store"):
            archive.writestr(name, b"")
    (tmp_path / "to").mkdir()
    unpack(packed, tmp_path / "to")


def test_a_viewer_beside_a_series_is_no_archive_of_images(series, tmp_path):
    """Hospitals' discs hold one; of what it has packed, images are still told."""
    jre = zipped("jre/bin/java.dll", b"MZ" + bytes(9999))
    viewer = {
        "viewer.exe": b"MZ" + bytes(500), "jre.zip": jre, "data1.hdr": b"ISc(" + bytes(500), "help": jre,
        "boot.img": bytes(510) + b"\x55\xaa" + bytes(9), "viewer.jar": zipped("more.jar", jre),
    }  # fmt: skip
    packed = pack(series, tmp_path / "CD.zip", "CT/")
    (tmp_path / "CD").mkdir()
    with zipfile.ZipFile(packed, "a") as archive:
        for name, content in viewer.items():
            archive.writestr(name, content)
            (tmp_path / "CD" / name).write_bytes(content)
    told: list[str] = []
    assert [study.case for study in find_studies(tmp_path, told.append)] == ["CD"] and not told
    for name, content in {"images.zip": DICOM, "more.zip": NIFTI, "zips.zip": jre}.items():
        shutil.copy(packed, tmp_path / "b.zip")
        with zipfile.ZipFile(tmp_path / "b.zip", "a") as archive:
            archive.writestr(name, zipped("a.zip" if content == jre else "a", content))
        find_studies(tmp_path / "b.zip", told.append)
        assert f"a zip in a zip ({name}), which is not opened" in told[-1]


def test_hidden_images_are_no_empty_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("CT/.IM1", DICOM)
    lines: list[str] = []
    with pytest.raises(StudyError, match="holds no CT"):
        find_studies(tmp_path, lines.append)
    assert "hidden by the dot" in lines[0]
    with pytest.raises(StudyError, match="hidden by the dot"):
        unpack(tmp_path / "a.zip", tmp_path)


def test_a_zip_whose_lists_are_damaged_says_so(tmp_path):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("IM1.dcm", DICOM)
    nameless, far = bytearray(whole.getvalue()), bytearray(whole.getvalue())
    nameless[nameless.index(b"PK\1\2") + 28] = 0  # its length
    far[far.index(b"PK\5\6") + 19] = 200  # where the list begins
    for data in (nameless, far):
        (tmp_path / "a.zip").write_bytes(data)
        lines: list[str] = []
        with pytest.raises(StudyError, match="holds no CT"):
            find_studies(tmp_path, lines.append)
        assert lines == [f"{tmp_path / 'a.zip'}: not a readable zip (damaged or cut short). Copy or export it again."]


def test_what_the_system_refuses_while_a_zip_is_unpacked_is_no_matter_of_the_output(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name, cause in (("x" * 300, "too long a name. Unpack it"), ("IM1", "became full. Free space, or set TMPDIR")):
        with zipfile.ZipFile(tmp_path / f"{name[:9]}.zip", "w") as archive:
            archive.writestr(f"{name}.dcm", DICOM)
        (tmp_path / name[:9]).mkdir()
        with pytest.raises(StudyError, match=cause):
            unpack(tmp_path / f"{name[:9]}.zip", tmp_path / name[:9])
        monkeypatch.setattr(shutil, "copyfileobj", full)


def test_a_program_that_unpacks_itself_is_looked_into(series, tmp_path):
    packed = pack(series, tmp_path / "a.zip")
    (tmp_path / "CT.exe").write_bytes(b"MZ" + bytes(500) + packed.read_bytes())
    (tmp_path / "viewer.exe").write_bytes(b"MZ" + bytes(500))
    lines: list[str] = []
    find_studies(tmp_path, lines.append)
    assert len(lines) == 1 and lines[0].startswith(f"{tmp_path / 'CT.exe'}: a zip of images, but its name")


def test_a_zip_that_becomes_more_than_a_ct_can_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("IM1.dcm", DICOM)
        archive.infolist()[0].file_size = 2**31 + 1
    (tmp_path / "to").mkdir()
    with pytest.raises(StudyError, match="2.0 GB from 0.0 MB, though a CT has noise"):
        unpack(tmp_path / "a.zip", tmp_path / "to")


def test_an_archive_is_looked_through_and_inflated_so_far_and_no_further(series, tmp_path, monkeypatch):
    """Its first files may be texts; and a few hundred bytes become gigabytes, which a header of its own may hold."""
    monkeypatch.setattr(archives, "LOOKED_AT", 2**22)
    for name, mode in (("CT.tar", "w"), ("CT", "w:gz")):
        with tarfile.open(tmp_path / name, mode, format=tarfile.USTAR_FORMAT) as archive:
            for number in range(12):
                archive.add(__file__, f"note-{number}")
            archive.add(series, "CT")
    damaged = bytearray((tmp_path / "CT.tar").read_bytes())
    at = damaged.index(b"note-%d" % 5)
    damaged[at + 150] ^= 1  # of a header's checksum, where tarfile would end
    (tmp_path / "damaged.tar").write_bytes(damaged)
    (tmp_path / "cut.tar").write_bytes(damaged[: at + 100])
    for name, kind in {"file.tar.bz2": tarfile.REGTYPE, "header.tar.bz2": tarfile.XHDTYPE}.items():
        entry = tarfile.TarInfo("x")
        entry.size, entry.type = 2**29, kind
        (tmp_path / name).write_bytes(bz2.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(2**25), 9))
    said = {path.name: archives.why_not_opened(path) for path in tmp_path.iterdir()}
    assert all("archive of images" in said[name] for name in ("CT.tar", "CT", "damaged.tar"))
    assert "cannot be looked into" in said["cut.tar"]
    assert all("first 4 MB, and not looked into" in said[name] for name in ("file.tar.bz2", "header.tar.bz2"))


@pytest.mark.parametrize("name, content", [
    ("b.tar.zst", b"\x28\xb5\x2f\xfd"), ("cd.iso", bytes(32769) + b"CD001"), ("b.rar", b"Rar!\x1a\x07\x01"),
    ("b.tar.lz4", b"\x04\x22\x4d\x18"), ("IM1.dcm.xz", lzma.compress(DICOM)), ("IM1.xz", lzma.compress(DICOM)),
    ("ct.mha.bz2", b"BZh9"),
])  # fmt: skip
def test_what_no_reader_opens_has_its_line_in_a_folder_and_alone(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content + bytes(99))
    lines: list[str] = []
    with pytest.raises(StudyError, match="holds no CT"):
        find_studies(tmp_path, lines.append)
    with pytest.raises(StudyError) as error:
        find_studies(path)
    assert lines == [str(error.value)] and lines[0].startswith(f"{path}: ") and "not " in lines[0]


def test_an_archive_of_images_that_is_not_opened_has_its_line(series, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name, mode in (("CT.tar", "w"), ("CT.tgz", "w:gz"), ("CT.tar.xz", "w:xz")):
        with tarfile.open(source / name, mode) as archive:
            archive.add(series, "CT")
    pack(series, source / "CT")
    (source / "CT.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(99))
    (source / "cut.tgz").write_bytes((source / "CT.tgz").read_bytes()[:300])
    before = {path.name for path in source.iterdir()}
    with tarfile.open(source / "notes.tar", "w") as archive:
        archive.add(__file__, "notes.py")
    with zipfile.ZipFile(source / "letter.docx", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    lines = []
    with pytest.raises(StudyError, match="holds no CT"):
        find_studies(source, lines.append)
    assert {Path(line.split(": ")[0]).name for line in lines} == before and all(line.endswith(".") for line in lines)
