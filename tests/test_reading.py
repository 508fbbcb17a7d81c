"""What both bundles promise of their input: geometry as the file has it, and one clear line for what is unusable."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pydicom
import pytest
import torch
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (48, 40, 20), (8.0, 8.0, 10.0)


@pytest.fixture(params=["seg", "cls"])
def study(request):
    """The module that reads studies, of one bundle after the other."""
    root = str(ROOT / "bundles" / f"liver_{request.param}")
    if root not in sys.path:
        sys.path.append(root)
    return importlib.import_module(f"scripts.{request.param}_study")


@pytest.fixture(scope="module")
def ct() -> tuple[np.ndarray, np.ndarray]:
    array, _, affine = phantom.make_phantom(SIZE, SPACING)
    return array, affine


@pytest.fixture
def series(ct, tmp_path) -> list[Path]:
    """The slices of a good DICOM series."""
    return phantom.write_dicom_series(tmp_path / "series", *ct)


def edit(path: Path, **values) -> None:
    """Change attributes of a slice."""
    header = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(header, name, value)
    header.save_as(path)


def test_both_bundles_read_by_the_same_code():
    files = [ROOT / "bundles" / f"liver_{b}" / "scripts" / f"{b}_study.py" for b in ("seg", "cls")]
    assert files[0].read_text() == files[1].read_text()


@pytest.mark.parametrize("pixdim", [(1, 1, 1), (8.001, 8.001, 10.0)])
def test_the_affine_is_the_files_even_where_pixdim_says_otherwise(study, ct, tmp_path, pixdim):
    """MONAI's reader would take pixdim and lose rotation and offset."""
    image = nib.Nifti1Image(ct[0], None)
    image.header.set_sform(ct[1], code=1)
    image.header["pixdim"][1:4] = pixdim
    nib.save(image, tmp_path / "ct.nii.gz")
    read = study.LoadStudyd("image")({"image": str(tmp_path / "ct.nii.gz")})["image"]
    np.testing.assert_allclose(read.affine.numpy(), ct[1], atol=1e-5)
    np.testing.assert_array_equal(read[0].numpy(), ct[0])


@pytest.mark.parametrize(
    "dtype, slope, inter", [("<i2", 1, 0), (">i2", 1, 0), ("<i2", 2, -1024), ("u1", 1, 0), ("<f4", 1, 0)]
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_are_those_nibabel_reads(study, ct, tmp_path, suffix, dtype, slope, inter):
    values = np.asarray(ct[0]).clip(0, 200).astype(dtype)
    image = nib.Nifti1Image(values, ct[1], nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<"))
    image.header.set_slope_inter(slope, inter)
    image.header.set_data_dtype(dtype)
    nib.save(image, tmp_path / f"ct{suffix}")
    read = study.read_image(tmp_path / f"ct{suffix}")
    np.testing.assert_array_equal(read[0].numpy(), nib.load(tmp_path / f"ct{suffix}").get_fdata(dtype=np.float32))
    assert read.dtype == (torch.int16 if dtype == "<i2" and slope == 1 else torch.float32)


def test_a_flipped_bit_in_a_compressed_file_is_noticed(study, ct, tmp_path):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(*ct), path)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # of the checksum at its end
    path.write_bytes(data)
    with pytest.raises(study.StudyError, match="ct.nii.gz: not a readable image"):
        study.read_image(path)


def test_a_trailing_axis_of_one_is_no_fourth_dimension(study, ct, tmp_path):
    nib.save(nib.Nifti1Image(ct[0][..., None], ct[1]), tmp_path / "ct.nii.gz")
    assert study.read_image(tmp_path / "ct.nii.gz").shape == (1, *SIZE)


def test_a_series_is_the_same_as_the_nifti(study, ct, series):
    read = study.read_image(series[0].parent)
    turned = nib.as_closest_canonical(nib.Nifti1Image(read[0].numpy(), read.affine.numpy()))
    expected = nib.as_closest_canonical(nib.Nifti1Image(ct[0].astype(np.float32), ct[1]))
    np.testing.assert_allclose(turned.affine, expected.affine, atol=1e-3)
    np.testing.assert_array_equal(turned.get_fdata(), expected.get_fdata())


def test_what_is_no_slice_of_the_series_is_passed_over(study, series):
    folder = series[0].parent
    expected = study.read_image(folder).shape
    (folder / "LICENSE").write_text("a stray file")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    shutil.copy(series[0], folder / "scout.dcm")
    edit(folder / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID=generate_uid())
    report = pydicom.dcmread(series[0])
    del report.PixelData
    report.Modality, report.SOPInstanceUID = "SR", generate_uid()
    report.save_as(folder / "report.dcm")
    assert study.read_image(folder).shape == expected


def cut(slices: list[Path]) -> Path:
    slices[7].write_bytes(slices[7].read_bytes()[: slices[7].stat().st_size // 2])
    return slices[7]


def no_header(slices: list[Path]) -> Path:
    slices[7].write_bytes(b"no DICOM at all")
    return slices[7]


def lost(slices: list[Path]) -> Path:
    slices[7].unlink()
    return slices[0].parent


def doubled(slices: list[Path]) -> Path:
    shutil.copy(slices[7], slices[7].with_name("again.dcm"))
    return slices[0].parent


def mixed(slices: list[Path]) -> Path:
    edit(slices[7], SeriesInstanceUID=generate_uid())
    return slices[0].parent


def turned(slices: list[Path]) -> Path:
    edit(slices[7], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    return slices[0].parent


def tilted(slices: list[Path]) -> Path:
    for number, path in enumerate(slices):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[x, y + 2.5 * number, z])
    return slices[0].parent


def an_mr(slices: list[Path]) -> Path:
    for path in slices:
        edit(path, Modality="MR")
    return slices[0]


def nothing(slices: list[Path]) -> Path:
    for path in slices:
        path.unlink()
    return slices[0].parent


FAULTS = {
    cut: "slice cannot be read", no_header: "slice cannot be read", lost: "some are missing",
    doubled: "two slices at one position", mixed: "2 CT series in this folder", turned: "different orientations",
    tilted: "tilted gantry", an_mr: "modality is MR", nothing: "no CT slices",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_series_that_would_be_read_wrongly_is_refused(study, series, fault):
    blamed = fault(series)
    with pytest.raises(study.StudyError) as error:
        study.read_image(series[0].parent)
    line = str(error.value)
    assert line.startswith(f"{blamed}: ") and FAULTS[fault] in line and line.endswith(".") and "\n" not in line


def test_a_cpu_without_bf16_computes_in_float32(study, monkeypatch):
    name = study.__name__.split(".")[1].split("_")[0]
    inferer = importlib.import_module(f"scripts.{name}_inferer")
    make = inferer.AdjacentSliceInferer if name == "seg" else inferer.SliceGroupInferer
    for has_it in (False, True):
        monkeypatch.setattr(inferer.torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_it})
        assert make(gop=3).bf16 is has_it and make(gop=3, bf16=not has_it).bf16 is not has_it
