"""What belongs together in DICOM, and that every slice is like its neighbours: read rightly, or refused by name."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
import test_headers
from conftest import bundle_module
from programs import store_by
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from test_reading import edit, rescale

from liver_ct import phantom
from liver_ct.chain.studies import find_studies

SIZE, SPACING = (64, 56, 32), (6.0, 6.0, 6.0)
UIDS = ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
LAST = 8  # slices of a series' end
ITEM = b"\xfe\xff\x00\xe0"  # begins a fragment of compressed pixels


@pytest.fixture(scope="module")
def ct() -> tuple[np.ndarray, np.ndarray]:
    array, _, affine = phantom.make_phantom(SIZE, SPACING)
    return array, affine


@pytest.fixture(scope="module")
def written(ct, tmp_path_factory) -> Path:
    """A good series, as it is written."""
    folder = tmp_path_factory.mktemp("written")
    phantom.write_dicom_series(folder, *ct)
    return folder


@pytest.fixture
def series(written, tmp_path) -> list[Path]:
    """The slices of a good series of one's own."""
    shutil.copytree(written, tmp_path / "series")
    return sorted((tmp_path / "series").iterdir())


def refusal(reading, path: Path) -> str:
    """The line that a folder or file is refused by."""
    with pytest.raises(reading.StudyError) as error:
        reading.read_image(path)
    line = str(error.value)
    assert line.startswith(str(path.parent if path.is_file() else path)) and line.endswith(".") and "\n" not in line
    return line


def check_same(reading, folder: Path, written: Path) -> None:
    """A folder reads as the good series does."""
    found, expected = reading.read_image(folder), reading.read_image(written)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    np.testing.assert_allclose(found.affine, expected.affine)


def save_bare(path: Path, target: Path) -> None:
    """Write a slice without preamble and file meta, in implicit VR."""
    header = pydicom.dcmread(path)
    header.file_meta, header.preamble = FileMetaDataset(), None
    path.unlink()
    pydicom.dcmwrite(target, header, implicit_vr=True, little_endian=True)


def enhance(slices: list[Path], order: list[int], target: Path) -> None:
    """Write slices as frames of an Enhanced CT, each with its own position."""
    sources = [pydicom.dcmread(path) for path in slices]
    one, enhanced = sources[0], Dataset()
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "BitsAllocated", "BitsStored",
                 "HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation"):  # fmt: skip
        setattr(enhanced, name, getattr(one, name))
    enhanced.SOPClassUID, enhanced.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2.1", generate_uid()
    enhanced.NumberOfFrames, frames = len(order), []
    for i in order:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = sources[i].ImagePositionPatient
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    enhanced.PerFrameFunctionalGroupsSequence = frames
    enhanced.PixelData = b"".join(sources[i].PixelData for i in order)
    enhanced.file_meta = FileMetaDataset()
    enhanced.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    enhanced.save_as(target, enforce_file_format=True)


class TestOneWayIn:
    @pytest.mark.parametrize("name", ["enhanced.dcm", "enhanced", "enhanced.mha", "enhanced.nrrd"])
    def test_an_enhanced_ct_is_refused_as_a_file_too(self, reading, series, tmp_path, name):
        enhance(series, list(np.random.default_rng(0).permutation(len(series))), tmp_path / name)
        assert "an Enhanced CT Image, which is not read here. Convert it" in refusal(reading, tmp_path / name)

    def test_one_beside_single_slices_is_not_passed_over(self, reading, series):
        enhance(series, [*range(len(series))], series[0].with_name("all"))
        edit(series[0].with_name("all"), SeriesInstanceUID=generate_uid())
        assert "2 CT series" in refusal(reading, series[0].parent)

    def test_a_single_slice_is_checked_as_those_of_a_folder(self, reading, series):
        load = reading.LoadStudyd("image", any_ct=True)
        assert load({"image": str(series[9])})["image"].shape == (1, *SIZE[:2], 1)
        with pytest.raises(reading.StudyError, match="a 2D image"):
            reading.LoadStudyd("image")({"image": str(series[9])})
        edit(series[9], RescaleSlope=-1)
        assert "RescaleSlope is -1" in refusal(reading, series[9])

    def test_files_without_preamble_or_transfer_syntax_are_read(self, reading, series, written):
        for number, path in enumerate(series):
            if number % 3 == 0:
                save_bare(path, path.with_name(f"I{number}"))
            elif number % 3 == 1:
                save_bare(path, path)
            else:
                raw = path.read_bytes()
                path.write_bytes(raw[:132] + raw[144 + int.from_bytes(raw[140:144], "little") :])  # no file meta
        check_same(reading, series[0].parent, written)


