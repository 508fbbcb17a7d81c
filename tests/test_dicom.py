"""DICOM in and out of the chain, and through a DICOM server: where every result must lie, and what it must say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from highdicom.sr import srread
from matplotlib.path import Path as MplPath
from programs import program
from pydicom.uid import generate_uid
from scipy import ndimage
from test_cascade import SIZE, SPACING, bundles, entries, read_result, read_table, run, run_bundle  # noqa: F401

from liver_ct import phantom
from liver_ct.chain import studies

ROOT = Path(__file__).resolve().parents[1]
FILES = {"prob_mask.nii.gz", "liver_mask.nii.gz", "lesion_prob.nii.gz"}  # without options
FILES |= {"slices.csv", "lesions.csv", "result.json"}
DICOM_FILES = {"liver_mask.dcm", "prob_mask.dcm", "prob_map.dcm", "report.dcm"}
DIRECTIONS = ("LPS", "LPI", "RAS", "LAI")  # from the feet, from the head, turned in plane, turned over


def write_series(folder: Path, axcodes: str = "LPS", **values) -> Path:
    """A phantom series without liver in its upper part, under random file names and slice numbers."""
    ct, _, affine = phantom.make_phantom(SIZE, SPACING)
    ct[..., -8:] = ct[..., -8:].clip(None, 0)
    files = phantom.write_dicom_series(folder, ct, affine, axcodes=axcodes)
    for number, path in zip(np.random.default_rng(0).permutation(len(files)), files):
        header = pydicom.dcmread(path)
        header.InstanceNumber = int(number)
        header.update(values)
        header.save_as(path.with_name(f"IM{number:04d}"))
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def done(bundles, tmp_path_factory) -> tuple[Path, Path]:  # noqa: F811
    """Folder of series in several directions, and folder of their results with DICOM output."""
    source, output = tmp_path_factory.mktemp("series"), tmp_path_factory.mktemp("results")
    for axcodes in DIRECTIONS:
        write_series(source / axcodes, axcodes)
    run(source, output, bundles, dicom_output=True)
    return source, output


def place_frames(seg: pydicom.Dataset, image: nib.Nifti1Image, frames: np.ndarray | None = None) -> np.ndarray:
    """Frames of a SEG on the grid of a NIfTI, each put by its own position in space."""
    volume = np.zeros(image.shape, np.uint8)
    to_voxel = np.linalg.inv(image.affine) @ np.diag([-1, -1, 1, 1])
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = shared.PixelMeasuresSequence[0].PixelSpacing
    np.testing.assert_allclose(to_voxel[:3, :3] @ (cosines[0] * columns), [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(to_voxel[:3, :3] @ (cosines[1] * rows), [0, 1, 0], atol=1e-4)
    for frame, group in zip(seg.pixel_array if frames is None else frames, seg.PerFrameFunctionalGroupsSequence):
        voxel = to_voxel @ [*group.PlanePositionSequence[0].ImagePositionPatient, 1]
        np.testing.assert_allclose(voxel[:3], np.round(voxel[:3]), atol=1e-3)
        assert voxel[:2].round().tolist() == [0, 0] and not volume[:, :, round(voxel[2])].any()
        volume[:, :, round(voxel[2])] = frame.T
    return volume


class TestSegmentations:
    @pytest.mark.parametrize("axcodes", DIRECTIONS)
    def test_they_hold_what_the_nifti_files_hold_at_the_same_place(self, done, axcodes):
        folder = done[1] / axcodes
        assert entries(folder) == FILES | DICOM_FILES
        liver, prob = (pydicom.dcmread(folder / name) for name in ("liver_mask.dcm", "prob_mask.dcm"))
        mask, nifti = nib.load(folder / "liver_mask.nii.gz"), nib.load(folder / "prob_mask.nii.gz")
        np.testing.assert_array_equal(place_frames(liver, mask), mask.get_fdata())
        np.testing.assert_allclose(place_frames(prob, nifti) / 255, nifti.get_fdata(), atol=1 / 255)
        assert prob.pixel_array.max() > 250 and len(np.unique(prob.pixel_array)) > 50

    def test_frames_without_liver_are_left_out_and_each_frame_names_its_slice(self, done):
        source, folder = done[0] / "LAI", done[1] / "LAI"
        liver = pydicom.dcmread(folder / "liver_mask.dcm")
        used = nib.load(folder / "liver_mask.nii.gz").get_fdata().any((0, 1)).sum()
        assert liver.NumberOfFrames == used <= SIZE[2] - 4
        places = {s.SOPInstanceUID: s.ImagePositionPatient for s in map(pydicom.dcmread, source.iterdir())}
        for group in liver.PerFrameFunctionalGroupsSequence:
            uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            assert group.PlanePositionSequence[0].ImagePositionPatient == places[uid]

    def test_they_say_what_they_are(self, done):
        folder, ct = done[1] / "LPS", pydicom.dcmread(next((done[0] / "LPS").iterdir()))
        liver, prob = (pydicom.dcmread(folder / name) for name in ("liver_mask.dcm", "prob_mask.dcm"))
        assert (liver.SegmentationType, prob.SegmentationType) == ("BINARY", "FRACTIONAL")
        assert (prob.SegmentationFractionalType, prob.MaximumFractionalValue) == ("PROBABILITY", 255)
        uids = {seg.SOPInstanceUID for seg in (liver, prob)} | {seg.SeriesInstanceUID for seg in (liver, prob)}
        assert len(uids) == 4 and not uids & {ct.SOPInstanceUID, ct.SeriesInstanceUID}
        for seg in (liver, prob):
            (segment,) = seg.SegmentSequence
            assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"  # liver structure
            assert segment.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "SCT"
            assert segment.SegmentAlgorithmType == "AUTOMATIC" and segment.SegmentAlgorithmName == "liver-ct"
            assert "not for diagnosis" in seg.SeriesDescription and "not for diagnosis" in seg.ContentDescription
            same = "PatientName", "PatientID", "PatientSex", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"
            for name in same:
                assert seg[name].value == ct[name].value
            versions = [f"{k} {v['version']}" for k, v in read_result(folder)["bundles"].items()]
            assert list(seg.SoftwareVersions) == versions


def items(container: pydicom.Dataset, name: str) -> list[pydicom.Dataset]:
    """Content items of that name directly below a content item."""
    return [i for i in container.ContentSequence if i.ConceptNameCodeSequence[0].CodeMeaning == name]


def measured(report: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The measurement groups with figures; the others outline in a slice what one of these measures."""
    groups = items(items(report, "Imaging Measurements")[0], "Measurement Group")
    return [group for group in groups if any(item.ValueType == "NUM" for item in group.ContentSequence)]


