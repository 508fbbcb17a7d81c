"""What both bundles promise of their input: geometry as the file has it, and one clear line for what is unusable."""

from __future__ import annotations

import io
import shutil
from functools import partial
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from conftest import bundle_module
from PIL import Image
from programs import store_by
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import generate_uid

from liver_ct import phantom

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (48, 40, 20), (8.0, 8.0, 10.0)


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


@pytest.mark.parametrize("pixdim", [(1, 1, 1), (8.001, 8.001, 10.0)])
def test_the_affine_is_the_files_even_where_pixdim_says_otherwise(reading, ct, tmp_path, pixdim):
    """MONAI's reader would take pixdim and lose rotation and offset."""
    image = nib.Nifti1Image(ct[0], None)
    image.header.set_sform(ct[1], code=1)
    image.header["pixdim"][1:4] = pixdim
    nib.save(image, tmp_path / "ct.nii.gz")
    read = reading.LoadStudyd("image")({"image": str(tmp_path / "ct.nii.gz")})["image"]
    np.testing.assert_allclose(read.affine.numpy(), ct[1], atol=1e-5)
    np.testing.assert_array_equal(read[0].numpy(), ct[0])


@pytest.mark.parametrize(
    "dtype, slope, inter", [("<i2", 1, 0), (">i2", 1, 0), ("<i2", 2, -1024), ("u1", 1, 0), ("<f4", 1, 0)]
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_are_those_nibabel_reads(reading, ct, tmp_path, suffix, dtype, slope, inter):
    values = np.asarray(ct[0]).clip(0, 200).astype(dtype)
    image = nib.Nifti1Image(values, ct[1], nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<"))
    image.header.set_slope_inter(slope, inter)
    image.header.set_data_dtype(dtype)
    nib.save(image, tmp_path / f"ct{suffix}")
    read = reading.read_image(tmp_path / f"ct{suffix}")
    np.testing.assert_array_equal(read[0].numpy(), nib.load(tmp_path / f"ct{suffix}").get_fdata(dtype=np.float32))
    assert read.dtype == (torch.int16 if dtype == "<i2" and slope == 1 else torch.float32)


def test_a_flipped_bit_in_a_compressed_file_is_noticed(reading, ct, tmp_path):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(*ct), path)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # of the checksum at its end
    path.write_bytes(data)
    with pytest.raises(reading.StudyError, match="ct.nii.gz: not a readable image"):
        reading.read_image(path)


def test_a_trailing_axis_of_one_is_no_fourth_dimension(reading, ct, tmp_path):
    nib.save(nib.Nifti1Image(ct[0][..., None], ct[1]), tmp_path / "ct.nii.gz")
    assert reading.read_image(tmp_path / "ct.nii.gz").shape == (1, *SIZE)


def test_a_series_is_the_same_as_the_nifti(reading, ct, series):
    read = reading.read_image(series[0].parent)
    turned = nib.as_closest_canonical(nib.Nifti1Image(read[0].numpy(), read.affine.numpy()))
    expected = nib.as_closest_canonical(nib.Nifti1Image(ct[0].astype(np.float32), ct[1]))
    np.testing.assert_allclose(turned.affine, expected.affine, atol=1e-3)
    np.testing.assert_array_equal(turned.get_fdata(), expected.get_fdata())


def test_what_is_no_slice_of_the_series_is_passed_over(reading, series):
    folder = series[0].parent
    expected = reading.read_image(folder).shape
    (folder / "LICENSE").write_text("a stray file")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    shutil.copy(series[0], folder / "scout.dcm")
    edit(folder / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID=generate_uid())
    report = pydicom.dcmread(series[0])
    del report.PixelData
    report.Modality, report.SOPInstanceUID = "SR", generate_uid()
    report.save_as(folder / "report.dcm")
    assert reading.read_image(folder).shape == expected


@pytest.mark.parametrize("axcodes", ["LPS", "LPI", "RAS", "LAI"])
def test_slices_are_ordered_by_their_place_whatever_their_names_and_numbers(reading, ct, tmp_path, axcodes):
    files = phantom.write_dicom_series(tmp_path / "series", *ct, axcodes=axcodes)
    order = np.random.default_rng(0).permutation(len(files))
    for number, path in zip(order, files):
        edit(path, InstanceNumber=int(number))
        path.rename(path.with_name(f"{number:03d}.dcm"))
    read = reading.read_image(tmp_path / "series")
    turned = nib.as_closest_canonical(nib.Nifti1Image(read[0].numpy(), read.affine.numpy()))
    expected = nib.as_closest_canonical(nib.Nifti1Image(ct[0], ct[1]))
    np.testing.assert_allclose(turned.affine, expected.affine, atol=1e-3)
    np.testing.assert_array_equal(turned.get_fdata(), expected.get_fdata())
    heights = [float(pydicom.dcmread(file).ImagePositionPatient[2]) for file in read.meta["files"]]
    ends = read.affine.numpy()[2] @ np.array([[0, 0, 0, 1], [0, 0, len(files) - 1, 1]]).T
    np.testing.assert_allclose([heights[0], heights[-1]], ends, atol=1e-3)
    assert heights == sorted(heights, reverse=ends[0] > ends[1])


def rescale(path: Path, slope: float, intercept: float) -> np.ndarray:
    """Store a slice with another slope and intercept; returns the stored values."""
    header = pydicom.dcmread(path)
    hu = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    stored = np.round((hu - intercept) / slope).astype("<u2")
    header.RescaleSlope, header.RescaleIntercept, header.PixelData = slope, intercept, stored.tobytes()
    header.save_as(path)
    return stored


def test_voxels_are_those_itk_reads(reading, series):
    """Every slice has a slope and an intercept of its own, as PET-CT and some CT scanners write them."""
    for number, path in enumerate(series):
        rescale(path, 1 + number % 3, -1024 - number)
    read = reading.read_image(series[0].parent)
    expected = itk.array_from_image(itk.imread(sorted(map(str, series)), itk.F))
    assert read.dtype == torch.int16
    np.testing.assert_array_equal(read[0].numpy().T, expected)


@pytest.mark.parametrize("slope, intercept", [("1.5", "-1024"), ("1", "-1024.5"), ("0.25", "-1100")])
def test_hu_that_are_no_int16_are_read_as_float32(reading, series, slope, intercept):
    rescale(series[3], float(slope), float(intercept))
    read = reading.read_image(series[0].parent)
    assert read.dtype == torch.float32
    stored = pydicom.dcmread(series[3]).pixel_array.T
    np.testing.assert_array_equal(
        read[0, :, :, 3].numpy(), (stored * float(slope) + float(intercept)).astype(np.float32)
    )
    stored = pydicom.dcmread(series[4]).pixel_array.T
    np.testing.assert_array_equal(read[0, :, :, 4].numpy(), stored.astype(np.float32) - 1024)


def store_otherwise(path: Path, signed: bool, bits: int) -> np.ndarray:
    """Store a slice's pixels signed, or in fewer bits with an overlay in the unused ones; returns the pixels."""
    header = pydicom.dcmread(path)
    stored = header.pixel_array.astype(np.int32) - (1024 if signed else 0)
    header.PixelRepresentation, header.RescaleIntercept = int(signed), 0 if signed else -1024
    header.BitsStored, header.HighBit = bits, bits - 1
    unused = 0xFFFF & ~((1 << bits) - 1)
    header.PixelData = ((stored & ((1 << bits) - 1)) | (stored * 7919 & unused)).astype("<u2").tobytes()
    header.save_as(path)
    return stored


@pytest.mark.parametrize("signed, bits", [(True, 16), (True, 12), (False, 12)])
def test_pixels_are_taken_as_stored_and_unused_bits_left_out(reading, series, signed, bits):
    before = reading.read_image(series[0].parent)
    for path in series:
        store_otherwise(path, signed, bits)
    assert torch.equal(reading.read_image(series[0].parent).as_tensor(), before.as_tensor())


SYNTAXES = {
    "implicit": ["dcmconv", "+ti"], "deflated": ["dcmconv", "+td"], "big endian": ["dcmconv", "+tb"],
    "RLE": ["dcmcrle"], "JPEG lossless": ["dcmcjpeg", "+el"], "JPEG lossless SV1": ["dcmcjpeg", "+e1"],
    "JPEG-LS": ["dcmcjpls"],
}  # fmt: skip


@pytest.mark.parametrize("command", SYNTAXES.values(), ids=SYNTAXES)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_compressed_slices_read_as_the_uncompressed_ones(reading, series, command, signed):
    folder = series[0].parent
    before = reading.read_image(folder)
    for path in series[:3]:  # mixed with uncompressed ones, which is a case of its own
        store_otherwise(path, signed, 16)
        store_by(path, *command)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID != "1.2.840.10008.1.2.1"
    after = reading.read_image(folder)
    assert torch.equal(after.as_tensor(), before.as_tensor()) and after.dtype == torch.int16
    cut_short = path.read_bytes()
    path.write_bytes(cut_short[: len(cut_short) * 2 // 3])
    with pytest.raises(reading.StudyError, match=path.name):
        reading.read_image(folder)


def store_jpeg_2000(path: Path, pixels: np.ndarray) -> None:
    """Store a slice's pixels, which have signs where their dtype has, as JPEG 2000."""
    header, one = pydicom.dcmread(path), path.parent.with_name("one.dcm")
    writer = itk.ImageFileWriter.New(itk.image_from_array(pixels), FileName=str(one))
    codec = itk.GDCMImageIO.New()
    codec.SetCompressor("JPEG2000")
    writer.SetImageIO(codec)
    writer.UseCompressionOn()
    writer.Update()
    packed = pydicom.dcmread(one)
    header.PixelData = encapsulate([get_frame(packed.PixelData, 0, number_of_frames=1)])
    header.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    assert "JPEG 2000" in header.file_meta.TransferSyntaxUID.name
    header.save_as(path)


@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_2000_reads_as_the_uncompressed(reading, series, bits):
    """Also where the bits of values with signs were compressed as if they had none, as some scanners' were."""
    before = reading.read_image(series[0].parent)
    for path in series[:3]:
        store_jpeg_2000(path, pydicom.dcmread(path).pixel_array)
    for path in series[3:6]:
        stored = store_otherwise(path, True, bits)
        store_jpeg_2000(path, (stored & (2**bits - 1)).astype(np.uint16))
    assert torch.equal(reading.read_image(series[0].parent).as_tensor(), before.as_tensor())
    store_jpeg_2000(path, stored.astype(np.int16))
    assert torch.equal(reading.read_image(series[0].parent).as_tensor(), before.as_tensor())
    edit(path, PixelRepresentation=0)
    with pytest.raises(reading.StudyError, match=f"{path.name}: compressed pixels that have signs"):
        reading.read_image(series[0].parent)


def pack_jpeg_2000(path: Path, **knobs) -> None:
    """Store a slice's pixels as JPEG 2000, under a transfer syntax that leaves open whether that lost anything."""
    header, stream = pydicom.dcmread(path), io.BytesIO()
    Image.fromarray(header.pixel_array).save(stream, "JPEG2000", no_jp2=True, **knobs)
    header.PixelData = encapsulate([stream.getvalue()])
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.91"
    header.save_as(path)


def pack_by(*command: str):
    """A function that compresses a slice by a program of dcmtk, and takes away that it says so."""

    def pack(path: Path) -> None:
        store_by(path, *command)
        edit(path, LossyImageCompression="00")

    return pack


PACKED = {
    "JPEG 2000, 9-7": (partial(pack_jpeg_2000, irreversible=True), True), "5-3": (pack_jpeg_2000, False),
    "JPEG-LS, near": (pack_by("dcmcjpls", "+en"), True), "JPEG-LS": (pack_by("dcmcjpls"), False),
    "JPEG": (pack_by("dcmcjpeg", "+ee"), True), "JPEG lossless": (pack_by("dcmcjpeg", "+e1"), False),
    "RLE": (pack_by("dcmcrle"), False),
}  # fmt: skip


@pytest.mark.parametrize("pack, loses", PACKED.values(), ids=PACKED)
def test_what_lost_by_its_compression_is_known_by_the_pixels_themselves(reading, series, pack, loses):
    before = reading.read_image(series[0].parent)
    for path in series[:2]:
        pack(path)
    after = reading.read_image(series[0].parent)
    assert after.meta["slices"]["lossy"].tolist() == [loses] * 2 + [False] * (len(series) - 2)
    assert torch.equal(after.as_tensor(), before.as_tensor()) is not loses


def test_a_want_of_memory_is_known_as_such_to_programs(reading, series, monkeypatch):
    monkeypatch.setattr(bundle_module("seg", "geometry"), "free_memory", lambda: 9)
    with pytest.raises(reading.StudyError, match="0.0 GB are free") as error:
        reading.read_image(series[0].parent)
    assert isinstance(error.value.__cause__, MemoryError)


class TestSeveralSeries:
    @pytest.fixture
    def folder(self, ct, series) -> Path:
        """The series 1 and two others in one folder: 4, of another kernel and half as many slices, and a second 1."""
        sharp = phantom.write_dicom_series(series[0].parent / "sharp", ct[0] + 1, ct[1])
        for path in sharp:
            edit(path, SeriesNumber=4, ConvolutionKernel=["B70f", "3"], PatientName="Secret^Name")
        for path in sharp[1::2]:
            path.unlink()
        again = phantom.write_dicom_series(series[0].parent / "again", ct[0] + 2, ct[1])
        for path in (*sharp[::2], *again):
            path.rename(series[0].parent / f"{path.parent.name}-{path.name}")
        return series[0].parent

    def test_they_are_listed_without_the_patient(self, reading, folder):
        with pytest.raises(reading.StudyError) as error:
            reading.read_image(folder)
        line = str(error.value)
        assert line.startswith(f"{folder}: 3 CT series in this folder: ") and "Secret" not in line and "\n" not in line
        assert "4, 10 slices 20 mm apart, kernel B70f/3" in line and "20 slices 10 mm apart, kernel B30f" in line
        assert "--series" in line and line.endswith(".")

    @pytest.mark.parametrize("number", ["4", 4])
    def test_one_is_chosen_by_number(self, reading, ct, folder, number):
        read = reading.LoadStudyd("image", series=number)({"image": str(folder)})["image"]
        np.testing.assert_array_equal(np.sort(read[0].numpy(), None), np.sort(ct[0][..., ::2] + 1, None))

    def test_one_is_chosen_by_uid(self, reading, folder):
        uids = {
            str(pydicom.dcmread(folder / name).SeriesInstanceUID) for name in ("slice_0001.dcm", "again-slice_0001.dcm")
        }
        one, other = (reading.read_image(folder, uid).as_tensor() for uid in sorted(uids))
        assert (one - other).abs().unique().tolist() == [2]

    @pytest.mark.parametrize("number, word", [("1", "2 CT series"), ("7", "no CT series 7 in this folder, but: ")])
    def test_a_number_of_none_or_two_is_refused(self, reading, folder, number, word):
        with pytest.raises(reading.StudyError, match=word) as error:
            reading.read_image(folder, number)
        assert number == "7" or str(error.value).count("1.2.826.0.1") == 2  # told apart by their UIDs

    def test_a_damaged_slice_of_another_series_does_not_matter(self, reading, folder):
        path = folder / "again-slice_0003.dcm"
        path.write_bytes(path.read_bytes()[:-500])
        assert reading.read_image(folder, 4).shape[-1] == 10


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


def tilted(slices: list[Path]) -> Path:
    for number, path in enumerate(slices):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[x, y + 2.5 * number, z])
    return slices[0].parent


def moved_aside(slices: list[Path]) -> Path:
    for path in slices[12:]:
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[x, y + 5, z])
    return slices[0].parent


def without(name: str):
    def fault(slices: list[Path]) -> Path:
        header = pydicom.dcmread(slices[7])
        delattr(header, name)
        header.save_as(slices[7])
        return slices[7]

    fault.__name__ = f"no_{name}"
    return fault


def matrix_differs(slices: list[Path]) -> Path:
    header = pydicom.dcmread(slices[7])
    header.Rows, header.PixelData = header.Rows - 2, header.PixelData[: -2 * 2 * header.Columns]
    header.save_as(slices[7])
    return slices[0].parent


def drifting(slices: list[Path]) -> Path:
    """Each gap is within a tenth of the others, their sum half a slice off."""
    for number, path in enumerate(slices):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[x, y, float(z) + 0.9 * max(0, number - len(slices) // 2)])
    return slices[0].parent


def enhanced(slices: list[Path]) -> Path:
    edit(slices[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", NumberOfFrames=20)
    for path in slices[1:]:
        path.unlink()
    return slices[0]


def no_decoder(slices: list[Path]) -> Path:
    header = pydicom.dcmread(slices[0])
    header.PixelData = encapsulate([bytes(100)])
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    header.save_as(slices[0])
    return slices[0]


def a_private_syntax(slices: list[Path]) -> Path:
    header = pydicom.dcmread(slices[0])
    header.file_meta.TransferSyntaxUID = "1.2.3.4"
    header.save_as(slices[0])
    return slices[0]


def nothing(slices: list[Path]) -> Path:
    for path in slices:
        path.unlink()
    return slices[0].parent


FAULTS = {
    cut: "slice cannot be read", no_header: "slice cannot be read", lost: "some are missing",
    doubled: "two slices at one position", tilted: "tilted gantry", moved_aside: "parts of several scans",
    nothing: "no CT slices", matrix_differs: "different matrix sizes", drifting: "which is uneven",
    enhanced: "Enhanced CT Image, which is not read here. Convert it to single slices",
    no_decoder: "stored as MPEG-4 AVC/H.264 High Profile / Level 4.1 cannot be decoded",
    a_private_syntax: "stored as 1.2.3.4 cannot be decoded", without("PixelData"): "holds no pixels",
    **{without(name): f"{name} is missing" for name in
       ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows")},
}  # fmt: skip
ONE, ALL, FOLDER = slice(7, 8), slice(None), None
HEADERS = [  # the slices that are changed, the slice that is blamed or the folder, the change, the cause
    (ONE, 7, {"ImagePositionPatient": ["nan", 0, 0]}, "ImagePositionPatient is not 3 finite numbers"),
    (ONE, 7, {"ImageOrientationPatient": [1, 0, 0, 0, "inf", 0]}, "ImageOrientationPatient is not 6 finite"),
    (ONE, 7, {"PixelSpacing": [8, "nan"]}, "PixelSpacing is not 2 finite"),
    (ONE, 7, {"PixelSpacing": [8, 0]}, "PixelSpacing is"),
    (ONE, 7, {"RescaleSlope": 0}, "RescaleSlope is"),
    (ONE, 7, {"NumberOfFrames": 2}, "several frames"),
    (ONE, 7, {"NumberOfFrames": 0}, "NumberOfFrames is 0, so no pixels"),
    (ONE, FOLDER, {"PixelSpacing": [8, 8.1]}, "different PixelSpacing"),
    (ONE, FOLDER, {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "different orientations"),
    (ONE, FOLDER, {"SeriesInstanceUID": "1.2.3"}, "2 CT series in this folder"),
    (ALL, 0, {"ImageOrientationPatient": [1, 0, 0, 0.1, 1, 0]}, "no two directions"),
    (ALL, 0, {"RescaleType": "Z_EFF"}, "Z_EFF, not HU"),
    (ALL, 0, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture Image"),
    (ALL, 0, {"Modality": "MR"}, "modality is MR"),
    (ALL, FOLDER, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "no CT slices"),
]


def check_refused(reading, series: list[Path], blamed: Path, cause: str) -> None:
    with pytest.raises(reading.StudyError) as error:
        reading.read_image(series[0].parent)
    line = str(error.value)
    assert line.startswith(f"{blamed}: ") and cause in line and line.endswith(".") and "\n" not in line


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_series_that_would_be_read_wrongly_is_refused(reading, series, fault):
    check_refused(reading, series, fault(series), FAULTS[fault])


@pytest.mark.parametrize("changed, blamed, values, cause", HEADERS)
def test_a_series_whose_headers_would_be_read_wrongly_is_refused(reading, series, changed, blamed, values, cause):
    for path in series[changed]:
        edit(path, **values)
    check_refused(reading, series, series[0].parent if blamed is FOLDER else series[blamed], cause)


@pytest.mark.parametrize("name", ["seg", "cls"])
def test_a_cpu_without_bf16_computes_in_float32(name, monkeypatch):
    inferer = bundle_module(name, "inferer")
    seg = name == "seg"
    make = partial(inferer.AdjacentSliceInferer, (-1, 0, 1)) if seg else partial(inferer.SliceGroupInferer, 3)
    for has_it in (False, True):
        monkeypatch.setattr(inferer.torch.cpu, "get_capabilities", lambda has_it=has_it: {"avx512_bf16": has_it})
        assert make().bf16 is has_it and make(bf16=not has_it).bf16 is not has_it
