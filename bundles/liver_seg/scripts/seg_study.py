"""Reading a study with every check, and working study by study, so that a bad one is named and stops no other.

Both bundles hold this file under names of their own, since each is complete in itself and both fit one process.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Hashable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from isal import igzip
from monai.config import KeysCollection
from monai.data import DataLoader, Dataset, ITKReader, MetaTensor
from monai.engines import Evaluator
from monai.transforms import MapTransform
from nibabel.volumeutils import apply_read_scaling

if TYPE_CHECKING:
    import pydicom

REEXPORT = "Export or copy it again."
ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
TRACKERS = ("tensorboard", "mlflow", "none")
RESEND, ORIGINAL = "Send or copy this series again.", "Give the scanner's original series."
MAX_DRIFT_MM = 1.0  # how far slices may be shifted sideways against each other
DEFER = 2**14  # bytes; longer values, the pixels, are read when they are asked for
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class of a single CT slice
NO_SLICES = ("LOCALIZER", "SCREEN SAVE")  # in the ImageType of CT Images that are none of a volume
NUMBERS = {
    "ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "RescaleSlope": 1, "RescaleIntercept": 1
}  # fmt: skip
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")  # little endian; the last deflated
LAYOUT = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")


class StudyError(ValueError):
    """A study that cannot be processed; the message is ``<file>: <cause>. <mend>``."""


# ------------------------------------------------------------------------------------------------------- reading


class LoadStudyd(MapTransform):
    """Read a CT and its masks as MetaTensors ``[1, X, Y, Z]`` on one grid, in the file's own orientation; float32, or
    int16 where the CT is stored so. A DICOM series' files, in the order of Z, are in ``meta["files"]``.

    LoadImaged reads an MR, a 2D image or a NaN affine without a word, and replaces a NIfTI's affine where pixdim
    differs from it in the sixth digit; this refuses the former with one clear line and takes the affine nibabel does.

    Args:
        keys: ``image`` (NIfTI, MHA, NRRD or a DICOM series folder, in HU), ``prob`` (0..1), ``label`` (0, 1, 2).
        optional: those of the keys that an item, or the disk, may lack.
        any_ct: also take single slices and CT clipped to a narrow window, as training sets hold them.
        series: SeriesNumber or SeriesInstanceUID of the CT, for folders that hold several.

    Raises:
        StudyError: a file that is missing, unreadable, not 3D, with unusable geometry or impossible values, or a
            mask on another grid than the CT.
    """

    def __init__(
        self, keys: KeysCollection, optional: Sequence[str] = (), any_ct: bool = False, series: str | None = None
    ) -> None:
        super().__init__(keys)
        self.optional, self.any_ct, self.series = tuple(optional), any_ct, series

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = {k: v for k, v in data.items() if k not in CHECKS}  # paths that stay unread go
        for key in self.keys:
            path = data.get(key)
            if key in self.optional and (path is None or not Path(path).exists()):
                continue
            if path is None:
                raise StudyError(f"{data['image']}: no {key} given with it. Add it to the datalist.")
            d[key] = read_image(Path(path), self.series)
            if not (self.any_ct and key == "image"):
                CHECKS[str(key)](Path(path), d[key])
            if not self.any_ct:
                check_volume(Path(path), d[key])
            check_grid(Path(path), d[key], Path(data["image"]), d["image"])
        return d | {"case": data.get("case_id") or case_name(data["image"])}


def read_image(path: Path, series: str | int | None = None) -> MetaTensor:
    """Read one image as a MetaTensor ``[1, X, Y, Z]`` of finite values with a finite, invertible affine; int16 where a
    NIfTI is stored so without scaling or a DICOM series holds such HU, else float32.

    Raises:
        StudyError: missing, empty, unreadable, 4D, NaN or infinite voxels, unusable geometry.
    """
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder. Check the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise StudyError(f"{path}: the file is empty. {REEXPORT}")
    meta: dict[str, Any] = {"filename_or_obj": str(path)}
    try:
        if path.is_dir():
            values, affine, meta["files"] = read_series(path, None if series is None else str(series))
        else:
            values, affine = read_nifti(path) if path.name.endswith((".nii", ".nii.gz")) else read_itk(path)
    except StudyError:
        raise
    except Exception as e:
        raise StudyError(f"{path}: not a readable image (damaged, cut short or of another format). {REEXPORT}") from e
    if not np.isfinite(affine).all():
        raise StudyError(f"{path}: its affine holds NaN or infinity. Mend the header from the scanner's original.")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise StudyError(f"{path}: its affine is singular. Mend the header from the scanner's original.")
    if values.ndim > 3:
        raise StudyError(f"{path}: {values.shape[3]} volumes in one file (4D). Give one phase as a 3D file.")
    if values.ndim < 3:
        raise StudyError(f"{path}: a 2D image, shape {tuple(values.shape)}. Give a whole CT volume.")
    if values.is_floating_point() and not torch.isfinite(values.sum(dtype=torch.float64)):
        raise StudyError(f"{path}: NaN or infinite voxels. {REEXPORT}")
    return MetaTensor(values[None], affine=affine, meta=meta)


def read_nifti(path: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Voxels [X, Y, Z] int16 or float32 and affine, trailing axes of one voxel dropped.

    LoadImage and nibabel inflate with zlib and turn integers into floats: four times as long, twice the memory.
    """
    image = nib.load(path)
    stored = image.dataobj
    values = np.empty(stored.shape, stored.dtype, order="F")
    with igzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        file.read(stored.offset)
        left = memoryview(values.reshape(-1, order="F")).cast("B")
        while count := file.readinto(left):
            left = left[count:]
        file.read(1)  # the checksum is compared at the end
    if len(left):
        raise EOFError(f"{path}: {len(left)} bytes are missing")
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.dtype != np.int16 or (stored.slope, stored.inter) != (1, 0):
        values = np.asarray(apply_read_scaling(values, stored.slope, stored.inter), dtype=np.float32)
    return torch.from_numpy(values), np.asarray(image.affine, dtype=np.float64)


