"""Probabilities as DICOM Parametric Maps, and lesions as segments and measurements: what they hold, and where."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from programs import program
from test_cascade import bundles, run  # noqa: F401
from test_dicom import KNOWN, OBJECTS, filled, items, measured, number, place_frames, places, write_series

from liver_ct import LiverCT, write_dicom
from liver_ct.outputs.lesions import find_lesions

FILES = {"liver_mask.dcm", "prob_mask.dcm", "prob_map.dcm", "report.dcm"}
LESION_FILES = {"lesions.dcm", "lesion_map.dcm"}
DIRECTIONS = ("LPS", "RAI")  # from the feet; turned, and from the head


def with_lesions(study, shown_as: str):
    """A study with two lesions drawn into its liver, the smaller one touching the larger one's corner."""
    prob = np.zeros(study.ct.shape, np.uint8)
    x, y, z = (int(v) for v in np.argwhere(study.liver_mask).mean(0))
    prob[x - 3 : x + 3, y - 2 : y + 2, z - 1 : z + 2] = 250
    prob[x - 6, y - 5, z - 3] = 140
    return dataclasses.replace(
        study, lesions=find_lesions(prob, study.ct, study.liver_mask, study.affine, shown_as=shown_as)
    )


@pytest.fixture(scope="module")
def studies(bundles, tmp_path_factory) -> dict:  # noqa: F811
    """Studies with lesions, and the folder of each one's objects and NIfTI files."""
    chain, made = LiverCT(device="cpu", **bundles), {}
    for axcodes, shown_as in zip(DIRECTIONS, ("candidate", "lesion")):
        folder = tmp_path_factory.mktemp(axcodes)
        study = with_lesions(chain(write_series(folder / "series", axcodes)), shown_as)
        write_dicom(study, folder / "out")
        made[axcodes] = study, folder / "out"
    return made


def on_grid(dataset: pydicom.Dataset, study) -> np.ndarray:
    """Frames of a Parametric Map on the CT's grid, each put by its own position."""
    volume, to_voxel = (
        np.full(study.ct.shape, np.nan, np.float32),
        np.linalg.inv(study.affine) @ np.diag([-1, -1, 1, 1]),
    )
    for frame, group in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence):
        voxel = to_voxel @ [*group.PlanePositionSequence[0].ImagePositionPatient, 1]
        np.testing.assert_allclose(voxel[:3], [0, 0, round(voxel[2])], atol=1e-3)
        volume[:, :, round(voxel[2])] = frame.T
    return volume


@pytest.mark.parametrize("axcodes", DIRECTIONS)
class TestMaps:
    def test_they_hold_the_very_values_of_the_nifti(self, studies, axcodes, tmp_path):
        """Also where they are a half of a byte's step, as near as float32 comes to it."""
        study, folder = studies[axcodes][0], tmp_path / "saved"
        prob, edges = study.prob_mask.copy(), ((np.arange(255) + 0.5) / 255).astype(np.float32)
        edges = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(1))])
        prob[prob.nonzero()] = np.resize(edges, np.count_nonzero(prob))
        dataclasses.replace(study, prob_mask=prob).save(folder, ["dicom"])
        stored = np.asarray(nib.load(folder / "prob_mask.nii.gz").dataobj.get_unscaled())
        assert len(np.unique(stored)) > 250
        for name, values in (("prob_map.dcm", stored), ("lesion_map.dcm", study.lesions.prob)):
            found = on_grid(pydicom.dcmread(folder / name), study)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, values / np.float32(255))
        frames = pydicom.dcmread(folder / "prob_mask.dcm").pixel_array
        np.testing.assert_array_equal(np.bincount(frames.ravel())[1:], np.bincount(stored.ravel())[1:])

    def test_each_slice_has_a_frame_and_they_run_up_the_normal(self, studies, axcodes):
        """OHIF lays them on its slices by their order, whatever their positions say."""
        study, folder = studies[axcodes]
        made = pydicom.dcmread(folder / "prob_map.dcm")
        cosines = [
            float(v) for v in made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
        ]
        normal = np.cross(cosines[:3], cosines[3:])
        groups = made.PerFrameFunctionalGroupsSequence
        heights = [np.dot(normal, group.PlanePositionSequence[0].ImagePositionPatient) for group in groups]
        assert len(heights) == study.ct.shape[2] and (np.diff(heights) > 0).all()
        for group, file in zip(groups, study.files):
            source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            assert source == pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID

    def test_highdicom_reads_them_in_their_unit(self, studies, axcodes):
        study, folder = studies[axcodes]
        image = hd.imread(folder / "lesion_map.dcm")
        assert image.get_volume(apply_real_world_transform=True).array.max() == np.float32(250 / 255)
        (mapping,) = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
        assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "110854"


