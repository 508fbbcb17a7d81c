"""What image files say of themselves: believed where it is whole and fits the bytes, else refused in one line."""

from __future__ import annotations

import bz2
import gzip
import importlib
import itertools
import os
import re
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import AXCODES
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from liver_ct import phantom

ROOT = Path(__file__).resolve().parents[1]
SIZE, SPACING = (48, 40, 20), (8.0, 8.0, 10.0)
OBLIQUE = (8, 5, 3)


@pytest.fixture(scope="module")
def geometry(reading):
    return importlib.import_module("scripts.seg_geometry")


@pytest.fixture(scope="module")
def ct() -> tuple[np.ndarray, np.ndarray]:
    array, _, affine = phantom.make_phantom(SIZE, SPACING, tilt=OBLIQUE, axcodes="LPS")
    return array.astype(np.int16), affine


def read(reading, path: Path):
    """As inference does, with all its checks."""
    return reading.LoadStudyd("image")({"image": str(path)})["image"]


def refusal(reading, path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(reading.StudyError) as error:
        read(reading, path)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and line.endswith(".") and line.isprintable()
    return line.removeprefix(f"{path}: ")


def read_or_refuse(reading, path: Path, outcomes: dict[str, int]):
    """The image, or None where it is refused in one line; counted."""
    try:
        image = read(reading, path)
    except reading.StudyError as e:
        line = str(e)
    else:
        outcomes["read"] += 1
        return image
    assert line.startswith(f"{path}: ") and line.isprintable()
    outcomes["refused"] += 1
    return None


def nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """With sform and qform."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    return image


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray, **fields) -> Path:
    """A NIfTI with sform and qform in mm, and fields of its header changed afterwards."""
    image = nifti(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return change(path, **fields) if fields else path


def change(path: Path, **fields) -> Path:
    """Change header fields in the file's bytes."""
    packed = path.read_bytes()
    raw = bytearray(gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed)
    header = np.frombuffer(raw, nib.nifti1.header_dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(raw, 1) if packed[:2] == b"\x1f\x8b" else raw)
    return path


def save_itk(path: Path, ct, compressed: bool = False, dtype: str = "i2") -> Path:
    """A CT in another format, written by ITK."""
    array, affine = ct
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    image = itk.image_from_array(np.ascontiguousarray(array.T.astype(dtype)))
    image.SetSpacing(sizes.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(lps[:3, :3] / sizes))
    itk.imwrite(image, str(path), compression=compressed)
    return path


class TestFormats:
    @pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd", "nhdr"])
    def test_what_itk_writes_is_read_as_itk_reads_it(self, reading, ct, tmp_path, suffix, compressed, dtype):
        path = save_itk(tmp_path / f"ct.{suffix}", ct, compressed, dtype)
        image = read(reading, path)
        assert image.dtype == (torch.int16 if dtype == "i2" else torch.float32)
        np.testing.assert_array_equal(image[0].numpy().T, itk.array_from_image(itk.imread(str(path))))
        np.testing.assert_allclose(image.affine.numpy(), ct[1], atol=1e-4)

    def test_all_orientations_are_read(self, reading, ct, tmp_path):
        image = nifti(*ct)
        for number, axcodes in enumerate(AXCODES):
            turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axcodes)))
            path = save_nifti(tmp_path / "ct.nii", np.asarray(turned.dataobj), turned.affine)
            np.testing.assert_allclose(read(reading, path).affine.numpy(), turned.affine, atol=1e-3)
            if number % 6 == 0:
                path = save_itk(tmp_path / "ct.mha", (np.asarray(turned.dataobj), turned.affine))
                np.testing.assert_allclose(read(reading, path).affine.numpy(), turned.affine, atol=1e-3)
        assert number == 47

    @pytest.mark.parametrize("name", ["CT.NII", "CT.NII.GZ", "CT.MHA", "ct.Nrrd"])
    def test_a_name_may_be_in_capitals(self, reading, ct, tmp_path, name):
        small = tmp_path / name.lower()
        (save_nifti if "nii" in name.lower() else lambda p, *ct: save_itk(p, ct))(small, *ct)
        path = small.rename(tmp_path / name)
        np.testing.assert_array_equal(read(reading, path)[0].numpy(), ct[0])
        assert reading.case_name(path).lower() == "ct"

    @pytest.mark.parametrize("real, name", [("ct.nii", "ct.nii.gz"), ("ct.nii.gz", "ct.nii")])
    def test_a_browser_may_have_inflated_it_and_left_its_name(self, reading, ct, tmp_path, real, name):
        path = save_nifti(tmp_path / real, *ct).rename(tmp_path / name)
        np.testing.assert_array_equal(read(reading, path)[0].numpy(), ct[0])

    def test_a_qform_whose_sign_is_not_set_is_read_as_1(self, reading, ct, tmp_path):
        path = save_nifti(tmp_path / "ct.nii.gz", *ct)
        whole = read(reading, path)
        pixdim = nib.load(path).header["pixdim"].copy()
        for sform_code in (0, 1):
            change(path, pixdim=np.array([0, *pixdim[1:]]) * 1.0, sform_code=sform_code)
            np.testing.assert_allclose(read(reading, path).affine, whole.affine, atol=1e-3)

    def test_nifti_2_is_read(self, reading, ct, tmp_path):
        nib.save(nib.Nifti2Image(*ct), tmp_path / "ct.nii.gz")
        np.testing.assert_array_equal(read(reading, tmp_path / "ct.nii.gz")[0].numpy(), ct[0])

    def test_bzip2_is_read_and_its_checksum_compared(self, reading, ct, tmp_path):
        path = save_itk(tmp_path / "ct.nrrd", ct)
        head, voxels = path.read_bytes().split(b"\n\n", 1)
        packed = bytearray(bz2.compress(voxels))
        head = head.replace(b"encoding: raw", b"encoding: bzip2") + b"\n\n"
        path.write_bytes(head + packed)
        np.testing.assert_array_equal(read(reading, path)[0].numpy(), ct[0])
        packed[len(packed) // 2] ^= 4
        path.write_bytes(head + packed)
        assert "not a readable image" in refusal(reading, path)

    def test_other_formats_are_named(self, reading, tmp_path):
        (tmp_path / "ct.hdr").write_bytes(bytes(348))
        assert "no format that is read here" in refusal(reading, tmp_path / "ct.hdr")
        os.mkfifo(tmp_path / "ct.mha")
        assert "pipe" in refusal(reading, tmp_path / "ct.mha")


class TestBytes:
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "mhd", "nrrd", "nhdr"])
    def test_bytes_that_are_missing_too_many_or_changed_are_noticed(self, reading, ct, tmp_path, suffix, compressed):
        path = tmp_path / f"ct.{suffix}"
        save_nifti(path, *ct) if "nii" in suffix else save_itk(path, ct, compressed)
        packed = compressed if "nii" not in suffix else suffix.endswith("gz")
        data = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)  # of detached data, these
        whole = data.read_bytes()
        changed = bytearray(whole)
        changed[-40] ^= 4
        for wrong in (whole[:-1], whole[: len(whole) // 2], whole + b"1", whole + whole, bytes(changed)):
            data.write_bytes(wrong)
            if wrong == bytes(changed) and not packed:
                continue  # nothing in the file could tell
            assert re.search("missing|more voxels|not a readable|declares|CompressedDataSize", refusal(reading, path))

    def test_a_file_that_would_fill_the_memory_is_refused_before(self, reading, geometry, ct, tmp_path, monkeypatch):
        path = tmp_path / "ct.nii.gz"
        affine = np.diag([-0.2, -0.2, 2, 1])
        save_nifti(path, ct[0], affine)
        bomb = nib.Nifti1Header()
        bomb.set_data_shape((4096, 4096, 128))
        change(path, dim=bomb["dim"])
        assert "declares 4096 x 4096 x 128 voxels (4.0 GB)" in refusal(reading, path)
        bomb.set_data_shape((1024, 1024, 128))
        change(path, dim=bomb["dim"])
        assert "declares" in refusal(reading, path)  # more than these bytes can become
        bomb.set_data_shape((1000, 1000, 700))
        change(path, dim=bomb["dim"])
        with path.open("ab") as file:
            file.write(bytes(4_000_000))
        assert "though a CT has noise" in refusal(reading, path)
        save_nifti(path, *ct)
        monkeypatch.setattr(geometry, "free_memory", lambda: 1000)
        assert "GB are free" in refusal(reading, path)

    def test_free_memory_is_found(self, geometry):
        assert not sys.platform.startswith("linux") or geometry.free_memory() > 2**20

    @pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
    def test_detached_voxels_lie_in_the_headers_folder(self, reading, ct, tmp_path, suffix):
        (tmp_path / "in").mkdir()
        path = save_itk(tmp_path / "in" / f"ct.{suffix}", ct)
        data = path.with_suffix(".raw")
        text = path.read_text()
        outside = data.rename(tmp_path / "ct.raw")
        for name in (str(outside), "../ct.raw"):
            path.write_text(text.replace("ct.raw", name))
            assert "outside the header's folder" in refusal(reading, path)
        path.write_text(text)
        data.symlink_to(outside)
        assert "outside the header's folder" in refusal(reading, path)
        data.unlink()
        assert "missing" in refusal(reading, path)
        os.mkfifo(data)
        assert "is no file (a folder, pipe or device)" in refusal(reading, path)
        path.write_text(text.replace("ct.raw", "a" * 5000))
        assert "no usable data file" in refusal(reading, path)
        path.write_text(text.replace("ct.raw", "ct%03d.raw 1 20 1"))
        assert "several files" in refusal(reading, path)
        data.unlink()
        outside.rename(data)
        path.write_text(text)
        link = tmp_path / path.name
        link.symlink_to(path)  # beside which there are no voxels
        assert "missing" in refusal(reading, link)

    @pytest.mark.parametrize("name", ["Schädel 肝脏.raw".encode(), b"M\xfcnchen.raw"], ids=["UTF-8", "Latin-1"])
    @pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
    def test_detached_voxels_may_have_a_name_of_any_characters(self, reading, ct, tmp_path, suffix, name):
        path = save_itk(tmp_path / f"ct.{suffix}", ct)
        os.rename(os.fsencode(tmp_path / "ct.raw"), os.path.join(os.fsencode(tmp_path), name))  # noqa: PTH104, PTH118
        path.write_bytes(path.read_bytes().replace(b"ct.raw", name))
        np.testing.assert_array_equal(read(reading, path)[0].numpy(), ct[0])
        path.write_bytes(path.read_bytes().replace(name, b"nothing-" + name))
        assert "missing" in refusal(reading, path)

    @pytest.mark.parametrize("seed", range(8))
    def test_another_format_is_no_damaged_metaimage(self, reading, ct, tmp_path, seed):
        noise = gzip.compress(ct[0].tobytes(), mtime=seed)
        (tmp_path / "ct.mha").write_bytes(noise[:20] + b"=" + noise)
        assert "no MetaImage header" in refusal(reading, tmp_path / "ct.mha")


NIFTI = {
    "no orientation": ({"sform_code": 0, "qform_code": 0}, "how the patient lies is not known"),
    "a code of none": ({"sform_code": 77}, "is none"),
    "left and right exchanged": ({"srow_x": [8, 0, 0, 0]}, "differently"),
    "two origins": ({"qoffset_x": 150}, "40 mm apart"),
    "other voxels": ({"pixdim": [1, 8, 8, 5, 1, 1, 1, 1]}, "by pixdim"),
    "no rotation": ({"quatern_b": 3}, "no rotation"),
    "size negative": ({"dim": [3, 48, -40, 20, 1, 1, 1, 1]}, "no sizes of an image"),
    "axes 0": ({"dim": [0, 48, 40, 20, 1, 1, 1, 1]}, "no sizes of an image"),
    "4D": ({"dim": [4, 48, 40, 10, 2, 1, 1, 1]}, "2 volumes in one file (4D). Give one phase as a 3D file: nibabel"),
    "slices along time": ({"dim": [4, 48, 40, 1, 20, 1, 1, 1]}, "Save it with the slices along z"),
    "2D": ({"dim": [2, 48, 800, 1, 1, 1, 1, 1]}, "2D"),
    "fewer slices": ({"dim": [3, 48, 40, 19, 1, 1, 1, 1]}, "more voxels than its header declares"),
    "more slices": ({"dim": [3, 48, 40, 21, 1, 1, 1, 1]}, "declares"),
    "offset": ({"vox_offset": 368}, "declares"),
    "offset within the header": ({"vox_offset": 336}, "no voxels can begin"),
    "bits": ({"bitpix": 8}, "bitpix"),
    "wider type": ({"datatype": 8, "bitpix": 32}, "declares"),
    "no type": ({"datatype": 5}, "none of NIfTI's"),
    "colours": ({"datatype": 128, "bitpix": 24}, "RGB"),
    "complex": ({"datatype": 32, "bitpix": 64}, "complex64"),
    "slope below 0": ({"scl_slope": -1, "scl_inter": 0}, "no HU"),
    "slope infinite": ({"scl_slope": np.inf, "scl_inter": 0}, "no HU"),
    "slope without meaning": ({"scl_slope": 0, "scl_inter": -1024}, "scl_inter"),
    "slope that is too large": ({"scl_slope": 1e6, "scl_inter": 0}, "beyond what a CT can hold"),
    "metres that are mm": ({"xyzt_units": 1}, "voxels of 8000"),
    "micron that are mm": ({"xyzt_units": 3}, "voxels of 0.008"),
    "no unit": ({"xyzt_units": 5}, "no unit of length"),
    "a pair": ({"magic": b"ni1"}, "pair"),
    "Analyze": ({"magic": b""}, "pair"),
    "size of the header": ({"sizeof_hdr": 350}, "no NIfTI header"),
    "origin": ({"srow_z": [0, 0, 10, 1e30]}, "m from the scanner's centre"),
    "origin in the next room": ({"srow_z": [0, 0, 10, 2e4], "qform_code": 0}, "m from the scanner's centre"),
    "sheared": ({"srow_x": [-8, 1, 0, 0], "qform_code": 0}, "not perpendicular"),
    "NaN": ({"srow_z": [0, 0, np.nan, 0]}, "NaN or infinity"),
}  # fmt: skip


class TestNifti:
    @pytest.mark.parametrize("fault", NIFTI)
    def test_a_header_that_cannot_be_right_is_refused(self, reading, ct, tmp_path, fault):
        fields, cause = NIFTI[fault]
        straight = np.diag([-8.0, -8, 10, 1])
        straight[:3, 3] = 190, 160, -95
        path = save_nifti(tmp_path / "ct.nii.gz", ct[0], straight, **fields)
        assert cause in refusal(reading, path)

    @pytest.mark.parametrize("unit, factor", [("meter", 1e-3), ("micron", 1e3)])
    def test_units_count(self, reading, ct, tmp_path, unit, factor):
        scaled = np.diag([factor, factor, factor, 1]) @ ct[1]
        image = nifti(ct[0], scaled)
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / "ct.nii")
        np.testing.assert_allclose(read(reading, tmp_path / "ct.nii").affine.numpy(), ct[1], rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1)])
    def test_the_unit_matrix_says_nothing(self, reading, ct, tmp_path, signs):
        larger = np.repeat(ct[0], 2, axis=0).repeat(2, axis=1)
        path = save_nifti(tmp_path / "ct.nii.gz", larger, np.diag([*signs, 1]).astype(float))
        assert "unit matrix" in refusal(reading, path)
        reading.LoadStudyd("image", any_ct=True)({"image": str(path)})

    @pytest.mark.parametrize("spacing, word", [
        ((25, 8, 10), "field of view"), ((0.9, 0.9, 10), "field of view"), ((0.04, 8, 10), "voxels of"),
        ((8, 8, 160), "voxels of"), ((8, 8, 1e-30), "voxels of"),
    ])  # fmt: skip
    def test_a_size_that_no_ct_has_is_refused(self, reading, ct, tmp_path, spacing, word):
        assert word in refusal(reading, save_nifti(tmp_path / "ct.nii.gz", ct[0], np.diag([*spacing, 1.0])))

    def test_any_changed_field_is_noticed_or_changes_nothing(self, reading, ct, tmp_path):
        """But for slope and intercept, which only the values can contradict, and the origin, which the sform gives."""
        path = save_nifti(tmp_path / "ct.nii", *ct)
        whole, reference = path.read_bytes(), read(reading, path)
        outcomes = {"read": 0, "refused": 0}
        for name, (kind, offset, *_) in nib.nifti1.header_dtype.fields.items():
            base, count = kind.base, max(1, int(np.prod(kind.shape)))
            if base.kind not in "if" or name in ("scl_slope", "scl_inter"):
                continue
            for index, value in itertools.product(range(count), (0, -1, 1, 2, 3, 7, 99, 2**14, 1e30, np.nan)):
                if name.startswith("srow") and index == 3:
                    continue
                with np.errstate(all="ignore"):
                    stored = np.array(value).astype(base).tobytes()
                start, raw = offset + index * base.itemsize, bytearray(whole)
                raw[start : start + base.itemsize] = stored
                path.write_bytes(raw)
                image = read_or_refuse(reading, path, outcomes)
                if image is None:
                    continue
                assert torch.equal(image.as_tensor(), reference.as_tensor()), (name, index, value)
                np.testing.assert_allclose(image.affine, reference.affine, atol=1.0, err_msg=f"{name} {index} {value}")
        assert min(outcomes.values()) > 50