def read_itk(path: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Voxels [X, Y, Z] float32 and RAS affine of a file of another format."""
    reader = ITKReader()
    values, meta = reader.get_data(reader.read(str(path)))
    return torch.from_numpy(np.array(values, dtype=np.float32)), np.asarray(meta["affine"], dtype=np.float64)


def case_name(path: str | os.PathLike) -> str:
    """``/a/volume-1.nii.gz`` to ``volume-1``; a folder's name for a DICOM series."""
    name = Path(path).name
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name


# --------------------------------------------------------------------------------------------------------- DICOM


class Slice(NamedTuple):
    """One CT slice: its data set, and the numbers in it that place and scale it."""

    header: pydicom.Dataset
    position: np.ndarray
    cosines: np.ndarray
    spacing: np.ndarray
    slope: float
    intercept: float


def read_series(folder: Path, series: str | None = None) -> tuple[torch.Tensor, np.ndarray, list[str]]:
    """Voxels [X, Y, Z] in HU, int16 where all are such numbers, else float32; RAS affine; files in the order of Z.

    Z runs along the slices' normal. ITK's readers take gaps, repeated slices and a tilt without a word, and longer.

    Args:
        folder: holds the slices; localizers, screenshots, reports and segmentations in it are passed over.
        series: SeriesNumber or SeriesInstanceUID, needed where there are several.

    Raises:
        StudyError: no CT, several series, a slice that cannot be read or placed, or slices that make no even block.
    """
    slices = [place_slice(h) for h in choose_series(folder, find_slices(folder), series)]
    slices = sort_slices(folder, slices)
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.cosines[:3] * first.spacing[1], first.cosines[3:] * first.spacing[0]
    affine[:3, 2] = (last.position - first.position) / (len(slices) - 1) if len(slices) > 1 else normal(first)
    affine[:3, 3] = first.position
    files = [str(s.header.filename) for s in slices]
    return torch.from_numpy(read_voxels(slices).T), np.diag([-1.0, -1, 1, 1]) @ affine, files


def find_slices(folder: Path) -> list[pydicom.Dataset]:
    """The CT slices in a folder, of whatever series.

    Raises:
        StudyError: a file that cannot be read, or no slice.
    """
    slices, others = [], {}
    for header in (read_dicom(p) for p in sorted(folder.iterdir()) if is_dicom(p)):
        is_ct = header.get("Modality") == "CT" and header.get("SOPClassUID") == CT_IMAGE
        if is_ct and not any(mark in str(header.get("ImageType")) for mark in NO_SLICES):
            slices.append(header)
        elif not is_ct and "Rows" in header:
            others.setdefault(header.get("Modality"), header)
    if not slices and "CT" in others:
        kind = others["CT"].SOPClassUID.name.removesuffix(" Storage")
        mend = "Convert it to single slices, as emf2sf of dcm4che does" if "Enhanced" in kind else "Give CT Images"
        raise StudyError(f"{others['CT'].filename}: a {kind}, which is not read here. {mend}.")
    if not slices and others:
        modality, header = next(iter(others.items()))
        raise StudyError(f"{header.filename}: modality is {modality}, not CT. Give a CT series.")
    if not slices:
        raise StudyError(f"{folder}: no CT slices in this folder. Give the folder that holds them.")
    return slices


def is_dicom(path: Path) -> bool:
    """By the suffix or by the mark in the file: series often have no suffix, damaged slices no mark."""
    if not path.is_file() or path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path) -> pydicom.Dataset:
    """A DICOM file with its pixels; raises StudyError."""
    import pydicom  # slow to import, and NIfTI does without

    try:
        header = pydicom.dcmread(path, defer_size=DEFER)
        if "SOPClassUID" not in header and "DirectoryRecordSequence" not in header:
            raise ValueError("it is cut short")
        return header
    except Exception as e:
        cause = str(e).splitlines()[0][:80] if type(e) is ValueError else "not a complete DICOM file"
        raise StudyError(f"{path}: slice cannot be read ({cause}). {RESEND}") from e


