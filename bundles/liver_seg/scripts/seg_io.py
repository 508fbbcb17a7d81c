"""Writing masks without ever leaving half a file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scripts.seg_boxes import bounding_box
from scripts.seg_errors import StudyError
from scripts.seg_reading import case_name
from scripts.seg_writing import write_mask


class SaveMaskd(MapTransform):
    """Write ``[1, X, Y, Z]`` masks as ``<output_dir>/<case>/<case>_<postfix>.nii.gz`` on their own grid.

    ``case`` is the item's, or the name of its file.

    SaveImaged writes neither scaled integers nor through a temporary name. Values 0..1 of a floating type become
    uint8 with slope 1/255 (error at most 1/510); integer masks stay as they are.

    Raises:
        StudyError: the folder cannot be written.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, postfixes: Sequence[str]) -> None:
        super().__init__(keys)
        self.output_dir, self.postfixes = Path(output_dir), tuple(postfixes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the masks; the item stays as it is."""
        for key, postfix in self.key_iterator(data, self.postfixes):
            case = data.get("case") or case_name(data[key].meta["filename_or_obj"])
            write_mask(data[key], self.output_dir / case / f"{case}_{postfix}.nii.gz")
        return dict(data)


class TakeLiverd(MapTransform):
    """From probabilities ``[1, X, Y, Z]`` to the liver, uint8 {0, 1}: above ``threshold``, its largest component.

    MONAI's KeepLargestConnectedComponent takes 5 s and 3 GB for 512 x 512 x 600; this hands the box that holds anything
    to cc3d.

    Args:
        keys: probabilities, which become the mask.
        threshold: of the probability.
        prob_key: where the probabilities stay, as they are; None drops them.
        required: raise StudyError when no liver is found.
        smallest_ml: what is smaller is no liver, unless the scan ends in it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = 0.5,
        prob_key: str | None = None,
        required: bool = True,
        smallest_ml: float = 0,
    ) -> None:
        super().__init__(keys)
        self.threshold, self.prob_key, self.required = threshold, prob_key, required
        self.smallest_ml = smallest_ml

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The liver's mask, uint8 ``[1, X, Y, Z]``, in the place of its probabilities.

        Raises:
            StudyError: a liver is required, and nothing is above the threshold or too little for a liver.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            if self.prob_key:
                d[self.prob_key] = d[key]
            d[key] = self._liver(d[key])
        return d

    def _liver(self, prob: MetaTensor) -> MetaTensor:
        above = (prob.as_tensor()[0] > self.threshold).cpu().numpy()
        mask = np.zeros(above.T.shape, np.uint8).T  # memory of it is taken where it is written to
        box = bounding_box(above)
        if box:
            parts, count = cc3d.connected_components(np.asfortranarray(above[box]), return_N=True)
            largest = 1
            if count > 1:  # counting their voxels takes three times as long as finding the parts
                sizes = cc3d.statistics(parts, no_slice_conversion=True)["voxel_counts"][1:]
                largest += int(np.argmax(sizes))
            mask[box] = parts == largest
        if self.required:
            self._check(mask, prob)
        liver = torch.from_numpy(mask)[None].to(prob.device)
        return MetaTensor(liver, meta=prob.meta, applied_operations=prob.applied_operations)

    def _check(self, mask: np.ndarray, prob: MetaTensor) -> None:
        """Raise StudyError for a mask ``[X, Y, Z]`` that is empty, or too small though the scan goes on around it."""
        affine, path = np.asarray(prob.affine, dtype=np.float64), prob.meta.get("filename_or_obj", "prob")
        ml = np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])) / 1000
        if not ml:
            raise StudyError(f"{path}: no liver found. Give an abdominal CT that shows the liver.")
        upright = np.moveaxis(mask, np.argmax(nib.io_orientation(affine)[:, 0] == 2), -1)
        if ml < self.smallest_ml and not (upright[..., 0].any() or upright[..., -1].any()):
            cause = f"no liver found: {ml:.0f} ml that look like it are too little"
            raise StudyError(f"{path}: {cause}. Give an abdominal CT in HU that lies as its header says.")
