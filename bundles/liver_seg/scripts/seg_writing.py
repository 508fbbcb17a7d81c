# A copy of writing.py in bundles/shared, made by copy_into_bundles.py there: change that file, not this one.
"""Writing volumes whole or not at all."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from isal import igzip
from monai.data import MetaTensor
from scripts.seg_files import whole_file

SLOPE = float(np.nextafter(np.float32(1 / 255), np.float32(0)))  # the one above gives every reader 1.00000006 for a 1


def write_mask(mask: MetaTensor, path: Path, probability: bool = False) -> None:
    """Write ``[1, X, Y, Z]`` as uint8 NIfTI, through a temporary name.

    Floats, 0..1, get the slope 1/255 (error at most 1/510); integers are stored as they are.

    Args:
        mask: on its grid.
        path: to write.
        probability: integers are a probability, too, of which 255 is 1.

    Raises:
        StudyError: the file cannot be written.
    """
    values = mask.as_tensor()[0].cpu()
    floating = values.is_floating_point()
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(values.shape)
    header.set_sform(np.asarray(mask.affine, dtype=np.float64), code="scanner")
    header.set_qform(np.asarray(mask.affine, dtype=np.float64), code="scanner", strip_shears=True)
    header.set_xyzt_units("mm")
    header["scl_slope"] = SLOPE if floating or probability else 1
    header["scl_inter"], header["vox_offset"] = 0, 352
    # nibabel would turn the integers into floats and back to apply the slope, and deflate ten times as long
    with whole_file(path) as part, part.open("wb") as raw, igzip.IGzipFile("", "wb", 1, raw, mtime=0) as file:
        file.write(header.binaryblock + bytes(4))
        for slab in values.permute(2, 1, 0).split(16):
            if not slab.any():
                stored = torch.zeros(slab.shape, dtype=torch.uint8)
            else:
                stored = (slab.div(SLOPE).round() if floating else slab).to(torch.uint8)
            file.write(stored.contiguous().numpy().data)