def choose_series(folder: Path, slices: Sequence[pydicom.Dataset], series: str | None) -> list[pydicom.Dataset]:
    """The slices of the only series, or of the one asked for by its number or UID.

    Raises:
        StudyError: there is no such series, or more than one; lists those there are, without the patient.
    """
    found: dict[str, list[pydicom.Dataset]] = {}
    for header in slices:
        found.setdefault(str(header.get("SeriesInstanceUID")), []).append(header)
    wanted = [h for uid, h in found.items() if series is None or series in (uid, str(h[0].get("SeriesNumber")))]
    if len(wanted) == 1:
        return wanted[0]
    shown = wanted or list(found.values())
    numbers = [h[0].get("SeriesNumber") for h in shown]
    listed = "; ".join(outline(h, with_uid=numbers.count(n) > 1 or n is None) for h, n in zip(shown, numbers))
    cause = f"{len(shown)} CT series in this folder" if wanted else f"no CT series {series} in this folder, but"
    raise StudyError(f"{folder}: {cause}: {listed}. Choose one with --series NUMBER or its SeriesInstanceUID.")


def outline(series: Sequence[pydicom.Dataset], with_uid: bool) -> str:
    """What tells a series from others: number, slices, their distance and the convolution kernel."""
    first = series[0]
    try:
        places = [place_slice(h) for h in series]
        gaps = np.diff(np.sort([p.position @ normal(places[0]) for p in places]))
        apart = f"{np.median(gaps):.3g} mm apart" if len(gaps) else "alone"
    except StudyError:
        apart = "unknown distance"
    kernel = first.get("ConvolutionKernel") or "unknown"
    kernel = kernel if isinstance(kernel, str) else "/".join(kernel)
    name = f"{first.get('SeriesNumber')} ({first.get('SeriesInstanceUID')})" if with_uid else first.SeriesNumber
    return f"{name}, {len(series)} slices {apart}, kernel {kernel}"


def place_slice(header: pydicom.Dataset) -> Slice:
    """A slice with its geometry and scale.

    Raises:
        StudyError: they are missing or make no sense, or the slice is more or less than one grey image.
    """
    path = header.filename
    position, cosines, spacing, slope, intercept = (numbers(header, *item) for item in NUMBERS.items())
    for name in LAYOUT:
        numbers(header, name, 1)
    rows, columns = cosines.reshape(2, 3)
    if not np.allclose([rows @ rows, columns @ columns, rows @ columns], [1, 1, 0], atol=2e-3):
        raise StudyError(f"{path}: ImageOrientationPatient holds no two directions at right angles. {ORIGINAL}")
    if spacing.min() <= 0 or slope == 0:
        name = "PixelSpacing" if spacing.min() <= 0 else "RescaleSlope"
        raise StudyError(f"{path}: {name} is {header[name].value}, which cannot be. {ORIGINAL}")
    if header.get("RescaleType") not in (None, "", "HU", "HU_MOD", "US"):
        raise StudyError(f"{path}: its values are {header.RescaleType}, not HU. Give a CT in HU.")
    if (header.get("NumberOfFrames") or 1) != 1 or header.SamplesPerPixel != 1:
        raise StudyError(f"{path}: several frames or colours in one slice. {ORIGINAL}")
    return Slice(header, position, cosines, spacing, float(slope[0]), float(intercept[0]))


