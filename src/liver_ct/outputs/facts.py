"""What a report says of the CT and of the run, in pairs of a name and a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

import liver_ct

if TYPE_CHECKING:
    from liver_ct.outputs.results import Item, StudyResult
    from liver_ct.outputs.slices import View

BLOCK_MM, SLABS, SURE = 4.0, 15, 0.9  # enhancement is told from blocks in so many slices, where it is sure of liver
ENHANCED_HU = 80  # of the liver; without contrast few livers reach it
VESSELS_HU, BRIGHTER_HU = 75, 20  # of vessels in it, and above the liver: blood without contrast is neither


def ct_facts(view: View, study: StudyResult) -> list[tuple[str, str]]:
    """Spacing, slices, coverage and enhancement of the CT."""
    size, spacing = study.ct.shape, voxel_sizes(study.affine)
    across, up = voxel_sizes(view.affine)[:2], float(voxel_sizes(view.affine)[2])
    count = view.ct.shape[2]
    heights = sorted(row.z_mm for row in study.rows)
    return [
        ("Voxels", f"{size[0]} x {size[1]} x {size[2]}, axes {''.join(aff2axcodes(study.affine))}"),
        ("Spacing", f"{spacing[0]:.3g} x {spacing[1]:.3g} x {spacing[2]:.3g} mm"),
        ("Axial slices", f"{count}, one every {up:.3g} mm"),
        ("Coverage", f"{count * up:.0f} mm, z {heights[0]:.0f} to {heights[-1]:.0f} mm".replace("-", "\N{MINUS SIGN}")),
        ("Field of view", f"{view.ct.shape[0] * across[0]:.0f} x {view.ct.shape[1] * across[1]:.0f} mm"),
        ("Contrast", enhancement(view)),
    ]


def enhancement(view: View) -> str:
    """Whether the CT looks contrast-enhanced, and the HU of the liver and of the vessels in it that say so.

    The median of blocks of BLOCK_MM is at ENHANCED_HU or above; or 2 % of them, the vessels, are at VESSELS_HU or above
    and BRIGHTER_HU above the liver. Else it is not told: early arterial scans look like those without contrast there.
    """
    blocks = _liver_blocks(view)
    if not len(blocks):
        return "not told: too little liver"
    liver, vessels = (float(hu) for hu in np.percentile(blocks, (50, 98)))
    if liver >= ENHANCED_HU:
        return f"looks enhanced: liver at {liver:.0f} HU, {ENHANCED_HU} or more"
    if vessels >= VESSELS_HU and vessels - liver >= BRIGHTER_HU:
        return f"looks enhanced: vessels at {vessels:.0f} HU in a liver at {liver:.0f}"
    return f"not told: liver at {liver:.0f} HU, as without contrast or early after it"


def _liver_blocks(view: View) -> NDArray[Any]:
    """Mean HU of blocks some BLOCK_MM wide that lie within the liver, in slices spread over it."""
    sure = view.prob[::8, ::8] > SURE
    heights = np.flatnonzero(sure.any((0, 1)))
    if not len(heights):
        return np.zeros(0)
    steps = [max(1, round(BLOCK_MM / mm)) for mm in voxel_sizes(view.affine)[:2]]
    lines = (np.flatnonzero(sure.any((1 - axis, 2))) * 8 for axis in (0, 1))
    box = tuple(slice(max(0, line[0] // step - 2) * step, line[-1] + 8) for line, step in zip(lines, steps))
    found = []
    for z in heights[:: -(-len(heights) // SLABS)]:
        ct, inside = (_blocks(array[box][..., z], steps) for array in (view.ct, view.prob))
        found.append(ct.mean((1, 3), dtype=np.float32)[inside.min((1, 3)) > SURE])
    return np.concatenate(found)


def _blocks(plane: NDArray[Any], steps: list[int]) -> NDArray[Any]:
    """``[X, Y]`` as ``[blocks, step, blocks, step]``; what is left over at the ends is left out."""
    counts = [size // step for size, step in zip(plane.shape, steps)]
    return plane[: counts[0] * steps[0], : counts[1] * steps[1]].reshape(counts[0], steps[0], counts[1], steps[1])


def run_facts(result: Item) -> list[tuple[str, str]]:
    """Date, device, precision and versions of the run, as far as the result holds them."""
    held = {"begun": "Begun", "device": "Device", "precision": "Precision"}
    facts = [(name, str(result[key])) for key, name in held.items() if result.get(key)]
    versions = result.get("versions") or {"liver-ct": liver_ct.__version__}
    return [*facts, ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()))]
