"""What a CT and its masks must be to be used, each check a function that raises one clear line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from monai.data import MetaTensor
from shared.errors import StudyError
from shared.geometry import is_unit

HU_RANGE = (-(2**15), 2**16)  # 16 bits with any usual intercept
SAMPLE = 2**19  # voxels that are enough to judge by
PADDED = 0.02  # share of voxels from which on one lowest value is padding, or air that was clipped
STRAYS = 0.005  # share of voxels that may be lower than padding
DENSE, CLIPPED = 0.02, 0.15  # shares of voxels: 0.006 and 0.031 at most in 46 CTs
GAP = 100  # HU between padding and all else; less is a CT clipped at the lowest
HIGHEST_AIR = -750  # HU; the darkest of lungs are darker
FAT_HU = -40  # fat is darker, also where a CT is clipped there
ON_FAT = 0.15  # share of a liver's voxels: 0.009 at most in 21 CTs; more in three of four with a mask of another CT


def check_volume(path: Path, image: torch.Tensor) -> None:
    """Raise StudyError unless ``[1, X, Y, Z]`` has at least 3 voxels along every axis."""
    if min(image.shape[1:]) < 3:
        raise StudyError(f"{path}: a 2D image, shape {tuple(image.shape[1:])}. Give a whole CT volume.")


def check_place(path: Path, image: MetaTensor) -> None:
    """Raise StudyError where the affine is the unit matrix, which programs write where they know no better."""
    if is_unit(image.affine.numpy()):
        cause = "its affine is the unit matrix: voxel sizes and how the patient lies are not known"
        raise StudyError(f"{path}: {cause}. Convert it again from the scanner's DICOM.")


def check_hu(path: Path, image: MetaTensor) -> None:
    """Raise StudyError unless the values of ``[1, X, Y, Z]`` can be a body in HU."""
    values = image.as_tensor()
    low, high = float(values.numpy().min()), float(values.numpy().max())  # PyTorch's take 70 times as long for int16
    if not HU_RANGE[0] <= low <= high <= HU_RANGE[1]:
        raise StudyError(f"{path}: values from {low:g} to {high:g} are beyond what a CT can hold. Give a CT in HU.")
    cause = "one value only" if low == high else _not_hu(_sample(values).flatten()) or _standardised(values, low)
    if cause:
        raise StudyError(f"{path}: values are not the HU of a CT ({cause}). Give a CT in HU.")


def _sample(values: torch.Tensor) -> torch.Tensor:
    """Some SAMPLE of the voxels of ``[1, X, Y, Z]``, evenly spread."""
    step = math.ceil((values.numel() / SAMPLE) ** (1 / 3))
    return values[:, ::step, ::step, ::step]


def _not_hu(sample: torch.Tensor) -> str:
    """Why values cannot be HU, "" where they can."""

    def share(mask: torch.Tensor) -> float:
        return mask.count_nonzero().item() / mask.numel()

    below, tissue = share(sample < -30), share((sample > 0) & (sample < 200))
    # Air, lung or fat is in every CT of a body (also in one clipped at -40 HU); an MR has almost nothing below zero.
    if below < 0.01 or tissue < 0.01:
        return "an MR, or rescale not applied"
    if tissue < 0.45 * (1 - below):  # 0.69 or more in 46 CTs, 0.41 or less with values negated or ten-fold
        if (empty := share(sample == 0)) > 0.2:
            return f"{100 * empty:.0f} % of it is 0 exactly, where air is -1000: overwritten, or no CT"
        return "too little soft tissue at 0 to 200 HU"
    sample = _without_strays(sample)
    lowest = sample.kthvalue(1 + sample.numel() // 200).values  # but for stray voxels
    if share((sample < -1100) & (sample > sample.min())) > 0.1:  # padding is one value
        return "much lies below -1100, where air is -1000"
    if lowest > -850 and below > 0.3 and share(sample == lowest) < 0.02:  # not air, nor clipped there
        return f"the lowest values are {lowest.item():.0f}, where air is -1000"
    inside = sample[sample > sample.min()]  # without padding, which is one value, far below all else
    return _turned_sign(sample, inside) or _scaled_air(sample, inside)


def _without_strays(sample: torch.Tensor) -> torch.Tensor:
    """Values with the few that are lower than padding set to it, so that it is the lowest."""
    far = sample[sample < -1100]
    if not len(far):
        return sample
    padding = far.mode().values
    few = (far < padding).count_nonzero() < STRAYS * sample.numel()
    return sample.clamp(min=padding) if few else sample


def _turned_sign(sample: torch.Tensor, inside: torch.Tensor) -> str:
    """Why values are of the wrong sign though padding or clipping hides it, "" where they are not."""
    if not len(inside):
        return ""
    highest, lowest = sample.max(), sample.min()
    lowest = inside.min() if inside.min() - lowest > GAP else lowest
    looked_for = ((inside > 500) & (inside < 1100), inside < -500, inside == highest, sample == lowest)
    dense, airy, most, least = (found.count_nonzero().item() / sample.numel() for found in looked_for)
    if dense > DENSE and dense > 3 * airy:
        return "much lies at 500 to 1100 HU and little below -500: the sign is turned"
    if most > CLIPPED and most > 3 * least:
        return f"the most frequent value is the highest, {highest.item():.0f}: cut off there, or the sign is turned"
    return ""


def _scaled_air(sample: torch.Tensor, inside: torch.Tensor) -> str:
    """Why air is not at -1000 HU though padding hides it, "" where it is."""
    if not len(inside) or len(sample) - len(inside) < PADDED * len(sample):
        return ""
    lowest = inside.kthvalue(1 + len(inside) // 200).values
    airy = (inside < -300).count_nonzero().item() / len(inside)
    if airy > 0.1 and lowest > HIGHEST_AIR and lowest - sample.min() > GAP:
        return f"but for padding the lowest values are {lowest.item():.0f}, where air is -1000"
    return ""


def _standardised(values: torch.Tensor, low: float) -> str:
    """Why values are z-scores, whole or times a power of ten; "" where they are not."""
    if low < -400:
        return ""
    count, mean = values.numel(), values.mean(dtype=torch.float64).item()
    length = torch.linalg.vector_norm(values.float(), dtype=torch.float64).item()
    deviation = math.sqrt(max(length**2 / count - mean**2, 0))
    power = 10 ** round(math.log10(max(deviation, 1e-9)))
    return "z-scores" if abs(mean) < 1e-3 * power and abs(deviation / power - 1) < 1e-3 else ""


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


def check_overlap(path: Path, mask: MetaTensor, image_path: Path, image: MetaTensor) -> None:
    """Raise StudyError where much of a mask above 0.5, ``[1, X, Y, Z]``, lies on fat, lung or air of its CT."""
    values, inside = _sample(image.as_tensor()), _sample(mask.as_tensor()) > 0.5
    share = (inside & (values <= FAT_HU)).sum().item() / max(1, inside.sum().item())
    if share > ON_FAT:
        cause = f"{100 * share:.0f} % of what it takes for liver is fat, lung or air, as in a mask of another CT"
        raise StudyError(f"{path}: {cause}. Make it from {image_path.name}.")


# by the key of a file in a datalist
CHECKS: dict[str, Callable[[Path, MetaTensor], None]] = {
    "image": check_hu,
    "prob": check_probability,
    "label": check_label,
}