def places(report: pydicom.Dataset) -> dict[str, pydicom.Dataset]:
    """Of each thing that is tracked, by its UID, the coordinates: its group's own, or those of its certainty."""
    found = {}
    for group in items(items(report, "Imaging Measurements")[0], "Measurement Group"):
        inner = [i for item in group.ContentSequence for i in item.get("ContentSequence", ())]
        drawn = [item for item in [*group.ContentSequence, *inner] if item.ValueType == "SCOORD"]
        for item in drawn:
            found[items(group, "Tracking Unique Identifier")[0].UID] = item
    return found


def filled(item: pydicom.Dataset, shape: tuple[int, int]) -> np.ndarray:
    """What lies within a closed line, of an image of so many columns and rows: [X, Y]."""
    points = np.reshape(item.GraphicData, (-1, 2))
    assert item.GraphicType == "POLYLINE" and (points[0] == points[-1]).all()
    return MplPath(points).contains_points(np.argwhere(np.ones(shape)) + 0.5).reshape(shape)


def number(item: pydicom.Dataset) -> tuple[float, str]:
    value = item.MeasuredValueSequence[0]
    return float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue


class TestReport:
    @pytest.mark.parametrize("axcodes", DIRECTIONS)
    def test_it_says_what_result_json_says_of_the_same_slices(self, done, axcodes):
        source, folder = done[0] / axcodes, done[1] / axcodes
        report, result, rows = srread(folder / "report.dcm"), read_result(folder), read_table(folder)
        heights = {s.SOPInstanceUID: float(s.ImagePositionPatient[2]) for s in map(pydicom.dcmread, source.iterdir())}
        liver, study, *slices = measured(report)
        assert number(items(liver, "Volume")[0]) == (pytest.approx(result["liver_volume_ml"]), "ml")
        segment = items(liver, "Referenced Segment")[0].ReferencedSOPSequence[0]
        assert segment.ReferencedSOPInstanceUID == pydicom.dcmread(folder / "liver_mask.dcm").SOPInstanceUID
        percent = pytest.approx(100 * result["study_tumour_probability"], abs=1e-4)
        assert number(items(study, "Certainty of Finding")[0]) == (percent, "%")
        assert 1 < len(slices) == len(result["flagged_slices"]) < SIZE[2] / 2
        for group, index in zip(slices, result["flagged_slices"]):
            percent = pytest.approx(100 * rows[index].tumour_probability, abs=1e-3)
            assert number(items(group, "Certainty of Finding")[0]) == (percent, "%")
            assert items(group, "Finding")[0].ConceptCodeSequence[0].CodeValue == "126851005"  # neoplasm of liver
            (image,) = items(group, "Source of Measurement")
            uid = image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            assert heights[uid] == pytest.approx(rows[index].z_mm, abs=1e-3)

    @pytest.mark.parametrize("axcodes", DIRECTIONS)
    def test_whatever_is_measured_has_a_place_in_a_slice(self, done, axcodes):
        """OHIF lists what has coordinates, and shows nothing where any has none."""
        source, folder = done[0] / axcodes, done[1] / axcodes
        report, mask = pydicom.dcmread(folder / "report.dcm"), nib.load(folder / "liver_mask.nii.gz")
        voxels, place = np.asarray(mask.dataobj), places(report)
        heights = {s.SOPInstanceUID: float(s.ImagePositionPatient[2]) for s in map(pydicom.dcmread, source.iterdir())}
        groups = measured(report)
        assert {items(group, "Tracking Unique Identifier")[0].UID for group in groups} == {*place}
        for group in groups:
            drawn = place[items(group, "Tracking Unique Identifier")[0].UID]
            uid = drawn.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            k = round((np.linalg.inv(mask.affine) @ [0, 0, heights[uid], 1])[2])
            liver, within = voxels[..., k] > 0, filled(drawn, voxels.shape[:2])
            if liver.any():  # its largest part, holes and all
                largest = np.bincount(ndimage.label(liver, np.ones((3, 3)))[0].ravel())[1:].max()
                assert (liver & within).sum() >= max(0.9 * largest, 0.6 * within.sum())
            else:
                assert within.all()

    def test_it_is_marked_as_an_algorithms_and_unverified(self, done):
        report = pydicom.dcmread(done[1] / "LPS" / "report.dcm")
        assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
        assert "not for diagnosis" in items(report, "Comment")[0].TextValue
        assert items(report, "Observer Type")[0].ConceptCodeSequence[0].CodeMeaning == "Device"
        group = measured(report)[1]
        assert items(group, "Algorithm Name")[0].TextValue == "liver-ct"
        assert "liver_cls" in items(group, "Algorithm Version")[0].TextValue


