"""Reading a CT with every check, writing masks without ever leaving half a file, and running study by study."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from monai.config import KeysCollection
from monai.data import DataLoader, Dataset, ITKReader, MetaTensor, NibabelReader
from monai.engines import Evaluator
from monai.transforms import LoadImage, MapTransform

REEXPORT = "Export or copy it again."


class StudyError(ValueError):
    """A study that cannot be processed; the message is ``<file>: <cause>. <mend>``."""


class SeriesReader(ITKReader):
    """ITKReader that takes a DICOM folder only when its slices form one complete, evenly spaced CT series."""

    def read(self, data: Any, **kwargs: Any):
        import itk  # slow to import, and only DICOM needs it here

        files = series_files(Path(data if isinstance(data, (str, os.PathLike)) else data[0]))
        return itk.imread([str(f) for f in files], itk.F)


def series_files(folder: Path) -> list[Path]:
    """The slices of a folder's only CT series, sorted along its normal.

    Raises:
        StudyError: a slice that cannot be read, no CT, several series, repeated or missing slices.
    """
    import pydicom

    headers = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            header = pydicom.dcmread(path)
            pixels = len(header.PixelData)
            plain = not header.file_meta.TransferSyntaxUID.is_compressed
            if plain and pixels < header.Rows * header.Columns * header.BitsAllocated // 8:
                raise ValueError("its pixel data is cut short")
            position = np.array(header.ImagePositionPatient, float)
            cosines = np.array(header.ImageOrientationPatient, float)
        except Exception as e:
            if path.name.upper() == "DICOMDIR":
                continue
            cause = str(e).splitlines()[0][:80] if isinstance(e, ValueError) else "not a complete DICOM image"
            raise StudyError(f"{path}: slice cannot be read ({cause}). Send or copy this series again.") from e
        if header.Modality != "CT":
            raise StudyError(f"{path}: modality is {header.Modality}, not CT. Give a CT series.")
        headers.append((path, header.SeriesInstanceUID, cosines, position))
    if not headers:
        raise StudyError(f"{folder}: no DICOM images in this folder. Give the folder that holds the slices.")
    if len({uid for _, uid, _, _ in headers}) > 1:
        raise StudyError(f"{folder}: several DICOM series in one folder. Put each series in a folder of its own.")
    return _sorted_slices(folder, headers)


def _sorted_slices(folder: Path, headers: list[tuple]) -> list[Path]:
    normal = np.cross(headers[0][2][:3], headers[0][2][3:])
    if max(np.abs(cosines - headers[0][2]).max() for _, _, cosines, _ in headers) > 1e-3:
        raise StudyError(f"{folder}: slices of different orientations. Give one axial series without localizers.")
    depth, paths = zip(*sorted((float(position @ normal), path) for path, _, _, position in headers))
    gaps = np.diff(depth)
    if len(gaps) and gaps.min() < 1e-3:
        raise StudyError(f"{folder}: two slices at one position. Remove the duplicates.")
    if len(gaps) and gaps.max() - gaps.min() > 0.1 * gaps.min():
        raise StudyError(f"{folder}: slices {gaps.min():.2f} to {gaps.max():.2f} mm apart, so some are missing. {REEXPORT}")
    return list(paths)


class LoadCTd(MapTransform):
    """Read a CT (NIfTI, MHA, NRRD or a DICOM series folder) as a float32 MetaTensor ``[1, X, Y, Z]`` in HU.

    LoadImaged reads an MR, a 2D image or a NaN affine without a word; this refuses them with one clear line.

    Raises:
        StudyError: unreadable, not 3D, unusable geometry, NaN or infinite voxels, or values that are not HU.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = read_ct(Path(d[key]))
        return d


def read_ct(path: Path) -> MetaTensor:
    """Read and check one CT; see LoadCTd."""
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder. Check the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise StudyError(f"{path}: the file is empty. {REEXPORT}")
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            check_geometry(path, nib.load(path).affine)
        reader = SeriesReader() if path.is_dir() else NibabelReader() if ".nii" in path.suffixes else ITKReader()
        # handed to the call: a reader in the constructor that refuses a file is silently followed by others
        image = LoadImage(image_only=True, ensure_channel_first=True, dtype=np.float32)(str(path), reader=reader)
    except StudyError:
        raise
    except Exception as e:
        raise StudyError(f"{path}: not a readable image (damaged, cut short or of another format). {REEXPORT}") from e
    check_geometry(path, np.asarray(image.affine))
    check_hu(path, image)
    return image


def check_geometry(path: Path, affine: np.ndarray) -> None:
    """Raise StudyError unless the affine is finite and invertible."""
    if not np.isfinite(affine).all():
        raise StudyError(f"{path}: its affine holds NaN or infinity. Mend the header from the scanner's original.")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise StudyError(f"{path}: its affine is singular. Mend the header from the scanner's original.")