@pytest.mark.parametrize("axcodes", DIRECTIONS)
class TestLesions:
    def test_each_is_a_segment_where_it_lies(self, studies, axcodes):
        study, folder = studies[axcodes]
        seg = pydicom.dcmread(folder / "lesions.dcm")
        assert (
            [s.SegmentNumber for s in seg.SegmentSequence]
            == [lesion.number for lesion in study.lesions.found]
            == [1, 2]
        )
        image, labels = nib.Nifti1Image(study.lesions.labels, study.affine), np.asarray(study.lesions.labels)
        frames, groups = seg.pixel_array, seg.PerFrameFunctionalGroupsSequence
        for n in (1, 2):
            own = [i for i, g in enumerate(groups) if g.SegmentIdentificationSequence[0].ReferencedSegmentNumber == n]
            part = pydicom.Dataset()
            part.SharedFunctionalGroupsSequence = seg.SharedFunctionalGroupsSequence
            part.PerFrameFunctionalGroupsSequence = [groups[i] for i in own]
            np.testing.assert_array_equal(place_frames(part, image, frames[own]), labels == n)

    def test_the_report_measures_each_on_its_segment(self, studies, axcodes):
        study, folder = studies[axcodes]
        seg, report = (pydicom.dcmread(folder / name) for name in ("lesions.dcm", "report.dcm"))
        groups, place = measured(report), places(report)
        word = study.lesions.shown_as.capitalize()
        own = [g for g in groups if items(g, "Tracking Identifier")[0].TextValue.startswith(f"{word} ")]
        assert len(own) == 2
        for group, lesion, segment in zip(own, study.lesions.found, seg.SegmentSequence):
            assert items(group, "Tracking Identifier")[0].TextValue == segment.SegmentLabel == f"{word} {lesion.number}"
            assert segment.TrackingUID == items(group, "Tracking Unique Identifier")[0].UID
            reference = items(group, "Referenced Segment")[0].ReferencedSOPSequence[0]
            assert (reference.ReferencedSOPInstanceUID, reference.ReferencedSegmentNumber) == (
                seg.SOPInstanceUID,
                lesion.number,
            )
            assert number(items(group, "Long axis")[0]) == (lesion.diameter_mm, "mm")
            assert number(items(group, "Volume")[0]) == (lesion.volume_ml, "ml")
            assert number(items(group, "Attenuation Coefficient")[0]) == (lesion.mean_hu, "[hnsf'U]")
            assert number(items(group, "Certainty of Finding")[0]) == (pytest.approx(100 * lesion.probability), "%")
            (key,) = [i for i in items(group, "Long axis")[0].ContentSequence if i.ValueType == "IMAGE"]
            header = pydicom.dcmread(study.files[lesion.key_slice], stop_before_pixels=True)
            assert key.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
            drawn = place[segment.TrackingUID]
            assert drawn.ContentSequence[0].ReferencedSOPSequence == key.ReferencedSOPSequence
            within = study.lesions.labels[..., lesion.key_slice] == lesion.number
            np.testing.assert_array_equal(filled(drawn, within.shape), within)

    def test_candidates_are_not_called_lesions(self, studies, axcodes):
        study, folder = studies[axcodes]
        is_lesion = study.lesions.shown_as == "lesion"
        report = pydicom.dcmread(folder / "report.dcm")
        group = measured(report)[1]
        finding = items(group, "Finding")[0].ConceptCodeSequence[0]
        assert finding.CodeMeaning == ("Lesion" if is_lesion else "Selected region")
        assert any("Candidates are" in item.TextValue for item in items(report, "Comment")) != is_lesion
        segment = pydicom.dcmread(folder / "lesions.dcm").SegmentSequence[0]
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == finding.CodeValue

    def test_a_dicom_checker_finds_no_error(self, studies, axcodes):
        _, folder = studies[axcodes]
        assert {file.name for file in folder.iterdir()} == FILES | LESION_FILES
        for file in sorted(folder.iterdir()):
            command = [program("dciodvfy", "dicom3tools"), "-new", file]
            found = subprocess.run(command, capture_output=True, text=True).stderr
            assert [line for line in found.split("\n") if line and KNOWN not in line] in OBJECTS, file


def test_without_lesions_there_are_no_objects_of_them(studies, tmp_path):
    study = studies["LPS"][0]
    none = study.lesions._replace(found=(), labels=np.zeros_like(study.lesions.labels))
    for name, lesions in (("none", none), ("no-map", None)):
        write_dicom(dataclasses.replace(study, lesions=lesions), tmp_path / name)
        assert {file.name for file in (tmp_path / name).iterdir()} == FILES


def test_a_study_whose_lesion_objects_are_lost_gets_all_anew(studies, bundles, tmp_path, capsys):  # noqa: F811
    study, _ = studies["LPS"]
    run(study.source, tmp_path, bundles, dicom_output=True)
    (target,) = (path for path in tmp_path.iterdir() if path.is_dir())
    result = json.loads((target / "result.json").read_text())
    stale = (target / "report.dcm").read_bytes()
    if result.get("lesions"):
        (target / "lesions.dcm").unlink()
    else:  # a network that draws no map: as if it had found one
        result["lesions"] = [{"number": 1}]
        (target / "result.json").write_text(json.dumps(result))
        for name in ("lesion_prob.nii.gz", "lesions.csv"):
            (target / name).touch()
    run(study.source, tmp_path, bundles, dicom_output=True)
    assert "finished before" not in capsys.readouterr().out and (target / "report.dcm").read_bytes() != stale