def numbers(header: pydicom.Dataset, name: str, count: int) -> np.ndarray:
    """A numeric attribute as float64 ``[count]``; raises StudyError unless it is there, whole and finite."""
    value = header.get(name)
    if value is None or value == "":
        why = ", so its values may not be HU" if name.startswith("Rescale") else ""
        raise StudyError(f"{header.filename}: {name} is missing{why}. {ORIGINAL}")
    try:
        array = np.array(value, float).reshape(-1)
    except (TypeError, ValueError):
        array = np.empty(0)
    if len(array) != count or not np.isfinite(array).all():
        raise StudyError(f"{header.filename}: {name} is not {count} finite number{'s'[:count - 1]}. {ORIGINAL}")
    return array


def sort_slices(folder: Path, slices: Sequence[Slice]) -> list[Slice]:
    """Order slices along their normal; raises StudyError unless they fill one evenly spaced, upright block."""
    cosines, positions, spacings = (np.array([s[i] for s in slices]) for i in (2, 1, 3))
    if np.abs(cosines - cosines[0]).max() > 1e-3:
        raise StudyError(f"{folder}: slices of different orientations. Give one axial series.")
    if len({(s.header.Rows, s.header.Columns) for s in slices}) > 1:
        raise StudyError(f"{folder}: slices of different matrix sizes. Give one series as it was reconstructed.")
    if not np.allclose(spacings, spacings[0], rtol=1e-4):
        raise StudyError(f"{folder}: slices of different PixelSpacing. Give one series as it was reconstructed.")
    along = normal(slices[0])
    depth = positions @ along
    sideways = positions - positions[0] - np.outer(depth - depth[0], along)
    gaps = np.diff(np.sort(depth))
    off = np.abs(np.sort(depth) - np.linspace(depth.min(), depth.max(), len(depth))).max()
    if len(gaps) and gaps.min() < 1e-3:
        raise StudyError(f"{folder}: two slices at one position. Remove the duplicates, or give one phase.")
    if len(gaps) and (gaps.max() - gaps.min() > 0.1 * gaps.min() or off > 0.3 * gaps.min()):
        raise StudyError(
            f"{folder}: slices {gaps.min():.2f} to {gaps.max():.2f} mm apart, so some are missing. {REEXPORT}"
        )
    if np.linalg.norm(sideways, axis=1).max() > MAX_DRIFT_MM:
        raise StudyError(f"{folder}: slices shifted sideways (tilted gantry). Give a series without tilt.")
    return [slices[i] for i in np.argsort(depth)]


def normal(one: Slice) -> np.ndarray:
    """Unit vector across the slice."""
    return np.cross(one.cosines[:3], one.cosines[3:])


def read_voxels(slices: Sequence[Slice]) -> np.ndarray:
    """HU ``[Z, Y, X]`` of sorted slices, each by its own slope and intercept; int16, or float32 where int16 loses."""
    volume = np.empty((len(slices), slices[0].header.Rows, slices[0].header.Columns), np.int16)
    for i, one in enumerate(slices):
        hu = slice_hu(one)
        if hu.dtype != np.int16 and volume.dtype == np.int16:
            volume = volume.astype(np.float32)
        volume[i] = hu
        del one.header.PixelData  # of which the volume is now a copy
    return volume


def slice_hu(one: Slice) -> np.ndarray:
    """HU ``[Y, X]`` of a slice, int16 or float32; raises StudyError for pixels that are cut short or undecodable."""
    header, slope, intercept = one.header, one.slope, one.intercept
    stored = stored_values(header)
    if stored is None:
        return decode_hu(header)
    ends = [float(v) * slope + intercept for v in (stored.min(), stored.max())]
    whole = slope.is_integer() and intercept.is_integer() and max(map(abs, (slope, intercept, *ends))) < 2**15
    if not whole:
        return (stored * np.float64(slope) + intercept).astype(np.float32)
    hu = stored.astype(np.int16)  # what wraps around here wraps back below, as the result fits
    if slope != 1:
        hu *= np.int16(slope)
    hu += np.int16(intercept)
    return hu