KNOWN = "Unrecognized defined term = <QUANTITY>"  # a warning: this checker is older than what the standard says of maps
OBJECTS = (["CTImage"], ["Segmentation"], ["Comprehensive3DSR"], ["ParametricMap"])


@pytest.mark.parametrize("name", ["slice", *studies.DICOM_OUTPUTS])
def test_a_dicom_checker_finds_no_error(done, name):
    """The phantom's slices too, so that nothing has to be excused in what is made of them."""
    file = next((done[0] / "LPS").iterdir()) if name == "slice" else done[1] / "LPS" / name
    found = subprocess.run([program("dciodvfy", "dicom3tools"), "-new", file], capture_output=True, text=True).stderr
    assert [line for line in found.split("\n") if line and KNOWN not in line] in OBJECTS


class TestOption:
    def test_seconds_are_told_and_without_the_option_nothing_is_written(self, done, bundles, tmp_path):  # noqa: F811
        assert read_result(done[1] / "LPS")["seconds"]["dicom"] > 0
        run(done[0] / "LPS", tmp_path, bundles)
        assert entries(tmp_path / "LPS") == FILES
        assert "dicom" not in read_result(tmp_path / "LPS")["seconds"]
        run(done[0] / "LPS", tmp_path, bundles, dicom_output=True)  # finished, but not with these
        assert entries(tmp_path / "LPS") == FILES | DICOM_FILES

    def test_a_finished_study_keeps_its_objects(self, done, bundles, capsys):  # noqa: F811
        before = (done[1] / "LPS" / "report.dcm").read_bytes()
        run(done[0], done[1], bundles, dicom_output=True)
        assert capsys.readouterr().out.count("finished before") == len(DIRECTIONS)
        assert (done[1] / "LPS" / "report.dcm").read_bytes() == before

    def test_two_runs_give_objects_of_their_own(self, done, bundles, tmp_path):  # noqa: F811
        run(done[0] / "LPS", tmp_path, bundles, dicom_output=True)
        for name in studies.DICOM_OUTPUTS:
            one, other = (pydicom.dcmread(folder / "LPS" / name) for folder in (done[1], tmp_path))
            assert one.SOPInstanceUID != other.SOPInstanceUID and one.StudyInstanceUID == other.StudyInstanceUID

    def test_a_ct_that_is_no_dicom_is_done_without_and_that_is_said(self, done, bundles, tmp_path, capsys):  # noqa: F811
        ct, _, affine = phantom.make_phantom(SIZE, SPACING)
        shutil.copytree(done[0] / "LPS", tmp_path / "in" / "series")
        nib.save(nib.Nifti1Image(ct, affine), tmp_path / "in" / "nifti.nii.gz")
        for _ in range(2):
            run(tmp_path / "in", tmp_path / "out", bundles, dicom_output=True)
        assert entries(tmp_path / "out" / "nifti") == FILES
        assert entries(tmp_path / "out" / "series") == FILES | DICOM_FILES
        printed = capsys.readouterr().out
        assert printed.count("without DICOM, as it is no DICOM series") == 2 and printed.count("finished before") == 2

    def test_what_an_anonymiser_took_is_filled_in(self, bundles, tmp_path):  # noqa: F811
        series = write_series(tmp_path / "in")
        for path in series.iterdir():
            header = pydicom.dcmread(path)
            header.SOPClassUID = header.SOPInstanceUID = ""
            gone = "SliceThickness", "PatientPosition", "PositionReferenceIndicator", "ImageType", "SeriesNumber"
            for name in gone:
                delattr(header, name) if name in header else None
            header.save_as(path)
        run(series, tmp_path / "out", bundles, dicom_output=True)
        seg = pydicom.dcmread(tmp_path / "out" / "in" / "liver_mask.dcm")
        assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == SPACING[2]

    def test_a_ct_that_is_not_axial_dicom_has_its_line(self, bundles, tmp_path, capsys):  # noqa: F811
        causes = {"coronal": "axial", "nowhere": "FrameOfReferenceUID is missing", "same": "the same SOPInstanceUID"}
        causes["scattered"] = "its slices have a FrameOfReferenceUID each"
        ct, _, affine = phantom.make_phantom(SIZE, SPACING)
        phantom.write_dicom_series(tmp_path / "in" / "coronal", ct, affine, axcodes="LIP")
        write_series(tmp_path / "in" / "nowhere", FrameOfReferenceUID="")
        write_series(tmp_path / "in" / "same", SOPInstanceUID=generate_uid())
        for path in write_series(tmp_path / "in" / "scattered").iterdir():
            header = pydicom.dcmread(path)
            header.FrameOfReferenceUID = generate_uid()
            header.save_as(path)
        with pytest.raises(SystemExit):
            run(tmp_path / "in", tmp_path / "out", bundles, dicom_output=True)
        lines = "\n".join(sorted(capsys.readouterr().err.splitlines()))
        assert lines.count("ERROR") == len(causes) and entries(tmp_path / "out") == set()
        for name, cause in causes.items():
            assert cause in next(line for line in lines.splitlines() if f"/in/{name}" in line)

    def test_a_slice_that_is_none_of_few_has_its_line(self, bundles, tmp_path, capsys):  # noqa: F811
        size, spacing = (64, 56, 64), (6.0, 6.0, 3.0)
        (ct, _, affine), (other, _, _) = (phantom.make_phantom(size, spacing, seed=seed) for seed in (0, 3))
        shuffled = np.random.default_rng(0).permutation(ct[..., 23].ravel()).reshape(size[:2])
        faults = {"foreign": (9, 25, other[..., 41]), "first": (5, 21, other[..., 37]), "region": (5, 25, ct[..., 3])}
        faults |= {"mirrored": (3, 22, ct[::-1, :, 22]), "shuffled": (5, 23, shuffled)}
        for name, (count, place, values) in faults.items():
            changed = ct.copy()
            changed[..., place] = values
            phantom.write_dicom_series(tmp_path / "in" / name, changed[..., 21 : 21 + count], affine)
        with pytest.raises(SystemExit):
            run(tmp_path / "in", tmp_path / "out", bundles)
        lines = [line for line in capsys.readouterr().err.splitlines() if "ERROR" in line]
        assert len(lines) == len(faults) and entries(tmp_path / "out") == set()
        for name, (count, _, _) in faults.items():
            (line,) = [line for line in lines if f"/in/{name}:" in line]
            assert re.search(rf"slice \d of 0 to {count - 1} \(.*\) (does not|is)", line)

    @pytest.mark.parametrize(
        "letters, name", [("ISO_IR 100", "Sécret^Ünal"), (["", "ISO 2022 IR 87"], "Secret^Tarou=山田^太郎")]
    )
    def test_odd_patient_data_stops_nothing_and_is_not_printed(self, bundles, tmp_path, capfd, letters, name):
        odd = {"PatientBirthDate": "1.1.1950", "PatientSex": "secret", "StudyTime": "noon", "PatientAge": "old"}
        series = write_series(tmp_path / "in", PatientName=name, SpecificCharacterSet=letters, **odd)
        for path in series.iterdir():
            header = pydicom.dcmread(path)
            del header.StudyID, header.AccessionNumber, header.ReferringPhysicianName
            header.save_as(path)
        run(series, tmp_path / "out", bundles, dicom_output=True)
        for file in studies.DICOM_OUTPUTS:
            assert pydicom.dcmread(tmp_path / "out" / "in" / file).PatientName == name
        assert "cret" not in "".join(capfd.readouterr())


