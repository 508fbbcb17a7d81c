"""What became of a mutant: refused by a line, read as the sample it was made of, or changed, and whether rightly so."""

from __future__ import annotations

import re
from itertools import product
from typing import NamedTuple

import nibabel as nib
import numpy as np

from fuzz.mutating import Mutant
from fuzz.samples import ENHANCED, SERIES

REFUSED, SAME, AS_SAID = "refused", "same", "as said"
CHANGED, BAD_LINE, MEMORY, HANG, CRASH = "changed", "bad line", "memory", "hang", "crash"
OUTCOMES = {
    REFUSED: "refused by one line",
    SAME: "read, the same answer",
    AS_SAID: "read, changed as the file says",
    CHANGED: "**read, changed in contradiction**",
    BAD_LINE: "**refused without a clear line**",
    MEMORY: "**over the memory**",
    HANG: "**over the time**",
    CRASH: "**process lost**",
}
DEFECTS = (CHANGED, BAD_LINE, MEMORY, HANG, CRASH)

PLACE_MM = 1.0  # a corner of the volume may lie this far off, an eighth of a voxel of the phantom
VALUE_HU = 0.5
VALUES, GRID, ORIGIN, SIZES, TILT = "values", "grid", "origin", "voxel sizes", "tilt"
PLACE = (ORIGIN, SIZES, TILT)
# Fields whose value stands nowhere else in the file, and in what another one makes another CT: no reader can tell. All
# others are held to by something: a size by the bytes, a slice by its neighbours, the sform by the qform, which cannot
# hold the tilt of a gantry.
ALONE = {
    "NIfTI": {
        "scl_slope": (VALUES,), "scl_inter": (VALUES,), "dim": (GRID,), "srow_x": (TILT,), "srow_y": (TILT,),
        "srow_z": (TILT,),
    },
    "NRRD": {
        "space directions": PLACE, "space origin": PLACE, "space origin (name)": PLACE, "space": PLACE,
        "type": (VALUES,), "endian": (VALUES,), "sizes": (GRID,),
    },
    "MHA": {
        "ElementSpacing": PLACE, "Offset": PLACE, "Offset (name)": PLACE, "TransformMatrix": PLACE,
        "ElementType": (VALUES,), "BinaryDataByteOrderMSB": (VALUES,), "DimSize": (GRID,),
    },
    SERIES: {
        "PixelSpacing (in all)": PLACE, "ImagePositionPatient (in all)": PLACE,
        "ImageOrientationPatient (in all)": PLACE, "RescaleSlope (in all)": (VALUES,),
        "RescaleIntercept (in all)": (VALUES,), "PixelRepresentation (in all)": (VALUES,),
        "BitsStored (in all)": (VALUES,), "HighBit (in all)": (VALUES,), "slices lost at an end": (GRID,),
    },
    ENHANCED: {
        "PixelSpacing": PLACE, "ImageOrientationPatient": PLACE, "RescaleSlope": (VALUES,),
        "RescaleIntercept": (VALUES,), "PixelRepresentation": (VALUES,), "BitsStored": (VALUES,), "HighBit": (VALUES,),
    },
}  # fmt: skip


class Answer(NamedTuple):
    """A CT as it was read: voxels ``[X, Y, Z]`` in HU, and the affine to RAS mm."""

    voxels: np.ndarray
    affine: np.ndarray


def judge(mutant: Mutant, answer: Answer, truth: Answer) -> tuple[str, str]:
    """SAME, AS_SAID or CHANGED, and in which respect."""
    changed = differences(answer, truth, mutant.pixels)
    if changed and not differences(turned(answer), turned(truth), mutant.pixels):
        changed = set()  # stored in another order of axes
    if not changed:
        return SAME, ""
    said = {respect for field in mutant.fields for respect in ALONE[mutant.sample.group].get(field, ())}
    implausible = why_implausible(answer, truth)
    if changed <= said and not implausible:
        return AS_SAID, " and ".join(sorted(changed))
    return CHANGED, " and ".join(sorted(changed)) + (f", {implausible}" if implausible else "")