def stored_values(header: pydicom.Dataset) -> np.ndarray | None:
    """Stored integers ``[Y, X]`` of a slice in plain 16 bit, or None for other ways to store; raises StudyError."""
    syntax, bits = header.file_meta.get("TransferSyntaxUID"), header.BitsStored
    plain = header.BitsAllocated == 16 and header.HighBit == bits - 1
    if "PixelData" not in header or syntax is None:
        raise StudyError(f"{header.filename}: slice cannot be read (it holds no pixels). {RESEND}")
    if not plain or syntax not in PLAIN:
        return None
    if len(header.PixelData) < 2 * header.Rows * header.Columns:
        raise StudyError(f"{header.filename}: slice cannot be read (its pixel data is cut short). {RESEND}")
    signed = header.PixelRepresentation == 1
    stored = np.frombuffer(header.PixelData, "<i2" if signed else "<u2", header.Rows * header.Columns)
    unused = 16 - bits  # may hold an overlay, or lack the sign
    stored = np.right_shift(np.left_shift(stored, unused), unused) if unused else stored
    return stored.reshape(header.Rows, header.Columns)


def decode_hu(header: pydicom.Dataset) -> np.ndarray:
    """HU ``[Y, X]`` of a slice that is compressed or stored unusually, by ITK, whose codecs come with it.

    Raises:
        StudyError: there is no decoder, or the pixels are damaged.
    """
    import itk  # slow to import, and few series need it

    try:
        hu = itk.array_from_image(itk.imread(str(header.filename), itk.F)).reshape(header.Rows, header.Columns)
    except Exception as e:
        syntax = header.file_meta.TransferSyntaxUID.name
        raise StudyError(
            f"{header.filename}: pixels stored as {syntax} cannot be decoded (no decoder here, or damaged). "
            "Have the PACS send it uncompressed, or decompress it with gdcmconv --raw."
        ) from e
    whole = hu.clip(-(2**15), 2**15 - 1).astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu


# -------------------------------------------------------------------------------------------------------- checks


def check_volume(path: Path, image: torch.Tensor) -> None:
    """Raise StudyError unless ``[1, X, Y, Z]`` has an extent along every axis."""
    if min(image.shape[1:]) < 3:
        raise StudyError(f"{path}: a 2D image, shape {tuple(image.shape[1:])}. Give a whole CT volume.")


def check_hu(path: Path, image: MetaTensor) -> None:
    """Raise StudyError unless the values can be a body in HU."""
    sample = image.as_tensor()[:, ::2, ::2]
    # Air, lung or fat is in every CT of a body (also in one clipped at -40 HU); an MR has almost nothing below zero.
    if (sample < -30).float().mean() < 0.01 or ((sample > 0) & (sample < 200)).float().mean() < 0.01:
        raise StudyError(f"{path}: values are not the HU of a CT (an MR, or rescale not applied). Give a CT in HU.")


def check_probability(path: Path, mask: MetaTensor) -> None:
    """Raise StudyError unless the values are probabilities."""
    low, high = mask.min().item(), mask.max().item()
    if low < 0 or high > 1 + 1e-4:
        raise StudyError(f"{path}: values {low:g} to {high:g} are not probabilities. Give a mask within 0 and 1.")


def check_label(path: Path, label: MetaTensor) -> None:
    """Raise StudyError unless the values are LiTS labels."""
    values = label.as_tensor()
    if not ((values == 0) | (values == 1) | (values == 2)).all():
        raise StudyError(f"{path}: labels other than 0, 1 and 2. Give 0 background, 1 liver, 2 tumour.")


def check_grid(path: Path, mask: MetaTensor, image_path: Path, image: MetaTensor) -> None:
    """Raise StudyError unless both lie on one grid (affines to 0.01 mm over the volume)."""
    mend = f"Make it from {image_path.name} and do not resample it."
    if mask.shape != image.shape:
        shapes = f"{tuple(mask.shape[1:])} and {tuple(image.shape[1:])}"
        raise StudyError(f"{path}: the mask and its CT differ in shape, {shapes}. {mend}")
    shift = (mask.affine - image.affine).abs() @ torch.tensor([*image.shape[1:], 1], dtype=torch.float64)
    if shift.max() > 0.01:
        raise StudyError(f"{path}: the mask and its CT lie {shift.max():.2f} mm apart. {mend}")


CHECKS = {"image": check_hu, "prob": check_probability, "label": check_label}


# --------------------------------------------------------------------------------------------- study after study