TEXTS = (
    "", "-1", "0", "1", "2", "4 4", "99999999999 4 4", "nan nan nan", "1e30", "1e999 1 1", "a" * 5000, "%s%n",
    "True", "LIST", "\x00", "\x1b[31m", "(1,0,0) (0,1,0)",
)  # fmt: skip


@pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd", "nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_any_changed_line_of_a_text_header_is_noticed_or_changes_nothing(reading, ct, tmp_path, suffix, compressed):
    """But for the origin, which nothing contradicts."""
    path = save_itk(tmp_path / f"ct.{suffix}", ct, compressed)
    reference, whole = read(reading, path), path.read_bytes()
    end = whole.index(b"\n\n") if suffix == "nrrd" else whole.index(b"LOCAL\n") + 5 if suffix == "mha" else len(whole)
    lines, rest = whole[:end].decode("latin-1").splitlines(), whole[end:]
    outcomes = {"read": 0, "refused": 0}
    for number, line in enumerate(lines):
        key, separator, _ = line.partition("= " if suffix.startswith("m") else ": ")
        changed = [
            *(key + separator + text for text in TEXTS if separator),
            line + "\n" + line,
            None,
            line[: len(line) // 2],
        ]
        for new in changed:
            text = "\n".join(other for other in (*lines[:number], new, *lines[number + 1 :]) if other is not None)
            path.write_bytes(text.encode("latin-1") + rest)
            image = read_or_refuse(reading, path, outcomes)
            if image is None:
                continue
            assert torch.equal(image.as_tensor(), reference.as_tensor()), (line, new)
            parts = slice(None, 3) if key.strip().lower() in ("offset", "space origin") else slice(None)
            np.testing.assert_allclose(
                image.affine[:3, parts], reference.affine[:3, parts], atol=1e-4, err_msg=str(new)
            )
    assert outcomes["refused"] > outcomes["read"] > 5


MEDICAL = {
    "MET_UCHAR_ARRAY": (b"MET_SHORT", b"MET_UCHAR_ARRAY", "holds no HU"),
    "scaled": (b"NDims", b"ElementToIntensityFunctionSlope = 2\nNDims", "programs read differently"),
    "text": (b"BinaryData = True", b"BinaryData = False", "written as text"),
    "channels": (b"NDims", b"ElementNumberOfChannels = 3\nNDims", "ElementNumberOfChannels"),
    "4D": (b"DimSize = 48 40 20", b"DimSize = 48 40 10 2", "4 axes"),
    "no orientation": (b"TransformMatrix", b"Comment", "how the patient lies"),
    "no spacing": (b"ElementSpacing", b"Comment", "how the patient lies"),
    "two origins": (b"NDims", b"Origin = 1 1 1\nNDims", "both stand"),
    "an MR": (b"NDims", b"Modality = MET_MOD_MR\nNDims", "Modality is 'MET_MOD_MR'"),
    "a PET, by ITK": (b"NDims", b"0008|0060 = PT\nNDims", "0008|0060 is 'PT'"),
    "other letters": (b"AnatomicalOrientation = RAI", b"AnatomicalOrientation = LPI", "says otherwise"),
    "feet and head": (b"AnatomicalOrientation = RAI", b"AnatomicalOrientation = RAS", "says otherwise"),
    "no letters": (b"AnatomicalOrientation = RAI", b"AnatomicalOrientation = XYZ", "says otherwise"),
    "no place": (b"Offset", b"Comment", "Offset is missing"),
    "underscores": (b"DimSize = 48 40 20", b"DimSize = 4_8 40 20", "3 finite numbers"),
    "no sizes": (b"DimSize = 48 40 20\n", b"", "DimSize is missing"),
    "a control character": (b"CenterOfRotation = 0", b"CenterOfRotation = \x07", "holds control characters"),
    "a PET's unit": (b"NDims", b"0054|1001 = BQML\nNDims", "0054|1001 is 'BQML', not HU"),
    "a dose": (b"NDims", b"0028|1054 = GY\nNDims", "0028|1054 is 'GY', not HU"),
    "a value of two lines": (b"NDims = 3", b"NDims = 3\n0010|4000 = one\ntwo", "line 4 of its header is no"),
    "packed perhaps": (b"CompressedData = False", b"CompressedData = yes", "CompressedData is 'yes'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MEDICAL)
def test_a_metaimage_that_would_be_read_wrongly_is_refused(reading, ct, tmp_path, fault):
    old, new, cause = MEDICAL[fault]
    path = save_itk(tmp_path / "ct.mha", ct)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    assert cause in refusal(reading, path)


@pytest.mark.parametrize("old, new, cause", [
    (b"space: left-posterior-superior\n", b"", "how the patient lies"),
    (b"space: left-posterior-superior\n", b"space: scanner-xyz\n", "how the patient lies"),
    (b"endian: little", b"endian: little\nmodality:=MR", "modality is 'MR', not CT"),
    (b"endian: little", b"endian: little\n0008|0060:=PT ", "0008|0060 is 'PT', not CT"),
    (b"endian: little", b"endian: little\nDICOM_0008_0060_Modality:=MR", "DICOM_0008_0060_Modality is 'MR', not CT"),
    (b"endian: little", b"endian: little\nDICOM.Modality:=PT", "DICOM.Modality is 'PT', not CT"),
    (b"endian: little", b'endian: little\nDICOM_0008_0060:={"values":[{"z":0,"t":0,"value":"SEG"}]}', "is 'SEG', not"),
    (b"endian: little", b"endian: little\nDICOM.MeasurementUnitsCodeValue:={SUVbw}g/ml", "'{SUVbw}g/ml', not HU"),
    (b"endian: little", b"endian: little\n0028|1054:=GY", "0028|1054 is 'GY', not HU"),
    (b"endian: little", b"endian: little\nunits:=SUV", "units is 'SUV', not HU"),
    (b"endian: little", b'endian: little\nsample units: "SUVbw"', "sample units is"),
    (b"endian: little", b"endian: little\nspacings: 8 8 9", "other voxel sizes"),
    (b"endian: little", b"endian: little\nspace dimension: 4", "space dimension is '4'"),
    (b"endian: little", b"endian: little\nspace_origin: (1,2,3)", "none of NRRD's"),
    (b"space origin: ", b"space orgin: ", "none of NRRD's"),
    (b"space origin: (", b"space origin: ", "3 finite numbers"),
    (b"space origin: (", b"space origin: (1_", "3 finite numbers"),
    (b"endian: little", b"endian: li\x0cttle", "line 10 of its header holds control"),
    (b"type: int16", b"type: block", "holds no HU"),
    (b"encoding: raw", b"encoding: ascii", "not read here"),
    (b"endian: little", b"endian: middle", "not little or big"),
    (b"endian: little", b"endian: little\nold min: 0", "were mapped"),
    (b"endian: little", b"endian: little\nline skip: 2", "line skip"),
    (b"kinds: domain domain domain", b"kinds: domain domain time", "kind 'time'"),
    (b"kinds: domain domain domain", b"kinds: RGB-color domain domain", "kind 'rgb-color'"),
    (b"endian: little", b"endian: little\nspace units: \"mm\" \"m\" \"mm\"", "differ between"),
    (b"endian: little", b"endian: little\nspace units: \"ells\" \"ells\" \"ells\"", "not one of"),
])  # fmt: skip
def test_an_nrrd_that_would_be_read_wrongly_is_refused(reading, ct, tmp_path, old, new, cause):
    path = save_itk(tmp_path / "ct.nrrd", ct)
    text = path.read_bytes().replace(b"type: short", b"type: int16", 1)
    assert old in text
    path.write_bytes(text.replace(old, new, 1))
    assert cause in refusal(reading, path)


NAME = "DOE^JANE 19500101"


@pytest.mark.parametrize("suffix, old, new", [
    ("nrrd", b"endian: little", b"endian: little\nPatientName: " + NAME.encode()),
    ("nrrd", b"endian: little", b"endian: little\n0010|0010 = " + NAME.encode()),
    ("nrrd", b"endian: little", b"endian: little\ncontent: \x01" + NAME.encode()),
    ("nrrd", b"endian: little", b"endian: " + NAME.encode()),
    ("nrrd", b"type: short", b"type: " + NAME.encode()),
    ("nrrd", b"space origin: ", b"space origin: " + NAME.encode()),
    ("nrrd", b"endian: little", b"endian: little\nmodality:=" + NAME.encode()),
    ("nrrd", b"endian: little", b"endian: little\nspace units: " + NAME.encode()),
    ("mha", b"NDims", b"0010|0010 = \x01" + NAME.encode() + b"\nNDims"),
    ("mha", b"NDims", (NAME + " = 1\n").encode() * 2 + b"NDims"),
    ("mha", b"NDims = 3", b"NDims = 3\n0010|4000 = a\n" + NAME.encode()),
    ("mha", b"MET_SHORT", NAME.encode()),
    ("mha", b"CompressedData = False", b"CompressedData = " + NAME.encode()),
    ("mha", b"AnatomicalOrientation = RAI", b"AnatomicalOrientation = " + NAME.encode()),
    ("mha", b"ElementDataFile = LOCAL", b"ElementDataFile = " + NAME.encode() * 20),
])  # fmt: skip
def test_what_may_name_the_patient_is_not_in_the_line(reading, ct, tmp_path, suffix, old, new):
    """It goes to logs and to index.html."""
    path = save_itk(tmp_path / f"ct.{suffix}", ct)
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))
    line = refusal(reading, path).lower()
    assert not any(part in line for part in ("doe", "jane", "1950"))


def test_what_programs_add_to_a_text_header_is_passed_over(reading, ct, tmp_path):
    path = save_itk(tmp_path / "ct.nrrd", ct)
    more = b"endian: little\r\n# by me\nmodality:=CT\n0010|0010:=A^\x1b$B\nspacings: nan nan nan\ncenterings: cell\n"
    more += b'sample units: "HU"\nunits:=mm mm mm\nDICOM.MeasurementUnitsCodeValue:=[hnsf\'U]\n0028|1054:=HU \n'
    more += b'DICOM_0008_0060:={"values":[{"z":0,"t":0,"value":"CT"}]}\nDICOM_0028_1054_RescaleType:=US'
    path.write_bytes(path.read_bytes().replace(b"endian: little", more, 1))
    np.testing.assert_array_equal(read(reading, path)[0].numpy(), ct[0])
    path = save_itk(tmp_path / "ct.mha", ct)
    more = b"NDims = 3\nModality = MET_MOD_CT\n0008|0060 = CT\n0010|0010 = A^B"
    path.write_bytes(path.read_bytes().replace(b"NDims = 3", more, 1))
    np.testing.assert_array_equal(read(reading, path)[0].numpy(), ct[0])


def test_an_nrrd_may_count_in_other_axes_and_units(reading, ct, tmp_path):
    path = save_itk(tmp_path / "ct.nrrd", ct)
    text = path.read_bytes()
    directions = re.search(rb"space directions: (.*)\n", text)[1]
    columns = [np.array(c.split(b","), float) for c in re.findall(rb"\(([^)]*)\)", directions)]
    origin = np.array(re.search(rb"space origin: \((.*)\)\n", text)[1].split(b","), float)
    turned = ["(" + ",".join(f"{v / 10:.10f}" for v in c * (-1, -1, 1)) + ")" for c in (*columns, origin)]
    text = text.replace(b"left-posterior-superior", b"RAS").replace(directions, " ".join(turned[:3]).encode())
    text = re.sub(rb"space origin: .*\n", f'space origin: {turned[3]}\nspace units: "cm" "cm" "cm"\n'.encode(), text)
    path.write_bytes(text)
    np.testing.assert_allclose(read(reading, path).affine.numpy(), ct[1], atol=1e-3)


NO_HU = {
    "ten-fold": lambda ct: ct.clip(-1000, 3000) * 10,
    "z-scores": lambda ct: 100 * (ct - ct.mean()) / ct.std(),
    "z-scores of a clipped CT": lambda ct: 100 * (ct.clip(-990) - ct.clip(-990).mean()) / ct.clip(-990).std(),
    "negated": lambda ct: -ct,
    "negated, padded with -1024": lambda ct: np.where(padding(ct.shape), -1024, -ct),
    "negated, padded with -2000": lambda ct: np.where(padding(ct.shape), -2000, -ct),
    "negated, all around the body padded with -2000": lambda ct: np.where(ct < -950, -2000, -ct),
    "negated, padded with 0": lambda ct: np.where(padding(ct.shape), 0, -ct),
    "negated, padded with 3000": lambda ct: np.where(padding(ct.shape), 3000, -ct),
    "negated, clipped": lambda ct: -ct.clip(-160, 240),
    "negated, clipped and padded": lambda ct: np.where(padding(ct.shape), -2000, -ct.clip(-160, 240)),
    "intercept twice": lambda ct: ct - 1024,
    "intercept never": lambda ct: ct + 1024,
    "intercept never, padded": lambda ct: np.where(padding(ct.shape), -2000 + 1024, ct + 1024),
    "twice": lambda ct: ct * 2,
    "half": lambda ct: ct / 2,
    "half, padded with -1024": lambda ct: np.where(padding(ct.shape), -1024, ct / 2),
    "half, padded with -2000": lambda ct: np.where(padding(ct.shape), -2000, ct / 2),
    "half, but for all around the body": lambda ct: np.where(ct < -950, -1024, ct / 2),
    "two thirds, padded with -3024": lambda ct: np.where(padding(ct.shape), -3024, ct / 1.5),
    "twice, padded with -1024": lambda ct: np.where(padding(ct.shape), -1024, ct * 2),
    "shifted by 500, padded": lambda ct: np.where(padding(ct.shape), -2000, ct + 500),
    "thousandth": lambda ct: ct / 1000,
    "0 to 255": lambda ct: (ct.clip(-160, 240) + 160) / 400 * 255,
    "-1000 to 1000": lambda ct: (ct.clip(-160, 240) + 160) / 400 * 2000 - 1000,
    "shifted by 500": lambda ct: ct + 500,
    "beyond any CT": lambda ct: np.where(np.arange(ct.size).reshape(ct.shape) == 7, 1e9, ct),
    "infinite": lambda ct: np.where(np.arange(ct.size).reshape(ct.shape) == 7, np.inf, ct),
    "NaN": lambda ct: np.where(np.arange(ct.size).reshape(ct.shape) == 7, np.nan, ct),
}  # fmt: skip
HU = {
    "as it is": lambda ct: ct,
    "clipped at -40 and 160": lambda ct: ct.clip(-40, 160),
    "clipped at -160 and 240": lambda ct: ct.clip(-160, 240),
    "clipped at -200 and 300": lambda ct: ct.clip(-200, 300),
    "clipped at -1000 and 1000": lambda ct: ct.clip(-1000, 1000),
    "padded with -2000": lambda ct: np.where(padding(ct.shape), -2000, ct),
    "and a voxel lower still": lambda ct: np.where(corner(ct.shape), -2001, np.where(padding(ct.shape), -2000, ct)),
    "padded with -1024": lambda ct: np.where(padding(ct.shape), -1024, ct),
    "all around the body padded": lambda ct: np.where(ct < -950, -2000, ct),
    "padded with -3024": lambda ct: np.where(padding(ct.shape), -3024, ct),
    "padded with -32768": lambda ct: np.where(padding(ct.shape), -32768, ct),
    "metal": lambda ct: np.where(np.arange(ct.size).reshape(ct.shape) % 2000 == 0, 30000, ct),
    "intercept of -1000": lambda ct: ct + 24,
    "noise": lambda ct: ct + np.random.default_rng(0).normal(0, 60, ct.shape),
}


def corner(shape: tuple[int, ...]) -> np.ndarray:
    """The first voxel."""
    return np.arange(np.prod(shape)).reshape(shape) == 0


def padding(shape: tuple[int, ...]) -> np.ndarray:
    """Outside the circle that a scanner reconstructs."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[:2]), indexing="ij")
    return np.broadcast_to((x**2 + y**2 > 1)[..., None], shape)


@pytest.mark.parametrize("kind", NO_HU)
def test_values_that_are_no_hu_are_refused(reading, ct, tmp_path, kind):
    values = NO_HU[kind](ct[0].astype(np.float64)).astype(np.float32)
    line = refusal(reading, save_nifti(tmp_path / "ct.nii.gz", values, ct[1]))
    assert re.search("not the HU of a CT|beyond what a CT can hold|NaN or infinite", line)


@pytest.mark.parametrize("kind", HU)
def test_hu_are_read_whatever_was_done_to_them(reading, ct, tmp_path, kind):
    values = HU[kind](ct[0].astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(read(reading, save_nifti(tmp_path / "ct.nii.gz", values, ct[1]))[0].numpy(), values)


def test_a_word_of_many_digits_is_refused_at_once(reading, ct, tmp_path):
    path = save_itk(tmp_path / "ct.nrrd", ct)
    head, data = path.read_bytes().split(b"\n\n", 1)
    digits = b"1" * 200_000  # which took time by the square of their number
    path.write_bytes(head.replace(b"space origin: (", b"space origin: (" + digits + b"x") + b"\n\n" + data)
    assert "space origin" in refusal(reading, path)
