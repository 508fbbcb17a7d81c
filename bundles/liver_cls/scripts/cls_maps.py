"""The lesion map: from the network's grid to the CT's, and to a file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from scripts.cls_writing import write_mask

FAINTEST = 0.5 / 255  # what is lower is stored as 0


class TakeMapd(Transform):
    """Split ``pred``, a study's maps ``[Z, n, X, Y]``, into ``lesions`` [Z, X, Y], their mean, and ``pred`` [Z].

    A slice's logit is the mean of the maps' largest, and so no lower than any of the mean map: what exceeds a threshold
    lies in a slice that does, too. Answers without maps, ``[Z, n]`` or ``[Z]``, give ``pred`` alone.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with logits per slice and, if there are any, per pixel."""
        answers = torch.as_tensor(data["pred"]).as_subclass(torch.Tensor)
        if answers.ndim == 1:
            return dict(data)
        d = {**data, "pred": answers.flatten(2).amax(2).mean(1) if answers.ndim == 4 else answers.mean(1)}
        return {**d, "lesions": answers.mean(1)} if answers.ndim == 4 else d


class RestoreMapd(Transform):
    """Add ``lesion_prob`` [1, X, Y, Z], uint8 (255 is 1): ``lesions`` [Z, X, Y], 0..1, on the CT's own grid.

    Linear in plane; the slices are the file's own. MONAI's Invertd and Resample go through a volume of float32 four
    times as large, though most of it lies outside the liver. Without ``lesions`` the item stays.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with ``lesion_prob``; ``affine`` is that of ``lesions``, ``ct_affine`` and ``ct_shape`` the CT's."""
        if "lesions" not in data:
            return dict(data)
        affine, ct_affine = (torch.as_tensor(data[key]).double() for key in ("affine", "ct_affine"))
        shape = [int(n) for n in data["ct_shape"]]
        restored = np.zeros(shape[::-1], np.uint8).T  # memory of it is taken where it is written to
        lesions = torch.as_tensor(data["lesions"]).as_subclass(torch.Tensor)
        fill(restored, lesions.float().cpu(), torch.linalg.solve(affine, ct_affine))
        grid = MetaTensor(torch.from_numpy(restored)[None], affine=ct_affine)
        return {**data, "lesion_prob": grid}


def fill(restored: np.ndarray, lesions: torch.Tensor, to_map: torch.Tensor) -> None:
    """Write a map into a volume.

    Args:
        restored: uint8, all 0, on the CT's grid; its axes run along the map's, in any order and direction.
        lesions: ``[Z, X, Y]``, 0..1.
        to_map: 4 x 4, from the CT's voxels to the map's pixels (x, y, z).
    """
    axes = to_map[:3, :3].abs().argmax(1).tolist()  # of the CT: which runs along x, y and z of the map
    volume = torch.from_numpy(restored).permute(axes[2], axes[0], axes[1])
    lines = [to_map[i, axis] * torch.arange(restored.shape[axis]) + to_map[i, 3] for i, axis in enumerate(axes)]
    live = lesions.amax((1, 2)) >= FAINTEST
    place = lines[2].round().long()
    here = ((place >= 0) & (place < len(lesions))).nonzero().flatten()
    here = here[live[place[here]]]
    if not len(here):
        return
    maps = lesions[place[here]]
    wx, wy = (1 - (line[:, None] - torch.arange(n)).abs() for line, n in zip(lines, maps.shape[1:]))
    shown = maps.amax(0) >= FAINTEST
    (x, wx), (y, wy) = (used(w.clamp(min=0).float(), shown.any(axis)) for w, axis in ((wx, 1), (wy, 0)))
    for at, plane in zip(here.tolist(), maps):
        volume[at, x, y] = (wx @ plane @ wy.T * 255 + 0.5).to(torch.uint8)


def used(weights: torch.Tensor, shown: torch.Tensor) -> tuple[slice, torch.Tensor]:
    """The rows of ``weights`` [new, old] from the first to the last that use ``shown`` [old]: where, and which."""
    rows = weights[:, shown].any(1).nonzero().flatten()
    if not len(rows):
        return slice(0, 0), weights[:0]
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    return span, weights[span]


class SaveMapd(Transform):
    """Write ``lesion_prob`` as ``<output_dir>/<case>/<case>_lesion_prob.nii.gz``, if the item has it.

    Args:
        output_dir: folder of the studies' folders.

    Raises:
        StudyError: the folder cannot be written.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the map; the item stays as it is."""
        if "lesion_prob" in data:
            case = data["case"]
            write_mask(data["lesion_prob"], self.output_dir / case / f"{case}_lesion_prob.nii.gz", probability=True)
        return dict(data)
