"""One phantom CT in every format that is read, as bytes, so that mutants of it are made without a disk."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from liver_ct.phantom import make_phantom, write_dicom_series
from liver_ct.phantom.writing import nifti

SIZE, SPACING = (48, 40, 20), (8.0, 8.0, 10.0)
GROUPS = ("NIfTI", "NRRD", "MHA", "DICOM series", "DICOM Enhanced")
SERIES, ENHANCED = GROUPS[3:]
SERIES_UID = "1.2.3.2.000000"
SHARED = (
    "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows",
    "Columns", "SeriesNumber", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation",
)  # fmt: skip
Files = dict[str, bytes]


def keep(data: bytes) -> bytes:
    """The bytes as they are."""
    return data


class Sample(NamedTuple):
    """A CT on disk.

    Args:
        name: of the format and how it is stored.
        files: content by name.
        entry: the file that is given to the reader; empty for the folder itself.
        pack: what is done to the first file after it was mutated; gzip, to reach what is inside.
    """

    name: str
    files: Files
    entry: str = ""
    pack: Callable[[bytes], bytes] = keep

    @property
    def group(self) -> str:
        """NIfTI, NRRD, MHA, or one of the two kinds of DICOM."""
        return next(group for group in GROUPS if self.name.startswith(group))


def gz(data: bytes) -> bytes:
    """gzip without the time, so that the same seed gives the same bytes."""
    return gzip.compress(data, 1, mtime=0)


def make_samples() -> dict[str, Sample]:
    """All samples, by name. Their content is the same at every call but for the UIDs, which are numbered."""
    ct, _, affine = make_phantom(SIZE, SPACING)
    made = [*nifti_samples(ct, affine), *nrrd_samples(ct, affine), *mha_samples(ct, affine)]
    with TemporaryDirectory() as folder:
        paths = write_dicom_series(folder, ct, affine)
        slices = [pydicom.dcmread(path) for path in paths]
    for number, one in enumerate(slices):
        number_uids(one, number)
    files = {path.name: to_bytes(one) for path, one in zip(paths, slices)}
    made.append(Sample(SERIES, files))
    frames = to_bytes(enhanced(slices))
    made.append(Sample(ENHANCED, {"ct.dcm": frames}, "ct.dcm"))
    made.append(Sample(f"{ENHANCED}, its folder", {"ct.dcm": frames}))
    return {sample.name: sample for sample in made}


def nifti_samples(ct: np.ndarray, affine: np.ndarray) -> list[Sample]:
    """NIfTI as nibabel writes it: plain, big-endian, in gzip, and gzip around a mutated file."""
    plain = nifti(ct, affine)
    big = nib.Nifti1Image(ct, affine, plain.header.as_byteswapped(">"))
    data, swapped = plain.to_bytes(), big.to_bytes()
    return [
        Sample("NIfTI .nii", {"ct.nii": data}, "ct.nii"),
        Sample("NIfTI big-endian", {"ct.nii": swapped}, "ct.nii"),
        Sample("NIfTI .nii.gz", {"ct.nii.gz": gz(data)}, "ct.nii.gz"),
        Sample("NIfTI in gzip", {"ct.nii.gz": data}, "ct.nii.gz", gz),
    ]


def nrrd_samples(ct: np.ndarray, affine: np.ndarray) -> list[Sample]:
    """NRRD as ITK writes it: raw, gzip, and a header beside its data."""
    world = np.diag([-1, -1, 1, 1]) @ affine
    vectors = ["(" + ",".join(f"{v:.10g}" for v in column) + ")" for column in world[:3].T]
    head = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        "type: short",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, ct.shape)),
        "space directions: " + " ".join(vectors[:3]),
        "kinds: domain domain domain",
        "endian: little",
        "encoding: {}",
        f"space origin: {vectors[3]}",
    ]
    text, pixels = "\n".join(head) + "\n", ct.astype("<i2").tobytes(order="F")
    return [
        Sample("NRRD raw", {"ct.nrrd": text.format("raw").encode() + b"\n" + pixels}, "ct.nrrd"),
        Sample("NRRD gzip", {"ct.nrrd": text.format("gzip").encode() + b"\n" + gz(pixels)}, "ct.nrrd"),
        Sample(
            "NRRD detached",
            {"ct.nhdr": (text.format("raw") + "data file: ct.raw\n\n").encode(), "ct.raw": pixels},
            "ct.nhdr",
        ),
    ]


def mha_samples(ct: np.ndarray, affine: np.ndarray) -> list[Sample]:
    """MetaImage as ITK writes it: raw, zlib, and a header beside its data."""
    world = np.diag([-1, -1, 1, 1]) @ affine
    sizes = np.linalg.norm(world[:3, :3], axis=0)
    pixels = ct.astype("<i2").tobytes(order="F")
    packed = zlib.compress(pixels)
    matrix = " ".join(f"{v:g}" for v in (world[:3, :3] / sizes).T.ravel())

    def head(compressed: str, file: str) -> bytes:
        lines = [
            "ObjectType = Image",
            "NDims = 3",
            "BinaryData = True",
            "BinaryDataByteOrderMSB = False",
            f"CompressedData = {compressed}",
            f"TransformMatrix = {matrix}",
            "Offset = " + " ".join(f"{v:.10g}" for v in world[:3, 3]),
            "CenterOfRotation = 0 0 0",
            "AnatomicalOrientation = RAI",
            "ElementSpacing = " + " ".join(f"{v:.10g}" for v in sizes),
            "DimSize = " + " ".join(map(str, ct.shape)),
            "ElementType = MET_SHORT",
            f"ElementDataFile = {file}",
        ]
        return ("\n".join(lines) + "\n").encode()

    return [
        Sample("MHA raw", {"ct.mha": head("False", "LOCAL") + pixels}, "ct.mha"),
        Sample("MHA zlib", {"ct.mha": head(f"True\nCompressedDataSize = {len(packed)}", "LOCAL") + packed}, "ct.mha"),
        Sample("MHA detached", {"ct.mhd": head("False", "ct.raw"), "ct.raw": pixels}, "ct.mhd"),
    ]


def number_uids(one: Dataset, number: int) -> None:
    """UIDs that are the same in every run."""
    one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = "1.2.3.1", SERIES_UID, "1.2.3.3"
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number + 1}"


SHARED = (
    "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows",
    "Columns", "SeriesNumber", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation",
)  # fmt: skip


def enhanced(slices: list[Dataset]) -> Dataset:
    """An Enhanced CT, with what the slices of a series say: position per frame, everything else shared."""
    first, whole = slices[0], Dataset()
    for keyword in SHARED:
        setattr(whole, keyword, first[keyword].value)
    whole.SOPClassUID, whole.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.3.5"
    whole.NumberOfFrames, whole.InstanceNumber = len(slices), 1
    whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared, measures, plane, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    measures.SpacingBetweenSlices = first.SliceThickness
    plane.ImageOrientationPatient = first.ImageOrientationPatient
    values.RescaleIntercept, values.RescaleSlope, values.RescaleType = -1024, 1, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    shared.PixelValueTransformationSequence = [values]
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = [frame_group(one, i) for i, one in enumerate(slices)]
    whole.PixelData = b"".join(one.PixelData for one in slices)
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return whole


def frame_group(one: Dataset, index: int) -> Dataset:
    """The functional groups of one frame."""
    group, position, content = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = one.ImagePositionPatient
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", index + 1, [1, index + 1]
    group.PlanePositionSequence, group.FrameContentSequence = [position], [content]
    return group


def to_bytes(data: Dataset) -> bytes:
    """A DICOM file as it lies on disk."""
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_sample(sample: Sample, folder: Path) -> Path:
    """Write a sample to an empty folder; returns what to give to the reader."""
    folder.mkdir(parents=True)
    for number, (name, data) in enumerate(sample.files.items()):
        (folder / name).write_bytes(sample.pack(data) if number == 0 else data)
    return folder / sample.entry