class TestFolders:
    @pytest.fixture
    def mixed(self, done, tmp_path) -> Path:
        """A study's folder as a PACS hands it out: two series, a scout, and results of an earlier run."""
        folder = tmp_path / "mixed"
        shutil.copytree(done[0] / "LPS", folder)
        for path in write_series(tmp_path / "other", SeriesNumber=5, PatientName="Secret").iterdir():
            path.rename(folder / f"other{path.name}")
        scout = pydicom.dcmread(next(folder.iterdir()))
        scout.update({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": generate_uid()})
        scout.save_as(folder / "scout")
        for name in studies.DICOM_OUTPUTS:
            shutil.copy(done[1] / "LPS" / name, folder)
        return folder

    def test_the_series_are_listed_and_one_is_chosen(self, done, bundles, mixed, tmp_path):  # noqa: F811
        command = [sys.executable, str(ROOT / "scripts" / "cascade.py"), "--input", mixed]
        command += ["--output", tmp_path / "out", "--picture", "false", "--device", "cpu"]
        command += [word for key, value in bundles.items() for word in (f"--{key}", value)]
        ended = subprocess.run([*map(str, command)], capture_output=True, text=True)
        (line,) = ended.stderr.splitlines()
        assert ended.returncode == 1 and line.startswith(f"ERROR {mixed}: 2 CT series in this folder: ")
        assert "1, 24 slices 10 mm apart, kernel B30f" in line and "5, 24 slices" in line and "Secret" not in line
        run(mixed, tmp_path / "out", bundles, series="1")
        one, other = (folder / "prob_mask.nii.gz" for folder in (done[1] / "LPS", tmp_path / "out" / "mixed"))
        assert one.read_bytes() == other.read_bytes()
        assert read_result(tmp_path / "out" / "mixed")["series"] == "1"

    def test_another_series_is_another_result(self, bundles, mixed, tmp_path, capsys):  # noqa: F811
        for series in ("1", "5", "5"):
            run(mixed, tmp_path / "out", bundles, series=series)
        assert capsys.readouterr().out.count("finished before") == 1
        with pytest.raises(SystemExit):
            run(mixed, tmp_path / "out", bundles)
        assert "2 CT series" in capsys.readouterr().err and read_result(tmp_path / "out" / "mixed")["series"] == "5"

    def test_folders_of_reports_and_scouts_are_no_studies(self, done, mixed, tmp_path):
        for name, files in (
            ("SEG", ["liver_mask.dcm"]),
            ("MAP", ["prob_map.dcm"]),
            ("SR", ["report.dcm"]),
            ("SCOUT", ["scout"]),
        ):
            (tmp_path / "export" / name).mkdir(parents=True)
            for file in files:
                shutil.copy(mixed / file, tmp_path / "export" / name)
        shutil.copytree(done[0] / "LPS", tmp_path / "export" / "CT")
        shutil.copytree(done[1] / "LPS", tmp_path / "export" / "RESULTS")
        assert [study.case for study in studies.find_studies(tmp_path / "export")] == ["CT"]

    def test_both_bundles_read_series_by_themselves(self, done, bundles, tmp_path):  # noqa: F811
        shutil.copytree(done[0] / "LAI", tmp_path / "in" / "LAI")
        seg, cls = tmp_path / "seg", tmp_path / "cls"
        run_bundle(
            bundles["seg_bundle"], dataset_dir=str(tmp_path / "in"), pattern="*", output_dir=str(seg), series="1"
        )
        knobs = {"dataset_dir": str(tmp_path / "in"), "pattern": "*", "prob_dir": str(seg), "output_dir": str(cls)}
        run_bundle(bundles["cls_bundle"], **knobs)
        for name, postfix in (("prob_mask", "prob"), ("liver_mask", "seg")):
            one, other = nib.load(done[1] / "LAI" / f"{name}.nii.gz"), nib.load(seg / "LAI" / f"LAI_{postfix}.nii.gz")
            np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
        found = json.loads((cls / "LAI" / "LAI_tumour.json").read_text())
        assert found["flagged_slices"] == read_result(done[1] / "LAI")["flagged_slices"]


# ------------------------------------------------------------------------------------------------ a DICOM server

BRING_LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
os.execv(sys.argv[1], sys.argv[1:])
"""
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


class Pacs:
    """Orthanc in a network of its own, which has nothing but loopback: Orthanc's DICOM port cannot be bound to that."""

    def __init__(self, folder: Path) -> None:
        orthanc = program("Orthanc", "orthanc")
        config = {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": [],
            "DicomAet": "PACS", "DicomPort": 4242, "HttpPort": 8042, "RemoteAccessAllowed": False,
            "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(config))
        apart = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
        if subprocess.run([*apart, "true"], capture_output=True).returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("this system allows no network namespace")
        command = [*apart, sys.executable, "-c", BRING_LOOPBACK_UP, orthanc, str(folder / "orthanc.json")]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while self.call("echoscu", check=False).returncode:
            assert self.process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)

    def call(self, name: str, *options: str | Path, check: bool = True) -> subprocess.CompletedProcess:
        """Run one of dcmtk's clients against the server: options, then files."""
        files = [option for option in options if isinstance(option, Path)]
        words = [option for option in options if not isinstance(option, Path)]
        return self._inside([program(name, "dcmtk"), *words, "127.0.0.1", "4242", *map(str, files)], check)

    def rest(self, path: str) -> dict:
        """What the server's REST interface answers."""
        return json.loads(self._inside([sys.executable, "-c", GET, f"http://127.0.0.1:8042{path}"], True).stdout)

    def tags(self, instance: str) -> dict:
        """An instance's attributes by name."""
        return self.rest(f"/instances/{instance}/simplified-tags")

    def fetch(self, folder: Path, level: str, **keys: str) -> list[Path]:
        """C-GET of a study or series into a folder."""
        folder.mkdir()
        words = [word for key, value in keys.items() for word in ("-k", f"{key}={value}")]
        self.call("getscu", "-S", "-od", str(folder), "-k", f"QueryRetrieveLevel={level}", *words)
        return sorted(folder.iterdir())

    def find(self, folder: Path, level: str, **keys: str) -> list[pydicom.Dataset]:
        """C-FIND; an empty key is asked for."""
        folder.mkdir()
        words = [word for key, value in keys.items() for word in ("-k", f"{key}={value}")]
        self.call("findscu", "-S", "-X", "-od", str(folder), "-k", f"QueryRetrieveLevel={level}", *words)
        return [pydicom.dcmread(path, force=True) for path in folder.iterdir()]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    def _inside(self, command: list[str], check: bool) -> subprocess.CompletedProcess:
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", "--target", str(self.process.pid), "--net", *user]
        return subprocess.run([*enter, *command], check=check, capture_output=True, text=True, timeout=120)


@pytest.fixture
def pacs(tmp_path):
    (tmp_path / "pacs").mkdir()
    server = Pacs(tmp_path / "pacs")
    yield server
    server.stop()


def test_from_a_dicom_server_through_the_chain_and_back(pacs, done, bundles, tmp_path):  # noqa: F811
    sent = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (done[0] / "LPI").iterdir())}
    first = next(iter(sent.values()))
    study, series = str(first.StudyInstanceUID), str(first.SeriesInstanceUID)
    pacs.call("storescu", "--required", "+sd", done[0] / "LPI")

    (found,) = pacs.find(tmp_path / "q1", "SERIES", StudyInstanceUID=study, Modality="CT", SeriesInstanceUID="")
    assert found.SeriesInstanceUID == series
    fetched = pacs.fetch(tmp_path / "ct", "SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)
    assert len(fetched) == SIZE[2] and all(sent[ds.SOPInstanceUID] == ds for ds in map(pydicom.dcmread, fetched))

    run(tmp_path / "ct", tmp_path / "out", bundles, dicom_output=True)
    results = [tmp_path / "out" / "ct" / name for name in studies.DICOM_OUTPUTS]
    pacs.call("storescu", "--required", *results)
    keys = {"StudyInstanceUID": study, "Modality": "", "SeriesInstanceUID": "", "SeriesDescription": ""}
    listed = pacs.find(tmp_path / "q2", "SERIES", **keys)
    assert sorted(ds.Modality for ds in listed) == ["CT", "OT", "SEG", "SEG", "SR"]
    (patient,) = pacs.find(tmp_path / "q3", "STUDY", StudyInstanceUID=study, PatientID="", PatientName="")
    assert (patient.PatientID, patient.PatientName) == (first.PatientID, first.PatientName)
    assert pacs.rest("/statistics")["CountStudies"] == 1 and pacs.rest("/statistics")["CountInstances"] == SIZE[2] + 4

    (tmp_path / "all").mkdir()
    back = {}
    for number, each in enumerate(listed):
        if each.Modality == "OT":  # a Parametric Map, for which dcmtk's getscu does not ask
            continue
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": each.SeriesInstanceUID}
        for file in pacs.fetch(tmp_path / f"get{number}", "SERIES", **keys):
            header = pydicom.dcmread(file)
            back[header.SOPInstanceUID] = header
            file.rename(tmp_path / "all" / file.name)
    for result in map(pydicom.dcmread, results):
        assert result.Modality == "OT" or back[result.SOPInstanceUID] == result
    shutil.copy(tmp_path / "out" / "ct" / "prob_map.dcm", tmp_path / "all")
    stored = {tags["SOPInstanceUID"]: tags for each in pacs.rest("/instances") if (tags := pacs.tags(each))}
    prob_map = pydicom.dcmread(tmp_path / "out" / "ct" / "prob_map.dcm")
    assert stored[prob_map.SOPInstanceUID]["NumberOfFrames"] == str(prob_map.NumberOfFrames) == str(SIZE[2])
    run(tmp_path / "all", tmp_path / "out", bundles)  # the whole study, results and all, in one folder
    one, other = (tmp_path / "out" / case / "prob_mask.nii.gz" for case in ("ct", "all"))
    assert one.read_bytes() == other.read_bytes()