class TestWhatBelongsTogether:
    def halves(self, series, **marks) -> Path:
        """Every other slice of another acquisition, with attributes of its own, in another breath."""
        for path in series[1::2]:
            edit(path, **marks)
            header = pydicom.dcmread(path)
            header.PixelData = np.roll(header.pixel_array, 4, axis=0).tobytes()
            header.save_as(path)
        return series[0].parent

    @pytest.mark.parametrize("marks", [
        {"AcquisitionNumber": 2}, {"AcquisitionTime": "120040"}, {"ConvolutionKernel": "B70f"}, {"KVP": 80}
    ], ids=str)  # fmt: skip
    def test_acquisitions_between_each_other_s_slices_are_named(self, reading, series, marks):
        for path in series:
            edit(path, AcquisitionTime="120000")
        line = refusal(reading, self.halves(series, **marks))
        assert next(iter(marks)) in line and "slice_0001.dcm and slice_0002.dcm" in line

    def test_they_are_seen_where_headers_say_nothing(self, reading, series):
        assert "every other slice is of another acquisition" in refusal(reading, self.halves(series))

    def test_acquisitions_that_follow_each_other_are_read(self, reading, series, written):
        for number, path in enumerate(series):
            edit(path, AcquisitionNumber=1 + number // 10, AcquisitionTime=f"1200{number:02d}.5", KVP=120)
        check_same(reading, series[0].parent, written)

    @pytest.mark.parametrize("name", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
    def test_slices_of_two_people_studies_or_places_are_no_series(self, reading, series, name):
        for number, path in enumerate(series):
            edit(path, **{name: f"1.2.{number // 16}"})
        line = refusal(reading, series[0].parent)
        assert f"differ in {name} are in one series (slice_0001.dcm and slice_0017.dcm)" in line

    def test_one_position_for_all_is_the_cause(self, reading, series):
        for path in series:
            edit(path, ImagePositionPatient=[0, 0, 0])
        assert "all 32 slices have one ImagePositionPatient" in refusal(reading, series[0].parent)

    @pytest.mark.parametrize("place", ["beside", "below", "above"])
    def test_a_series_that_goes_on_in_another_folder_is_refused(self, reading, series, place):
        folder = series[0].parent
        other = {"beside": folder.with_name("more"), "below": folder / "more", "above": folder.parent}[place]
        other.mkdir(exist_ok=True)
        for path in series[-LAST:]:
            path.rename(other / path.name)
        assert f"goes on in {other}" in refusal(reading, folder)
        if place == "beside":
            assert f"goes on in {folder}" in refusal(reading, other)

    def test_another_acquisition_of_the_series_beside_it_is_none_of_its_parts(self, reading, series, written):
        other = series[0].parent.with_name("late")
        shutil.copytree(series[0].parent, other)
        for path in other.iterdir():
            x, y, z = pydicom.dcmread(path).ImagePositionPatient
            edit(path, AcquisitionNumber=2, ImagePositionPatient=[x, y, float(z) + 3])
        check_same(reading, series[0].parent, written)

    def test_a_folder_beside_it_that_goes_meanwhile_is_no_matter(self, reading, series, written, monkeypatch):
        gone = series[0].parent.with_name("gone")
        monkeypatch.setattr(bundle_module("seg", "dicom_series"), "_folders_around", lambda _: [gone])
        check_same(reading, series[0].parent, written)

    def test_a_copy_beside_it_is_none_of_its_parts(self, reading, series, written):
        shutil.copytree(series[0].parent, series[0].parent.with_name("copy"))
        check_same(reading, series[0].parent, written)

    @pytest.mark.parametrize("deleted", [False, True])
    def test_blank_uids_fall_back_to_other_marks(self, reading, series, written, deleted):
        for path in series:
            header = pydicom.dcmread(path)
            for name in UIDS:
                if deleted and name != "SOPClassUID":
                    delattr(header, name)
                else:
                    setattr(header, name, "")
            header.save_as(path)
        check_same(reading, series[0].parent, written)
        for path in series[::2]:
            edit(path, SeriesDescription="another", SeriesNumber=7)
        assert "2 CT series in this folder: 7, 16 slices" in refusal(reading, series[0].parent)

    def test_a_uid_for_each_slice_is_one_short_line(self, reading, series):
        for path in series:
            edit(path, SeriesInstanceUID=generate_uid())
        line = refusal(reading, series[0].parent)
        assert "32 CT slices, each with a SeriesInstanceUID of its own" in line and len(line) < 300 + len(
            str(series[0])
        )

    def test_a_scout_without_image_type_is_passed_over(self, reading, series, written):
        for path in series:
            edit(path, ImageType="")
        scout = pydicom.dcmread(series[0])
        scout.ImageOrientationPatient, scout.Rows = [0, 1, 0, 0, 0, -1], scout.Rows - 20
        scout.PixelData, scout.SOPInstanceUID = scout.PixelData[: 2 * scout.Rows * scout.Columns], generate_uid()
        scout.save_as(series[0].with_name("scout.dcm"))
        check_same(reading, series[0].parent, written)

    @pytest.mark.parametrize("values", [
        {"Modality": "OT"}, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    ], ids=str)  # fmt: skip
    def test_slices_at_the_end_that_are_called_something_else_are_not_passed_over(self, reading, series, values):
        for path in series[-LAST:]:
            edit(path, **values)
        assert f"{series[-LAST]}: by modality, SOP class or image type no CT slice" in refusal(
            reading, series[0].parent
        )

    def test_a_distance_that_changes_is_the_cause(self, reading, series):
        for path in series[1:16:2]:
            path.unlink()
        assert "distance changes, 12.00 then 6.00 mm" in refusal(reading, series[0].parent)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    """As an interrupted copy leaves it that took the space before."""
    path.write_bytes(bytes(path.stat().st_size))


def foreign(path: Path) -> None:
    path.write_text("<html>403 Forbidden</html>" * 20)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def unfetched(path: Path) -> None:
    path.unlink()
    path.symlink_to("../.git/annex/objects/none")


def unfinished(path: Path) -> None:
    path.rename(f"{path}.part")
    foreign(path.with_name(f"{path.name}.part"))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


NAMES = ("slice_{:04d}.dcm", "I{}", "{:04d}", "CT.1.2.840.{}.77", "0000{:04X}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spoil", [emptied, zeroed, foreign, cut, unfetched, unfinished, piped])
def test_slices_of_an_interrupted_copy_refuse_the_series(reading, series, name, spoil):
    """At its end, where no gap tells."""
    renamed = [path.rename(path.with_name(name.format(number + 10))) for number, path in enumerate(series)]
    for path in renamed[-LAST:]:
        spoil(path)
    line = refusal(reading, series[0].parent)
    assert line.startswith(f"{renamed[-LAST]}")


def test_slices_of_a_folder_in_a_zip_are_named_alike(reading):
    naming = bundle_module("seg", "dicom_files").naming
    assert naming("h-0000AB1F") == naming("h-00C0FFEE.part") != naming("g-00C0FFEE")


def test_a_slice_in_gzip_is_refused_by_that(reading, series):
    series[3].write_bytes(gzip.compress(series[3].read_bytes()))
    assert f"{series[3]}: slice cannot be read (it is packed with gzip" in refusal(reading, series[0].parent)


def test_other_files_beside_the_slices_do_not_matter(reading, series, written):
    for name in ("README.txt", "LICENSE", "notes 2024.txt", "VERSION", "index.html", ".DS_Store", "._slice_0040.dcm"):
        (series[0].parent / name).write_bytes(b"")
    (series[0].parent / "CHANGES").symlink_to("../.git/annex/objects/none")
    (series[0].parent / "slice_0099").mkdir()
    check_same(reading, series[0].parent, written)


class TestNeighbours:
    @pytest.mark.parametrize("values", [
        {"RescaleSlope": 2}, {"RescaleSlope": 0.5}, {"RescaleIntercept": 0}, {"RescaleIntercept": -1124},
        {"BitsStored": 10, "HighBit": 9}, {"PixelRepresentation": 1, "BitsStored": 11, "HighBit": 10},
    ], ids=str)  # fmt: skip
    @pytest.mark.parametrize("which", [slice(15, 16), slice(31, 32), slice(0, 1), slice(24, 32)], ids=str)
    def test_scaling_or_bits_of_some_slices_that_do_not_fit_are_refused(self, reading, series, values, which):
        for path in series[which]:
            edit(path, **values)
        cause = (
            "is too few for its values" if "BitsStored" in values else "scaled or stored unlike the slices beside it"
        )
        assert cause in refusal(reading, series[0].parent)

    def test_so_are_those_of_all(self, reading, series):
        for number, path in enumerate(series):
            edit(path, RescaleSlope=1 + number % 3)
        assert "scaled or stored unlike the slices beside it" in refusal(reading, series[0].parent)

    @pytest.mark.parametrize("slope, intercept", [(0.01, 0), (0.005, 5), (0, 5), (0, 3)])
    def test_scaling_that_drifts_is_refused(self, reading, series, slope, intercept):
        for number, path in enumerate(series):
            edit(path, RescaleSlope=1 + slope * number, RescaleIntercept=-1024 + intercept * number)
        line = refusal(reading, series[0].parent)
        assert "whose values fit better without that" in line or "scaled or stored unlike" in line

    @pytest.mark.parametrize("slope", [lambda number: 0.5 + number / 64, lambda number: [1, 0.5, 2][number % 3]])
    def test_scaling_that_drifts_or_jumps_and_fits_is_read(self, reading, series, written, slope):
        expected = reading.read_image(written).numpy()
        for number, path in enumerate(series):
            rescale(path, slope(number), -1024 - number)
        assert np.abs(reading.read_image(series[0].parent).numpy() - expected).max() <= 1

    def test_values_unlike_those_around_are_refused(self, reading, series):
        header = pydicom.dcmread(series[12])
        header.PixelData = (header.pixel_array // 2).astype("<u2").tobytes()
        header.save_as(series[12])
        assert f"{series[12]}: its values do not fit" in refusal(reading, series[0].parent)

    @pytest.mark.parametrize("axcodes", ["LPS", "RAI", "LIP", "PSR"])
    def test_good_series_pass(self, reading, ct, tmp_path, axcodes):
        phantom.write_dicom_series(tmp_path / "series", *ct, axcodes=axcodes)
        assert reading.read_image(tmp_path / "series").dtype.is_floating_point is False


def pad(path: Path, raw: int, **values) -> np.ndarray:
    """Write ``raw`` outside of a circle; returns where."""
    header = pydicom.dcmread(path)
    y, x = np.mgrid[-1 : 1 : header.Rows * 1j, -1 : 1 : header.Columns * 1j]
    outside, stored = x * x + y * y > 1, header.pixel_array.astype(np.int32)
    if header.PixelRepresentation != values.get("PixelRepresentation", 0):
        stored -= 1024
    stored[outside] = raw
    header.PixelData = (stored & 0xFFFF).astype("<u2").tobytes()
    for name, (vr, value) in values.pop("ambiguous", {}).items():
        header.add_new(name, vr, value)
    header.update(values)
    header.save_as(path)
    return outside


SIGNED = {"PixelRepresentation": 1, "RescaleIntercept": 0}
PADDING, LIMIT = 0x00280120, 0x00280121
PADDINGS = {
    "unsigned": (63536, {PADDING: ("US", 63536)}, {}), "other sign": (63536, {PADDING: ("SS", -2000)}, {}),
    "signed": (-2000, {PADDING: ("SS", -2000)}, SIGNED),
    "signed as unsigned": (-2000, {PADDING: ("US", 63536)}, SIGNED),
    "range": (63600, {PADDING: ("US", 63536), LIMIT: ("US", 63736)}, {}),
    "range, turned": (63600, {PADDING: ("SS", -1800), LIMIT: ("SS", -2000)}, {}),
    "lowest": (-32768, {PADDING: ("SS", -32768)}, SIGNED), "highest": (32767, {PADDING: ("SS", 32767)}, SIGNED),
    "water": (0, {PADDING: ("SS", 0)}, SIGNED), "none there": (0, {PADDING: ("US", 63536)}, {}),
}  # fmt: skip


@pytest.mark.parametrize("raw, ambiguous, values", PADDINGS.values(), ids=PADDINGS)
def test_padding_is_air_whatever_its_sign(reading, series, written, raw, ambiguous, values):
    expected = reading.read_image(written).numpy().copy()
    for path in series:
        edit(path, BitsStored=16, HighBit=15)
        outside = pad(path, raw, ambiguous=ambiguous, **values)
    expected[0, outside.T] = -1024
    np.testing.assert_array_equal(reading.read_image(series[0].parent).numpy(), expected)


def declare(**values):
    def fault(path: Path) -> None:
        edit(path, **values)

    return fault


def a_word(path: Path, keyword: str, text: bytes) -> None:
    """Put bytes that are no number into an attribute."""
    header = pydicom.dcmread(path)
    del header[keyword]
    tag, raw = pydicom.tag.Tag(keyword), path.read_bytes()
    at = raw.index(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")) + 8
    length = int.from_bytes(raw[at - 2 : at], "little")
    path.write_bytes(raw[:at] + text.ljust(length)[:length] + raw[at + length :])


DECLARED = {
    "fewer rows": (declare(Rows=50), "pixels of 16 bits"), "fewer columns": (declare(Columns=63), "pixels of 16 bits"),
    "more rows": (declare(Rows=60), "cut short"), "huge": (declare(Rows=65535, Columns=65535), "cut short"),
    "no rows": (declare(Rows=0), "so no pixels"), "8 bits": (declare(BitsAllocated=8), "contradict each other"),
    "8 bits, all": (declare(BitsAllocated=8, BitsStored=8, HighBit=7), "pixels of 8 bits"),
    "32 bits": (declare(BitsAllocated=32), "cut short"), "high bit": (declare(HighBit=3), "contradict each other"),
    "sign": (declare(PixelRepresentation=7), "contradict each other"),
    "slope": (declare(RescaleSlope=-1), "impossible"),
    "steep": (declare(RescaleSlope=40), "beyond a CT's"), "deep": (declare(RescaleIntercept=-90000), "beyond a CT's"),
    "colours": (declare(PhotometricInterpretation="PALETTE COLOR"), "colours"),
    "a word": (lambda path: a_word(path, "PixelSpacing", b"six"), "PixelSpacing is not 2 finite"),
    "comma": (lambda path: a_word(path, "RescaleIntercept", b"-1,0"), "RescaleIntercept is not 1 finite"),
}  # fmt: skip


@pytest.mark.parametrize("fault, cause", DECLARED.values(), ids=DECLARED)
def test_headers_that_contradict_the_pixels_are_refused(reading, series, fault, cause):
    for path in series:
        fault(path)
    assert cause in refusal(reading, series[0].parent)


@pytest.mark.parametrize("kept", [132, 400, 2000])
def test_a_file_filled_with_zeros_is_refused_at_once(reading, series, kept):
    """Each eight zeros are an element of nothing to pydicom, which took minutes over them."""
    series[3].write_bytes(series[3].read_bytes()[:kept] + bytes(200 << 20))
    line = refusal(reading, series[3].parent)
    assert series[3].name in line and ("filled with zeros" in line or "cannot be read" in line)


@pytest.mark.parametrize("name", ["SeriesInstanceUID", "ConvolutionKernel", "RescaleType"])
def test_a_damaged_text_makes_no_long_line(reading, series, name):
    edit(series[3], **{"SeriesInstanceUID": generate_uid(), name: "x" * 2000})
    assert len(refusal(reading, series[0].parent)) < 500 + len(str(series[0].parent))


@pytest.mark.parametrize("first", [9, 12])
def test_a_rescaling_a_little_off_from_a_slice_on_is_refused(reading, series, first):
    for path in series[first:]:
        edit(path, RescaleIntercept=-1055)
    assert "is scaled or stored unlike the slices beside it" in refusal(reading, series[0].parent)


@pytest.mark.parametrize("values", [
    {"RescaleIntercept": -1025}, {"RescaleIntercept": -1023.25}, {"RescaleSlope": 1.002}
], ids=str)  # fmt: skip
@pytest.mark.parametrize("which", [slice(0, 1), slice(15, 16), slice(31, 32), slice(24, 32)], ids=str)
def test_a_scaling_of_its_own_without_a_reason_is_refused(reading, series, values, which):
    for path in series[which]:
        edit(path, **values)
    assert "is scaled or stored unlike the slices beside it" in refusal(reading, series[0].parent)


def test_a_scaling_of_its_own_with_a_reason_is_read(reading, series, written):
    expected = reading.read_image(written).numpy()
    rescale(series[7], 0.5, -1024)
    rescale(series[20], 1, -1200)
    assert np.abs(reading.read_image(series[0].parent).numpy() - expected).max() <= 1


@pytest.mark.parametrize("first", [0, 11, 30])
def test_two_slices_whose_positions_are_exchanged_are_named(reading, series, first):
    one, other = series[first : first + 2]
    places = [pydicom.dcmread(path).ImagePositionPatient for path in (one, other)]
    edit(one, ImagePositionPatient=places[1])
    edit(other, ImagePositionPatient=places[0])
    line = test_headers.refusal(reading, series[0].parent)
    assert "in the opposite order" in line and (one.name in line or other.name in line)


def test_half_of_a_series_mirrored_in_plane_is_refused(reading, series):
    for path in series[:14]:
        header = pydicom.dcmread(path)
        header.PixelData = header.pixel_array[:, ::-1].tobytes()
        header.save_as(path)
    line = test_headers.refusal(reading, series[0].parent)
    assert f"slice 14 of 0 to 31 ({series[14].name}) is turned over against the one before it" in line


@pytest.mark.parametrize("number", [0, -1])
def test_a_file_whose_second_half_was_not_written_is_named(reading, series, number):
    header = pydicom.dcmread(series[number])
    half = len(header.PixelData) // 2
    header.PixelData = header.PixelData[:half] + bytes(half)
    header.save_as(series[number])
    line = test_headers.refusal(reading, series[0].parent)
    assert f"({series[number].name}) ends in 28 lines of -1024 HU" in line


def test_bytes_put_in_before_the_end_are_noticed(reading, series):
    data = series[4].read_bytes()
    series[4].write_bytes(data[:-400] + data[-408:])
    assert "no element follow its pixels" in refusal(reading, series[0].parent)


def test_two_slices_in_one_file_are_not_one(reading, series):
    for one, other in zip(series[::2], series[1::2]):
        one.write_bytes(one.read_bytes() + other.read_bytes())
        other.unlink()
    assert "another DICOM file follows in it" in refusal(reading, series[0].parent)


def test_a_slice_whose_length_swallows_what_follows_is_not_passed_over(reading, series):
    data = series[0].read_bytes()
    at = data.index(b"\x08\x00\x16\x00UI") + 6
    series[0].write_bytes(data[:at] + b"\xff\x7f" + data[at + 2 :])
    assert "cut short" in refusal(reading, series[0].parent)


def test_a_length_beyond_the_file_is_no_want_of_memory(reading, series, monkeypatch):
    def read(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pydicom.filereader, "read_partial", read)
    assert "a length in it is damaged" in refusal(reading, series[0].parent)


def test_what_the_system_refuses_is_no_fault_of_a_slice(reading, series, monkeypatch):
    def refuse(number: int):
        def refused(*_, **__):
            raise OSError(number, os.strerror(number))

        return refused

    with monkeypatch.context() as patch:
        patch.setattr(pydicom.filereader, "read_partial", refuse(errno.EACCES))
        with pytest.raises(PermissionError):
            reading.read_image(series[0].parent)
    store_by(series[3], "dcmcrle")
    monkeypatch.setattr(bundle_module("seg", "dicom_pixels"), "TemporaryDirectory", refuse(errno.ENOSPC))
    assert "temporary files cannot be written to (No space left on device). Free" in refusal(reading, series[0].parent)


@pytest.mark.parametrize("command", [["dcmcjpeg", "+e1"], ["dcmcjpls"]])
def test_compressed_pixels_of_another_size_are_refused(reading, series, command):
    for path in series:
        store_by(path, *command)
        edit(path, Rows=SIZE[1] - 4)
    assert "compressed pixels of (56, 64), but Rows and Columns are (52, 64)" in refusal(reading, series[0].parent)


@pytest.mark.parametrize(
    "after, cause", [(b"OB\0\0", "length of its pixel data"), (b"\xfe\xff\x00\xe0", "are damaged")]
)
@pytest.mark.parametrize("command", [["dcmcjpeg", "+e1"], ["dcmcrle"]])
def test_a_length_in_compressed_pixels_beyond_the_file_takes_no_memory(reading, series, command, after, cause):
    for path in series[8:11]:
        store_by(path, *command)
    raw = bytearray(series[9].read_bytes())
    at = raw.rindex(after) + len(after)
    raw[at + 3] = 0xD0
    series[9].write_bytes(raw)
    line = refusal(reading, series[0].parent)
    assert line.startswith(f"{series[9]}: slice cannot be read") and cause in line


class TestOddButGood:
    """What other programs read, and what is in it can be told."""

    @pytest.mark.parametrize("apart, to", [(0.625, 0.1), (0.75, 0.1), (1.25, 0.5), (2.8, 0.5)])
    def test_positions_written_to_a_tenth_or_half_of_a_millimetre_are_evenly_spaced(self, reading, series, apart, to):
        for number, path in enumerate(series):
            edit(path, ImagePositionPatient=[0, 0, round(round(number * apart / to) * to, 1)])
        read = reading.read_image(series[0].parent)
        assert abs(read.affine[2, 2]) == pytest.approx(apart, abs=to / len(series))
        series[5].unlink()
        assert "so some are missing" in refusal(reading, series[0].parent)

    def test_positions_written_to_whole_millimetres_are_uneven(self, reading, series):
        for number, path in enumerate(series):
            edit(path, ImagePositionPatient=[0, 0, round(number * 5.7)])
        assert "5.00 to 6.00 mm apart, which is uneven" in refusal(reading, series[0].parent)

    @pytest.mark.parametrize(
        "values",
        [{"RescaleType": "hu"}, {"RescaleType": "H.U."}, {"RescaleType": "Hounsfield Units (HU)"},
         {"RescaleType": "UNSPECIFIED"}, {"ModalityLUTSequence": []}],
    )  # fmt: skip
    def test_hu_by_another_name_are_hu(self, reading, series, written, values):
        for path in series:
            edit(path, **values)
        check_same(reading, series[0].parent, written)

    def test_a_number_may_be_written_in_several_ways(self, reading, series, written):
        for number, path in enumerate(series):
            edit(path, KVP=("120", "120.0", "1.2e2")[number % 3], ReconstructionDiameter=("384", "384.000")[number % 2])
        check_same(reading, series[0].parent, written)

    def test_a_name_in_other_letters_is_the_same_and_a_birthday_makes_nobody_else(self, reading, series, written):
        for number, path in enumerate(series):
            name, kernel = ("Doe^Jane^^^Dr", "DOE^JANE Dr ", "^^")[number % 3], ("B30f", "b30f")[number % 2]
            edit(path, PatientName=name, ConvolutionKernel=kernel, PatientAge=f"0{49 + (number > 20)}Y")
        check_same(reading, series[0].parent, written)
        edit(series[3], PatientAge="051Y")
        assert "differ in PatientAge are in one series" in refusal(reading, series[0].parent)

    @pytest.mark.parametrize("bits", [12, 16])
    @pytest.mark.parametrize("command", [["dcmcjpeg", "+e1"], ["dcmcjpls"], ["dcmcrle"], ["dcmconv", "+tb"]])
    def test_black_that_is_high_changes_no_hu(self, reading, series, written, command, bits):
        for path in series[:3]:
            edit(path, PhotometricInterpretation="MONOCHROME1", BitsStored=bits, HighBit=bits - 1)
            store_by(path, *command)
        check_same(reading, series[0].parent, written)

    def test_compressed_slices_in_a_folder_whose_name_is_no_utf8_are_read(self, reading, series, written):
        for path in series[:3]:
            store_by(path, "dcmcrle")
        folder = Path(os.fsdecode(os.fsencode(series[0].parent) + b"-M\xfcnchen"))
        series[0].parent.rename(folder)
        check_same(reading, folder, written)

    def test_padding_of_a_broken_slope_is_the_same_compressed(self, reading, series):
        for path in series:
            rescale(path, 0.1, -1024)
            pad(path, 65533, ambiguous={PADDING: ("US", 65533)})
        before = reading.read_image(series[0].parent)
        for path in series[:3]:
            store_by(path, "dcmcrle")
        np.testing.assert_array_equal(reading.read_image(series[0].parent).numpy(), before.numpy())


@pytest.mark.parametrize("name, found", [("PatientName", "Another"), ("PatientSex", "F")])
def test_people_without_a_patient_id_are_told_by_what_else_is_theirs(reading, series, name, found):
    for path in series:
        edit(path, PatientID="")
    for path in series[16:]:
        edit(path, **{name: found})
    line = refusal(reading, series[0].parent)
    assert f"acquisitions that differ in {name} are in one series" in line and f" {found} " not in line


@pytest.mark.parametrize("kind", ["MIP", "CT_SOM5 MIP", "MINIP_THIN", "PROJECTION IMAGE", "MAX_IP", "MINIMUM"])
def test_projections_are_no_slices(reading, series, kind):
    edit(series[0], ImageType=["DERIVED", "SECONDARY", "AXIAL", kind])
    assert "by its ImageType a projection" in refusal(reading, series[0].parent)


@pytest.mark.parametrize("values", [
    {"VolumeBasedCalculationTechnique": "MAX_IP"}, {"VolumeBasedCalculationTechnique": "CURVED_MPR"},
    {"VolumetricProperties": "DISTORTED"},
], ids=str)  # fmt: skip
def test_nor_are_they_by_another_attribute(reading, series, values):
    edit(series[0], **values)
    assert f"by its {next(iter(values))} " in refusal(reading, series[0].parent)


def real_world(unit: str) -> list[Dataset]:
    """A RealWorldValueMappingSequence of values in some unit."""
    code, item = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
    item.RealWorldValueSlope, item.RealWorldValueIntercept, item.MeasurementUnitsCodeSequence = 0.1, -100.0, [code]
    return [item]


@pytest.mark.parametrize("said", ["", "US", "UNSPECIFIED"])
def test_another_unit_by_the_only_attribute_that_says_one_is_refused(reading, series, written, said):
    for path in series:
        edit(path, RescaleType=said, RealWorldValueMappingSequence=real_world("[hnsf'U]"))
    check_same(reading, series[0].parent, written)
    edit(series[3], RealWorldValueMappingSequence=real_world("mg/mL"))
    assert "its values are mg/mL by RealWorldValueMappingSequence" in refusal(reading, series[0].parent)


def test_hu_by_a_table_are_refused_by_that(reading, series):
    table = Dataset()
    table.ModalityLUTType = "HU"
    for path in series:
        edit(path, ModalityLUTSequence=[table])
    assert "by a table, ModalityLUTSequence" in refusal(reading, series[0].parent)


def test_pixels_of_floating_point_are_refused_by_that(reading, series):
    header = pydicom.dcmread(series[3])
    header.FloatPixelData = header.pixel_array.astype("<f4").tobytes()
    del header.PixelData
    header.save_as(series[3])
    assert "floating-point numbers" in refusal(reading, series[0].parent)


def test_a_number_in_the_way_of_python_is_none(reading, series):
    for path in series:
        a_word(path, "RescaleIntercept", b"-1_0")
    assert "RescaleIntercept is not 1 finite" in refusal(reading, series[0].parent)


def test_a_dicomdir_is_none_of_its_images(reading, series):
    shutil.copy(series[0], series[0].with_name("DICOMDIR"))
    assert "Give the folder that holds the series" in refusal(reading, series[0].with_name("DICOMDIR"))


def test_a_deflated_slice_that_becomes_huge_takes_no_memory(reading, series):
    import resource

    path = series[3]
    store_by(path, "dcmconv", "+td")
    raw = path.read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    data = zlib.decompress(raw[start:], -zlib.MAX_WBITS)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(data + b"\xfc\xff\xfc\xffOB\0\0" + (900 << 20).to_bytes(4, "little"))
    packed += b"".join(deflate.compress(bytes(1 << 20)) for _ in range(900))
    path.write_bytes(raw[:start] + packed + deflate.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert path.name in (line := refusal(reading, series[0].parent)) and "more than 256 MB" in line
    assert [study.path for study in find_studies(path.parent)] == [path.parent]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def moved(path: Path, bits: dict, lowest: int) -> None:
    """Store a slice in other bits, its values from ``lowest`` up."""
    header = pydicom.dcmread(path)
    stored = (header.pixel_array.astype(np.int64) + lowest) << (bits["HighBit"] + 1 - bits["BitsStored"])
    header.update({**bits, "PixelRepresentation": int(lowest < 0), "RescaleIntercept": -1024 - lowest})
    kind = f"{'i' if lowest < 0 else 'u'}{bits['BitsAllocated'] // 8}"
    header.PixelData = stored.astype(f"<{kind}").tobytes()
    header["PixelData"].VR = "OW"
    header.save_as(path)


BITS = {
    "the highest": (16, 12, 15), "the middle": (16, 12, 13), "twice as many": (32, 16, 15), "all of twice": (32, 32, 31)
}  # fmt: skip


@pytest.mark.parametrize("lowest", [0, -1024])
@pytest.mark.parametrize("bits", BITS.values(), ids=BITS)
def test_values_in_other_bits_than_the_lowest_are_read(reading, series, written, bits, lowest):
    for path in series:
        moved(path, dict(zip(("BitsAllocated", "BitsStored", "HighBit"), bits)), lowest)
    check_same(reading, series[0].parent, written)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("command", [None, ["dcmcjpeg", "+e1"], ["dcmcjpls"], ["dcmcrle"]])
def test_values_that_go_on_above_bits_stored_are_refused(reading, series, signed, command):
    """Bone above 1023 HU wrapped around to air without a word."""
    for path in series[20:22]:
        header = pydicom.dcmread(path)
        stored = header.pixel_array.astype(np.int32) - 1024
        stored[stored > 150] *= 5
        stored += 0 if signed else 1024
        header.update({"PixelRepresentation": int(signed), "RescaleIntercept": 0 if signed else -1024})
        header.PixelData = stored.astype("<i2").tobytes()
        header["PixelData"].VR = "OW"
        header.save_as(path)
        if command:
            store_by(path, *command)
        edit(path, BitsStored=11, HighBit=10)
    assert "BitsStored 11 is too few for its values" in refusal(reading, series[0].parent)


def test_compressed_they_are_refused_by_that(reading, series):
    for path in series:
        store_by(path, "dcmcrle")
        edit(path, BitsStored=12, HighBit=15)
    assert "BitsStored 12 and HighBit 15, which are not read here" in refusal(reading, series[0].parent)


def in_fragments(path: Path, ends: list[int], times: int = 1) -> None:
    """Cut a compressed image at some bytes, or put it there several times."""
    header = pydicom.dcmread(path)
    image = get_frame(header.PixelData, 0, number_of_frames=1)
    parts = [image[a:b] for a, b in pairwise([0, *ends, len(image)])] * times
    items = [ITEM + len(part).to_bytes(4, "little") + part for part in (b"", *parts)]
    header.PixelData = b"".join(items)
    header.save_as(path)


@pytest.mark.parametrize("command", [["dcmcjpeg", "+e1"], ["dcmcjpls"], ["dcmcrle"]])
def test_fragments_of_a_compressed_image_may_end_anywhere(reading, series, written, command):
    for path in series[:3]:
        store_by(path, *command)
        in_fragments(path, [2, 10, 300, 1300])
    check_same(reading, series[0].parent, written)
    if command[0] != "dcmcrle":
        in_fragments(series[1], [300], times=2)
        assert f"{series[1]}: several compressed images in one slice" in refusal(reading, series[0].parent)


@pytest.mark.parametrize("kind", [
    "MAT_SPECIFIC", "EFF_ATOMIC_NUM", "GSI IODINE(WATER)", "PERFUSION", "ZEFF", "RHO_Z", "ELECTRON DENSITY", "SUB",
    "FAT_FRACTION", "STD_DEVIATION",
])  # fmt: skip
def test_maps_computed_from_cts_are_no_ct(reading, series, kind):
    for first in (["DERIVED", "PRIMARY"], ["ORIGINAL", "SECONDARY"]):
        edit(series[0], ImageType=[*first, "AXIAL", kind])
        assert "a map computed from CTs, not in HU" in refusal(reading, series[0].parent)


@pytest.mark.parametrize("kind", [
    ("DERIVED", "SUB_VOLUME"), ("DERIVED", "MINIMUM DOSE"), ("DERIVED", "CT_SOM5 SPI SUB"),
    ("DERIVED", "VIRTUAL NON IODINE"), ("DERIVED", "IODINE REMOVED"), ("ORIGINAL", "CT_SOM5 DYN PERFUSION"),
])  # fmt: skip
def test_other_words_in_an_image_type_are_no_reason_to_refuse(reading, series, written, kind):
    """Slices that were acquired for a perfusion map are none."""
    for path in series:
        edit(path, ImageType=[kind[0], "PRIMARY", "AXIAL", kind[1]])
    check_same(reading, series[0].parent, written)


@pytest.mark.parametrize("name", ["StationName", "PatientAge", "PatientPosition", "StudyDate"])
def test_halves_of_two_scans_are_no_series(reading, series, name):
    for number, path in enumerate(series):
        edit(path, **{name: {"PatientAge": "007Y", "StudyDate": "20200101"}.get(name, "FFS") if number > 15 else ""})
    check_same(reading, series[0].parent, series[0].parent)
    for path in series[:16]:
        edit(path, **{name: {"PatientAge": "050Y", "StudyDate": "20210101"}.get(name, "HFS")})
    assert f"acquisitions that differ in {name} are in one series" in refusal(reading, series[0].parent)


def test_padding_that_spans_the_body_is_refused(reading, series):
    for path in series:
        header = pydicom.dcmread(path)
        for tag, found in ((PADDING, 0), (LIMIT, 1100)):
            header.add_new(tag, "US", found)
        header.save_as(path)
    assert "-1024 to 76 HU are padding, which a body holds, too" in refusal(reading, series[0].parent)


def test_spaces_and_small_letters_change_no_meaning(reading, series, written):
    for path in series:
        edit(path, Modality=" ct", RescaleType=" HU ")
    scout = pydicom.dcmread(series[0])
    scout.ImageType, scout.SeriesInstanceUID = ["ORIGINAL", "PRIMARY", "Localizer"], generate_uid()
    scout.save_as(series[0].with_name("scout.dcm"))
    check_same(reading, series[0].parent, written)
