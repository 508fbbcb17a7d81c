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
from typing import Any

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

REEXPORT = "Export or copy it again."
ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
TRACKERS = ("tensorboard", "mlflow", "none")
MAX_DRIFT_MM = 1.0  # how far slices may be shifted sideways against each other


class StudyError(ValueError):
    """A study that cannot be processed; the message is ``<file>: <cause>. <mend>``."""


# ------------------------------------------------------------------------------------------------------- reading


class LoadStudyd(MapTransform):
    """Read a CT and its masks as MetaTensors ``[1, X, Y, Z]`` on one grid, in the file's own orientation; float32, or
    int16 where the CT is stored so.

    LoadImaged reads an MR, a 2D image or a NaN affine without a word, and replaces a NIfTI's affine where pixdim
    differs from it in the sixth digit; this refuses the former with one clear line and takes the affine nibabel does.

    Args:
        keys: ``image`` (NIfTI, MHA, NRRD or a DICOM series folder, in HU), ``prob`` (0..1), ``label`` (0, 1, 2).
        optional: those of the keys that an item, or the disk, may lack.
        any_ct: also take single slices and CT clipped to a narrow window, as training sets hold them.

    Raises:
        StudyError: a file that is missing, unreadable, not 3D, with unusable geometry or impossible values, or a
            mask on another grid than the CT.
    """

    def __init__(self, keys: KeysCollection, optional: Sequence[str] = (), any_ct: bool = False) -> None:
        super().__init__(keys)
        self.optional, self.any_ct = tuple(optional), any_ct

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = {k: v for k, v in data.items() if k not in CHECKS}  # paths that stay unread go
        for key in self.keys:
            path = data.get(key)
            if key in self.optional and (path is None or not Path(path).exists()):
                continue
            if path is None:
                raise StudyError(f"{data['image']}: no {key} given with it. Add it to the datalist.")
            d[key] = read_image(Path(path))
            if not (self.any_ct and key == "image"):
                CHECKS[str(key)](Path(path), d[key])
            if not self.any_ct:
                check_volume(Path(path), d[key])
            check_grid(Path(path), d[key], Path(data["image"]), d["image"])
        return d | {"case": data.get("case_id") or case_name(data["image"])}


def read_image(path: Path) -> MetaTensor:
    """Read one image as a MetaTensor ``[1, X, Y, Z]`` of finite values with a finite, invertible affine; int16 where a
    NIfTI is stored so without scaling, else float32.

    Raises:
        StudyError: missing, empty, unreadable, 4D, NaN or infinite voxels, unusable geometry.
    """
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder. Check the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise StudyError(f"{path}: the file is empty. {REEXPORT}")
    try:
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
    return MetaTensor(values[None], affine=affine, meta={"filename_or_obj": str(path)})


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
    """Voxels [X, Y, Z] float32 and RAS affine of anything but NIfTI; a folder is read as a DICOM series."""
    import itk  # slow to import, and NIfTI does without

    reader = ITKReader()
    files = [str(f) for f in series_files(path)] if path.is_dir() else None
    values, meta = reader.get_data(itk.imread(files, itk.F) if files else reader.read(str(path)))
    return torch.from_numpy(np.array(values, dtype=np.float32)), np.asarray(meta["affine"], dtype=np.float64)


def case_name(path: str | os.PathLike) -> str:
    """``/a/volume-1.nii.gz`` to ``volume-1``; a folder's name for a DICOM series."""
    name = Path(path).name
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name


# --------------------------------------------------------------------------------------------------------- DICOM


def series_files(folder: Path) -> list[Path]:
    """The slices of a folder's only CT series, sorted along its normal. Localizers and files that are no images are
    passed over.

    Raises:
        StudyError: a slice that cannot be read, no CT, several series, repeated or missing slices, a tilted gantry.
    """
    headers = [h for p in sorted(folder.iterdir()) if is_dicom(p) and (h := read_slice(p)) is not None]
    if not headers:
        raise StudyError(f"{folder}: no CT slices in this folder. Give the folder that holds them.")
    if len({uid for _, uid, _, _ in headers}) > 1:
        raise StudyError(f"{folder}: several DICOM series in one folder. Put each series in a folder of its own.")
    return sort_slices(folder, headers)


def is_dicom(path: Path) -> bool:
    """By the suffix or by the mark in the file: series often have no suffix, damaged slices no mark."""
    if not path.is_file() or path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_slice(path: Path) -> tuple[Path, str, np.ndarray, np.ndarray] | None:
    """Path, series, direction cosines [6] and position [3] of a CT slice; None for a localizer or a report.

    Raises:
        StudyError: it cannot be read, or is no CT.
    """
    import pydicom

    try:
        header = pydicom.dcmread(path)
        if "PixelData" not in header and header.Modality != "CT" or "LOCALIZER" in header.get("ImageType", ()):
            return None
        pixels = len(header.PixelData)
        plain = not header.file_meta.TransferSyntaxUID.is_compressed
        if plain and pixels < header.Rows * header.Columns * header.BitsAllocated // 8:
            raise ValueError("its pixel data is cut short")
        position = np.array(header.ImagePositionPatient, float)
        cosines = np.array(header.ImageOrientationPatient, float)
    except Exception as e:
        cause = str(e).splitlines()[0][:80] if isinstance(e, ValueError) else "not a complete DICOM image"
        raise StudyError(f"{path}: slice cannot be read ({cause}). Send or copy this series again.") from e
    if header.Modality != "CT":
        raise StudyError(f"{path}: modality is {header.Modality}, not CT. Give a CT series.")
    return path, header.SeriesInstanceUID, cosines, position


def sort_slices(folder: Path, headers: Sequence[tuple[Path, str, np.ndarray, np.ndarray]]) -> list[Path]:
    """Order slices along their normal; raises StudyError unless they fill one evenly spaced, upright block."""
    cosines, positions = (np.array([h[i] for h in headers]) for i in (2, 3))
    if np.abs(cosines - cosines[0]).max() > 1e-3:
        raise StudyError(f"{folder}: slices of different orientations. Give one axial series.")
    normal = np.cross(cosines[0, :3], cosines[0, 3:])
    depth = positions @ normal
    sideways = positions - positions[0] - np.outer(depth - depth[0], normal)
    gaps = np.diff(np.sort(depth))
    if len(gaps) and gaps.min() < 1e-3:
        raise StudyError(f"{folder}: two slices at one position. Remove the duplicates.")
    if len(gaps) and gaps.max() - gaps.min() > 0.1 * gaps.min():
        raise StudyError(
            f"{folder}: slices {gaps.min():.2f} to {gaps.max():.2f} mm apart, so some are missing. {REEXPORT}"
        )
    if np.linalg.norm(sideways, axis=1).max() > MAX_DRIFT_MM:
        raise StudyError(f"{folder}: slices shifted sideways (tilted gantry). Give a series without tilt.")
    return [headers[i][0] for i in np.argsort(depth)]


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
