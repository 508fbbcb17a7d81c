"""scripts/phantom.py: the anatomy is where it belongs, whatever the storage, and its files can be read by others."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from conftest import AXCODES
from scipy import ndimage

from liver_ct import phantom


def world_centre(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of a mask in RAS mm."""
    return nib.affines.apply_affine(affine, np.argwhere(mask).mean(axis=0))


@pytest.fixture(scope="module")
def middle():
    """A phantom fine enough to look at: 3 mm in plane, 5 mm slices."""
    return phantom.make_phantom((128, 104, 44), (3, 3, 5), seed=1, tumours=3)


def test_liver_lies_on_the_patients_right_and_has_a_livers_size(middle):
    ct, labels, affine = middle
    x, _, _ = world_centre(labels > 0, affine)
    assert x > 30  # RAS: +x is the patient's right
    assert 1200 < (labels > 0).sum() * 0.045 < 2000  # ml


def test_tissues_have_plausible_hu(middle):
    ct, labels, _ = middle
    assert (ct.dtype, labels.dtype) == (np.int16, np.uint8)
    assert 98 < np.median(ct[labels == 1]) < 112
    assert 50 < np.median(ct[labels == 2]) < 80
    assert ct.min() < -950 and ct.max() > 300
    around = [((ct > low) & (ct < high)).mean() for low, high in ((-130, -70), (30, 80), (-900, -800))]
    assert all(share > 0.02 for share in around)  # fat, muscle, lung


def test_tumours_are_counted_and_lie_in_the_liver():
    ct, labels, _ = phantom.make_phantom((128, 104, 44), (3, 3, 5), seed=2, tumours=2, tumour_radius=(9, 12))
    assert ndimage.label(labels == 2)[1] == 2
    grown = ndimage.binary_dilation(labels == 2, iterations=1) & (labels == 0)
    assert grown.sum() < 0.3 * (labels == 2).sum()


def test_no_tumours_and_no_liver_on_request(tiny):
    assert set(np.unique(phantom.make_phantom(**{**tiny, "tumours": 0})[1])) == {0, 1}
    assert not phantom.make_phantom(**tiny, liver=False)[1].any()


def test_same_seed_same_phantom_other_seed_another(tiny):
    first, again, other = (phantom.make_phantom(**tiny, seed=seed)[0] for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize(
    ("mm", "low", "high"), [(0.75, 0.5, 0.8), (1.5, 0.5, 0.8), (3.0, -0.1, 0.15), (4.0, -0.1, 0.1)]
)
def test_neighbours_share_noise_as_far_as_a_kernel_reaches(mm, low, high):
    """In mm: coarse voxels share none, or they would form blobs that look like tumours."""
    knobs = {"size": (48, 48, 4), "spacing": (mm, mm, 5.0), "tumours": 0, "dtype": np.float32}
    noisy, clean = (phantom.make_phantom(**knobs, noise=noise)[0] for noise in (12.0, 0.0))
    noise = noisy - clean
    assert noise.std() == pytest.approx(12, abs=0.2)
    for one, other in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        assert low < np.corrcoef(one.ravel(), other.ravel())[0, 1] < high


@pytest.mark.parametrize("codes", AXCODES)
def test_every_orientation_holds_the_same_patient(tiny, codes):
    knobs = {**tiny, "noise": 0}
    ct, labels, affine = phantom.make_phantom(**knobs, axcodes=codes)
    assert "".join(nib.aff2axcodes(affine)) == codes
    reference = nib.as_closest_canonical(nib.Nifti1Image(*phantom.make_phantom(**knobs)[::2]))
    turned = nib.as_closest_canonical(nib.Nifti1Image(ct, affine))
    assert np.allclose(turned.affine, reference.affine)
    assert (np.asanyarray(turned.dataobj) == np.asanyarray(reference.dataobj)).all()


def test_odd_geometry_and_dtype():
    ct, labels, affine = phantom.make_phantom((33, 47, 9), (11.0, 7.0, 15.5), tilt=(10, 0, 5), dtype=np.float32)
    assert ct.shape == labels.shape == (33, 47, 9) and ct.dtype == np.float32
    assert np.allclose(nib.affines.voxel_sizes(affine), (11, 7, 15.5))
    assert np.abs(affine[:3, :3] - np.diag(np.diag(affine)[:3])).max() > 0.1  # oblique


def dicom_affine(slices: list) -> np.ndarray:
    """Affine in DICOM coordinates of a sorted series, for voxels indexed [column, row, slice]."""
    affine = np.eye(4)
    directions = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3).T
    affine[:3, :2] = directions * [float(v) for v in slices[0].PixelSpacing][::-1]
    positions = np.array([item.ImagePositionPatient for item in slices], float)
    affine[:3, 2], affine[:3, 3] = (positions[-1] - positions[0]) / (len(slices) - 1), positions[0]
    return affine


@pytest.mark.parametrize("tilt", [(0, 0, 0), (8, 0, 4)])
def test_dicom_series_reads_back_on_the_same_grid(tmp_path, tiny, tilt):
    ct, _, affine = phantom.make_phantom(**tiny, axcodes="RSP", tilt=tilt)
    slices = [pydicom.dcmread(path) for path in phantom.write_dicom_series(tmp_path / "series", ct, affine)]
    stored = np.stack([item.pixel_array.T for item in slices], axis=-1).astype(np.int16) - 1024
    back = nib.as_closest_canonical(nib.Nifti1Image(stored, np.diag([-1, -1, 1, 1]) @ dicom_affine(slices)))
    truth = nib.as_closest_canonical(nib.Nifti1Image(ct, affine))
    assert np.allclose(back.affine, truth.affine, atol=1e-3)
    assert (np.asanyarray(back.dataobj) == np.asanyarray(truth.dataobj)).all()


def test_dicom_slices_are_ct_images_sorted_from_the_feet(tmp_path, tiny):
    ct, _, affine = phantom.make_phantom(**tiny)
    slices = [pydicom.dcmread(path) for path in phantom.write_dicom_series(tmp_path, ct, affine)]
    heights = [float(item.ImagePositionPatient[2]) for item in slices]
    assert heights == sorted(heights) and len(set(heights)) == len(heights)
    assert {item.SOPClassUID.name for item in slices} == {"CT Image Storage"}
    assert {int(item.RescaleIntercept) for item in slices} == {-1024}
    assert len({item.SOPInstanceUID for item in slices}) == len(slices)


def test_command_line_writes_lits_layout(tmp_path):
    script = Path(__file__).resolve().parents[1] / "scripts" / "phantom.py"
    command = [sys.executable, script, "make", "--output", tmp_path, "--cases", "2", "--size", "32,24,12"]
    subprocess.run([*map(str, command), "--spacing", "12,12,14"], check=True, capture_output=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{role}-{n}.nii.gz" for role in ("segmentation", "volume") for n in (0, 1)]
    assert nib.aff2axcodes(nib.load(tmp_path / "volume-1.nii.gz").affine) == ("L", "P", "S")