def resolve_datalist(datalist_file: str, section: str) -> list[dict[str, Any]]:
    """The entries of one section of a datalist file, their relative paths taken from the file's folder.

    MONAI's load_decathlon_datalist resolves image and label only, and refuses a section that is not there. Returns an
    empty list when the file or the section is not there.
    """
    path = Path(datalist_file).resolve()
    entries = json.loads(path.read_text(encoding="utf-8")).get(section, []) if path.is_file() else []
    return [{k: str(path.parent / v) if k in CHECKS else v for k, v in e.items()} for e in entries]


def require_tracker(tracker: str, uri: str) -> None:
    """Raise SystemExit with one line for an unknown tracker, or MLflow where it is not installed or has no place."""
    problem = None
    if tracker not in TRACKERS:
        problem = f"--tracker {tracker}: unknown. Use {', '.join(TRACKERS)}."
    elif tracker == "mlflow" and not find_spec("mlflow"):
        problem = "--tracker mlflow: MLflow is not installed. Run pip install mlflow, or use --tracker tensorboard."
    elif tracker == "mlflow" and "://" not in uri:
        problem = f"--tracking_uri {uri}: is no URI. Use sqlite:////full/path/mlruns.db or a server's http://host:port."
    if problem:
        raise SystemExit(f"ERROR {problem}")


def require_studies(studies: Sequence[Mapping[str, Any]], source: str, keys: Sequence[str] = ()) -> None:
    """Stop before any work when there is none, or when files cannot go together; MONAI would end late or in silence.

    Args:
        studies: entries of a datalist.
        source: where they were looked for, for the message.
        keys: the entries' files, ``image`` first, whose headers are read and must tell of one grid.

    Raises:
        SystemExit: no study, or a file that is missing, unreadable or on another grid; a line each.
    """
    once = {str(study): study for study in studies}.values()  # a list may hold a volume once per patch drawn
    problems = [problem for study in once if keys and (problem := header_problem(study, keys))]
    if not studies:
        problems = [f"{source}: no study found. Check the path (--dataset_dir, --datalist_file)."]
    if problems:
        raise SystemExit("\n".join(f"ERROR {problem}" for problem in problems))


def header_problem(study: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """What the headers of a study's files say against it, or None."""
    grids = []
    for key in keys:
        if not study.get(key) or not Path(study[key]).exists():
            return f"{study.get(key) or study.get('image')}: no such {key}. Check the datalist."
        try:
            grids += [nib.load(study[key])] if ".nii" in Path(study[key]).suffixes else []
        except Exception:
            return f"{study[key]}: not a readable image (damaged, cut short or of another format). {REEXPORT}"
        if grids[-1:] and not same_grid(grids[0], grids[-1]):
            return f"{study[key]}: lies on another grid than its CT. Make it from {Path(study['image']).name}."
    return None


def same_grid(one: nib.Nifti1Image, other: nib.Nifti1Image) -> bool:
    """Whether two images share shape and affine."""
    return one.shape[:3] == other.shape[:3] and np.allclose(one.affine, other.affine, atol=0.01)


def run_studies(evaluator: Evaluator, studies: Sequence[Mapping[str, Any]], preprocessing: Any, source: str) -> None:
    """Run the evaluator study by study, so that a bad study stops no other one.

    Raises:
        SystemExit: when a study failed (each has its line on stderr by then), or there is none.
    """
    require_studies(studies, source)
    evaluator.logger.setLevel(logging.CRITICAL)  # ignite would add its own lines to ours
    evaluator.state.epoch_length = 1
    raised: list[Exception] = []  # an exception that leaves run() would make ignite's next run() a silent no-op
    evaluator.add_event_handler(Events.EXCEPTION_RAISED, lambda _, error: raised.append(error))
    failed = 0
    for study in studies:
        try:
            evaluator.data_loader = DataLoader(Dataset([preprocessing(study)]), batch_size=1)
            raised.clear()
            evaluator.run()
            if raised:
                raise raised[0]
            print(f"{study['image']}: done", flush=True)
        except Exception as e:
            failed += 1
            print(f"ERROR {describe(e, study['image'])}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(f"{failed} of {len(studies)} studies failed")


def describe(error: BaseException, path: str) -> str:
    """The StudyError an exception comes from (MONAI wraps those raised in transforms), or a line for any other."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StudyError):
            return str(cause)
        cause = cause.__cause__
    return (
        f"{path}: {type(error).__name__}: {(str(error).splitlines() or [''])[-1]}. Report this with the file's header."
    )