def check_hu(path: Path, image: torch.Tensor) -> None:
    """Raise StudyError unless ``[1, X, Y, Z]`` holds finite values that can be a body in HU."""
    if image.ndim < 4 or min(image.shape[1:]) < 3:
        raise StudyError(f"{path}: a 2D image, shape {tuple(image.shape[1:])}. Give a whole CT volume.")
    if image.ndim > 4 or image.shape[0] != 1:
        raise StudyError(f"{path}: {image.shape[0]} volumes in one file (4D). Give one phase as a 3D file.")
    values = image.as_tensor() if isinstance(image, MetaTensor) else image
    if not torch.isfinite(values.sum(dtype=torch.float64)):
        raise StudyError(f"{path}: NaN or infinite voxels. {REEXPORT}")
    sample = values[:, ::2, ::2]
    # Air, lung or fat is in every CT of a body (also in one clipped at -40 HU); an MR has almost nothing below zero.
    if (sample < -30).float().mean() < 0.01 or ((sample > 0) & (sample < 200)).float().mean() < 0.01:
        raise StudyError(f"{path}: values are not the HU of a CT (an MR, or rescale not applied). Give a CT in HU.")


class SaveMaskd(MapTransform):
    """Write ``[1, X, Y, Z]`` masks as ``<output_dir>/<case>/<case>_<postfix>.nii.gz`` on their own grid.

    SaveImaged writes neither scaled integers nor through a temporary name. Values 0..1 of a floating type become
    uint8 with slope 1/255 (error at most 1/510); integer masks stay as they are.

    Raises:
        StudyError: the folder cannot be written.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, postfixes: Sequence[str]) -> None:
        super().__init__(keys)
        self.output_dir, self.postfixes = Path(output_dir), tuple(postfixes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key, postfix in self.key_iterator(data, self.postfixes):
            case = case_name(data[key].meta["filename_or_obj"])
            write_mask(data[key], self.output_dir / case / f"{case}_{postfix}.nii.gz")
        return dict(data)


def case_name(path: str) -> str:
    """``/a/volume-1.nii.gz`` to ``volume-1``; a folder's name for a DICOM series."""
    name = Path(path).name
    for ending in (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"):
        name = name.removesuffix(ending)
    return name


def write_mask(mask: MetaTensor, path: Path) -> None:
    """Write ``[1, X, Y, Z]`` as uint8 NIfTI, through a temporary name; see SaveMaskd."""
    values = mask.as_tensor()[0].cpu()
    # the float32 below 1/255: the one above it would give every reader 1.00000006 for a 1
    slope = float(np.nextafter(np.float32(1 / 255), np.float32(0))) if values.is_floating_point() else 1
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(values.shape)
    header.set_sform(np.asarray(mask.affine, dtype=np.float64), code="scanner")
    header.set_qform(np.asarray(mask.affine, dtype=np.float64), code="scanner", strip_shears=True)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, 0, 352
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # nibabel would turn the integers into floats and back to apply the slope
        with nib.openers.Opener(part, "wb", compresslevel=1) as file:
            file.write(header.binaryblock + bytes(4))
            file.write(values.div(slope).round().to(torch.uint8).numpy().tobytes(order="F"))
        os.replace(part, path)
    except OSError as e:
        part.unlink(missing_ok=True) if part.parent.is_dir() else None
        raise StudyError(f"{path}: cannot be written ({e.strerror or e}). Choose another output folder or free space.") from e


class RequireLiverd(MapTransform):
    """Raise StudyError when a liver mask ``[1, X, Y, Z]`` is empty."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            if not data[key].any():
                path = data[key].meta["filename_or_obj"]
                raise StudyError(f"{path}: no liver found. Give an abdominal CT that shows the liver.")
        return dict(data)


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
    return f"{path}: {type(error).__name__}: {(str(error).splitlines() or [''])[-1]}. Report this with the file's header."


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
    return one.shape == other.shape and np.allclose(one.affine, other.affine, atol=0.01)


def resolve_datalist(datalist_file: str, section: str) -> list[dict[str, Any]]:
    """The entries of one section of a datalist file, their relative paths taken from the file's folder.

    MONAI's load_decathlon_datalist refuses a section that is not there. Returns an empty list when the file or the
    section is not there.
    """
    path = Path(datalist_file).resolve()
    entries = json.loads(path.read_text(encoding="utf-8")).get(section, []) if path.is_file() else []
    return [{k: str(path.parent / v) if k in ("image", "label") else v for k, v in e.items()} for e in entries]
