# A copy of checks.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""What a CT and its masks must be to be used, each check a function that raises one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from monai.data import MetaTensor
from scripts.seg_errors import StudyError


def check_volume(path: Path, image: torch.Tensor) -> None:
    """Raise StudyError unless ``[1, X, Y, Z]`` has at least 3 voxels along every axis."""
    if min(image.shape[1:]) < 3:
        raise StudyError(f"{path}: a 2D image, shape {tuple(image.shape[1:])}. Give a whole CT volume.")


def check_hu(path: Path, image: MetaTensor) -> None:
    """Raise StudyError unless the values of ``[1, X, Y, Z]`` can be a body in HU."""
    sample = image.as_tensor()[:, ::2, ::2]
    # Air, lung or fat is in every CT of a body (also in one clipped at -40 HU); an MR has almost nothing below zero.
    if (sample < -30).float().mean() < 0.01 or ((sample > 0) & (sample < 200)).float().mean() < 0.01:
        raise StudyError(f"{path}: values are not the HU of a CT (an MR, or rescale not applied). Give a CT in HU.")


def check_probability(path: Path, mask: MetaTensor) -> None:
    """Raise StudyError unless the values of ``[1, X, Y, Z]`` are probabilities, 0..1."""
    low, high = mask.min().item(), mask.max().item()
    if low < 0 or high > 1 + 1e-4:
        raise StudyError(f"{path}: values {low:g} to {high:g} are not probabilities. Give a mask within 0 and 1.")


def check_label(path: Path, label: MetaTensor) -> None:
    """Raise StudyError unless the values of ``[1, X, Y, Z]`` are LiTS labels: 0, 1 or 2."""
    values = label.as_tensor()
    if not ((values == 0) | (values == 1) | (values == 2)).all():
        raise StudyError(f"{path}: labels other than 0, 1 and 2. Give 0 background, 1 liver, 2 tumour.")


def check_grid(path: Path, mask: MetaTensor, image_path: Path, image: MetaTensor) -> None:
    """Raise StudyError unless a mask and its CT, ``[1, X, Y, Z]``, lie on one grid (to 0.01 mm over the volume)."""
    fix = f"Make it from {image_path.name} and do not resample it."
    if mask.shape != image.shape:
        shapes = f"{tuple(mask.shape[1:])} and {tuple(image.shape[1:])}"
        raise StudyError(f"{path}: the mask and its CT differ in shape, {shapes}. {fix}")
    shift = (mask.affine - image.affine).abs() @ torch.tensor([*image.shape[1:], 1], dtype=torch.float64)
    if shift.max() > 0.01:
        raise StudyError(f"{path}: the mask and its CT lie {shift.max():.2f} mm apart. {fix}")


# by the key of a file in a datalist
CHECKS: dict[str, Callable[[Path, MetaTensor], None]] = {
    "image": check_hu,
    "prob": check_probability,
    "label": check_label,
}