def differences(answer: Answer, truth: Answer, pixels: int) -> set[str]:
    """In which respects an answer differs; in as many voxels as pixel bytes were changed, it may."""
    if answer.voxels.shape != truth.voxels.shape:
        return {GRID}
    found = displacements(answer.affine, truth.affine, truth.voxels.shape)
    if differing(answer.voxels, truth.voxels) > pixels and not (
        found and any(differing(v, truth.voxels) <= pixels for v in flips(answer.voxels))
    ):
        found.add(VALUES)
    return found


def displacements(affine: np.ndarray, truth: np.ndarray, shape: tuple[int, ...]) -> set[str]:
    """In which respects a grid lies elsewhere."""
    corners = np.array([[*corner, 1] for corner in product(*[(0, n - 1) for n in shape])]).T
    if np.abs((affine - truth) @ corners).max() <= PLACE_MM:
        return set()
    (columns, sizes), (others, expected) = ((a[:3, :3], np.linalg.norm(a[:3, :3], axis=0)) for a in (affine, truth))
    found = {
        ORIGIN: not np.abs(affine[:3, 3] - truth[:3, 3]).max() <= PLACE_MM,
        SIZES: not np.allclose(sizes, expected, rtol=0.01),
        TILT: not np.allclose(columns / sizes, others / expected, atol=1e-3),
    }
    return {name for name, true in found.items() if true} or {SIZES}


def differing(voxels: np.ndarray, others: np.ndarray) -> int:
    """How many voxels differ."""
    return int(np.count_nonzero(~(np.abs(voxels.astype(np.float64) - others) <= VALUE_HU)))


def flips(voxels: np.ndarray) -> list[np.ndarray]:
    """The volume turned over along each set of axes: where directions changed, the stored order may."""
    return [voxels[::a, ::b, ::c] for a, b, c in product((1, -1), repeat=3)]


def turned(answer: Answer) -> Answer:
    """The same CT with axes that run right, front and up."""
    if not np.isfinite(answer.affine).all():
        return answer
    image = nib.as_closest_canonical(nib.Nifti1Image(answer.voxels.astype(np.float32), answer.affine))
    return Answer(np.asarray(image.dataobj), image.affine)


def why_implausible(answer: Answer, truth: Answer) -> str:
    """What in an answer cannot be a CT of a body; empty where all can."""
    sizes = np.linalg.norm(answer.affine[:3, :3], axis=0)
    fields_of_view = np.sort(sizes * answer.voxels.shape)
    cosines = (answer.affine[:3, :3] / sizes).T @ (answer.affine[:3, :3] / sizes) - np.eye(3)
    air, soft = levels(answer.voxels, truth.voxels)
    causes = {
        "field of view": not (fields_of_view[1] <= 1000 and fields_of_view[2] <= 3000 and fields_of_view[1] >= 50),
        "axes": not np.abs(cosines).max() < 0.6,
        "far away": not np.abs(answer.affine[:3, 3]).max() < 10_000,
        "HU": not (-1300 < air < -700 and -100 < soft < 300),
    }
    return ", ".join(name for name, true in causes.items() if true)


def levels(voxels: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """HU of air and of soft tissue, by the ranks that these have in the truth."""
    ranks = [(truth < -900).mean() / 2, (truth < 100).mean()]
    air, soft = np.quantile(voxels, ranks)
    return float(air), float(soft)


def judge_line(line: str, path: str) -> tuple[str, str]:
    """REFUSED and the cause without names and numbers, or BAD_LINE and why."""
    if not line.isprintable():
        return BAD_LINE, f"not one printable line: {line[:80]!r}"
    if not line.startswith(path) or len(line) > 700:
        return BAD_LINE, f"does not name the file, or is too long: {line[:80]!r}"
    cause = re.sub(r"^(/\S*)?[^:]*: ", "", line.removeprefix(path), count=1)
    return REFUSED, re.sub(r"[-+]?\d[\d.e+-]*", "N", cause.split(". ")[0])[:90]
