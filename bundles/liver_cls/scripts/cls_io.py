"""Reading a CT with its mask and every check, writing results whole or not at all, and running study by study."""

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
from monai.data import DataLoader, Dataset, ITKReader, MetaTensor
from monai.engines import Evaluator
from monai.transforms import MapTransform, Transform

REEXPORT = "Export or copy it again."
ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")


class StudyError(ValueError):
    """A study that cannot be processed; the message is ``<file>: <cause>. <mend>``."""


class LoadStudyd(MapTransform):
    """Read a CT and its masks as float32 MetaTensors ``[1, X, Y, Z]`` on one grid, in the file's own orientation.

    LoadImaged reads an MR, a 2D image or a NaN affine without a word; this refuses them with one clear line.

    Args:
        keys: ``image`` (NIfTI, MHA, NRRD or a DICOM series folder, in HU), ``prob`` (0..1), ``label`` (0, 1, 2).
        optional: those of the keys that an item may lack.

    Raises:
        StudyError: a file that is missing, unreadable, not 3D, with unusable geometry or impossible values, or a
            mask on another grid than the CT.
    """

    def __init__(self, keys: KeysCollection, optional: Sequence[str] = ()) -> None:
        super().__init__(keys)
        self.optional = tuple(optional)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = {k: v for k, v in data.items() if k not in CHECKS or k in self.keys}  # paths that stay unread go
        for key in self.keys:
            if d.get(key) is not None:
                d[key] = read_image(Path(d[key]))
                CHECKS[str(key)](Path(data[key]), d[key])
                check_grid(Path(data[key]), d[key], Path(data["image"]), d["image"])
            elif key not in self.optional:
                raise StudyError(f"{data['image']}: no {key} given with it. Add it to the datalist.")
        return d | {"case": data.get("case_id") or case_name(data["image"])}


def read_image(path: Path) -> MetaTensor:
    """Read one image as a float32 MetaTensor ``[1, X, Y, Z]`` with a finite, invertible affine; see LoadStudyd."""
    if not path.exists():
        raise StudyError(f"{path}: no such file or folder. Check the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise StudyError(f"{path}: the file is empty. {REEXPORT}")
    try:
        values, affine = read_nifti(path) if ".nii" in path.suffixes else read_itk(path)
    except Exception as e:
        raise StudyError(f"{path}: not a readable image (damaged, cut short or of another format). {REEXPORT}") from e
    check_geometry(path, affine)
    check_shape(path, values)
    return MetaTensor(values[None], affine=affine, meta={"filename_or_obj": str(path)})


def read_nifti(path: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Voxels [X, Y, Z] float32 and affine; a third of LoadImage's time."""
    image = nib.load(path)
    return torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)), np.asarray(image.affine, dtype=np.float64)


def read_itk(path: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Voxels [X, Y, Z] float32 and RAS affine of anything else than NIfTI; a folder is read as a DICOM series."""
    reader = ITKReader()
    values, meta = reader.get_data(reader.read(str(path)))
    return torch.from_numpy(np.array(values, dtype=np.float32)), np.asarray(meta["affine"], dtype=np.float64)


def check_geometry(path: Path, affine: np.ndarray) -> None:
    """Raise StudyError unless the affine is finite and invertible."""
    if not np.isfinite(affine).all():
        raise StudyError(f"{path}: its affine holds NaN or infinity. Mend the header from the scanner's original.")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise StudyError(f"{path}: its affine is singular. Mend the header from the scanner's original.")


def check_shape(path: Path, values: torch.Tensor) -> None:
    """Raise StudyError unless the image is one finite volume ``[X, Y, Z]``."""
    if values.ndim < 3 or min(values.shape[:3]) < 3:
        raise StudyError(f"{path}: a 2D image, shape {tuple(values.shape)}. Give a whole CT volume.")
    if values.ndim > 3:
        raise StudyError(f"{path}: {values.shape[3]} volumes in one file (4D). Give one phase as a 3D file.")
    if not torch.isfinite(values.sum(dtype=torch.float64)):
        raise StudyError(f"{path}: NaN or infinite voxels. {REEXPORT}")


def check_hu(path: Path, image: MetaTensor) -> None:
    """Raise StudyError unless the values can be a body in HU."""
    sample = image.as_tensor()[:, ::2, ::2]
    # Air, lung or fat is in every CT of a body (also in one clipped at -40 HU); an MR has almost nothing below zero.
    if (sample < -30).float().mean() < 0.01 or ((sample > 0) & (sample < 150)).float().mean() < 0.01:
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


def case_name(path: str | os.PathLike) -> str:
    """``/a/volume-1.nii.gz`` to ``volume-1``; a folder's name for a DICOM series."""
    name = Path(path).name
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name


class SaveScoresd(Transform):
    """Write ``<output_dir>/<case>/<case>_slices.csv`` and ``<case>_tumour.json``, through temporary names.

    Args:
        output_dir: folder of the studies' folders.
        threshold: slices from this probability on are flagged.

    Raises:
        StudyError: the folder cannot be written.
    """

    def __init__(self, output_dir: str, threshold: float = 0.5) -> None:
        self.output_dir, self.threshold = Path(output_dir), threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        rows = list(zip(data["slices"].tolist(), data["slice_z"].tolist(), data["pred"].tolist()))
        summary = {
            "case": data["case"],
            "tumour_probability": round(float(data["study_probability"]), 6),
            "threshold": self.threshold,
            "flagged_slices": sorted(s for s, _, p in rows if p >= self.threshold),
        }
        lines = ["slice,z_mm,tumour_probability", *(f"{s},{z:.3f},{p:.6f}" for s, z, p in rows)]
        stem = self.output_dir / data["case"] / data["case"]
        write_text(stem.with_name(f"{stem.name}_slices.csv"), "\n".join(lines) + "\n")
        write_text(stem.with_name(f"{stem.name}_tumour.json"), json.dumps(summary, indent=4) + "\n")
        return dict(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is either whole or not there; raises StudyError."""
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as e:
        part.unlink(missing_ok=True) if part.parent.is_dir() else None
        raise StudyError(
            f"{path}: cannot be written ({e.strerror or e}). Choose another output folder or free space."
        ) from e


def find_studies(dataset_dir: str, pattern: str, prob_dir: str | None) -> list[dict[str, str]]:
    """One entry per CT in a folder, with the place of its Prob-Mask, ``<prob_dir>/<case>/<case>_prob.nii.gz``.

    Args:
        dataset_dir: the CTs' folder.
        pattern: which files (or DICOM folders) in it are CTs, as for glob.
        prob_dir: the first stage's output folder; None when no mask is used.
    """
    entries = [{"image": str(p)} for p in sorted(Path(dataset_dir).glob(pattern))]
    if prob_dir:
        for entry in entries:
            case = case_name(entry["image"])
            entry["prob"] = str(Path(prob_dir, case, f"{case}_prob.nii.gz"))
    return entries


def resolve_datalist(datalist_file: str, section: str) -> list[dict[str, Any]]:
    """The entries of one section of a datalist file, their relative paths taken from the file's folder.

    MONAI's load_decathlon_datalist resolves image and label only. Returns an empty list when the file or the section
    is not there.
    """
    path = Path(datalist_file).resolve()
    entries = json.loads(path.read_text(encoding="utf-8")).get(section, []) if path.is_file() else []
    paths = ("image", "label", "prob")
    return [{k: str(path.parent / v) if k in paths else v for k, v in e.items()} for e in entries]


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
    last = (str(error).splitlines() or [""])[-1]
    return f"{path}: {type(error).__name__}: {last}. Report this with the file's header."
