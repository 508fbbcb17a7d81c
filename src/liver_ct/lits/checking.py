"""Whether a CT and its segmentation can be used: HU, labels, one grid, and labels that lie on a liver."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray

from liver_ct.errors import find_study_error
from liver_ct.files import shipped, written_whole
from liver_ct.lits.cases import READ_ERRORS, TUMOUR, BrokenPair, brief

ON_TISSUE = 0.9  # share of the labelled voxels
MARGIN = 0.01  # of it; rightly placed 0.992 and more, 30 mm or a mirror image away 0.982 at most
ENOUGH = 100_000  # of them to tell that


class Scan(NamedTuple):
    """A NIfTI image with its stored voxels and the line that turns them into values."""

    image: nib.Nifti1Image
    raw: NDArray[Any]  # [X, Y, Z] as stored
    slope: float
    intercept: float

    def limits(self) -> tuple[float, float]:
        """Smallest and largest value."""
        ends = self.slope * float(self.raw.min()) + self.intercept, self.slope * float(self.raw.max()) + self.intercept
        return min(ends), max(ends)


def read(path: Path) -> Scan:
    """Read a 3D NIfTI with finite voxels and a usable affine; raises BrokenPair."""
    try:
        image = nib.load(path)
        proxy = image.dataobj
        raw, slope, intercept = np.asanyarray(proxy.get_unscaled()), float(proxy.slope), float(proxy.inter)
    except (*READ_ERRORS, AttributeError) as error:
        raise BrokenPair(f"{path}: cannot be read as NIfTI ({brief(error)}). Download or unpack it again.") from None
    if raw.ndim != 3 or 0 in raw.shape:
        raise BrokenPair(f"{path}: shape {raw.shape} is not one 3D volume. Give one volume per file.")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise BrokenPair(f"{path}: the affine is not finite or is singular. Fix the header (nibabel, ITK-SNAP).")
    if not np.isfinite([slope, intercept]).all() or (raw.dtype.kind == "f" and not np.isfinite(raw).all()):
        raise BrokenPair(f"{path}: holds NaN or infinite voxels. Convert it again from the source.")
    return Scan(image, raw, slope, intercept)


def check_ct(path: Path, scan: Scan) -> None:
    """Raise BrokenPair unless the voxels can be HU. CT clipped to soft tissue (say -40 to 160) passes, MR does not."""
    low, high = scan.limits()
    dark = np.mean(scan.raw[::2, ::2] * np.float32(scan.slope) + np.float32(scan.intercept) < -30)  # air, lung, fat
    if dark < 0.01 or high < 40 or low < -10000 or high > 40000:
        raise BrokenPair(f"{path}: values from {low:g} to {high:g} are not the HU of a CT. Give the CT in HU.")


def check_labels(path: Path, scan: Scan) -> None:
    """Raise BrokenPair unless every voxel is 0, 1 or 2 and some are liver or tumour."""
    low, high = scan.limits()
    values = scan.raw if (scan.slope, scan.intercept) == (1, 0) else scan.raw * scan.slope + scan.intercept
    if low < 0 or high > 2 or (values.dtype.kind == "f" and not (values == np.rint(values)).all()):
        raise BrokenPair(
            f"{path}: labels from {low:g} to {high:g} where 0 background, 1 liver, 2 tumour are allowed. Map them so."
        )
    if high == 0:
        raise BrokenPair(f"{path}: no voxel is labelled as liver. Get the segmentation again.")


def on_grid(ct: Scan, seg: Scan, path: Path) -> tuple[nib.Nifti1Image | None, str]:
    """None when both lie on one grid, otherwise the segmentation put onto the CT's grid, and what its header said of it
    where that is not followed; raises BrokenPair.

    Some LiTS segmentations carry another header than their CT. If turning the axes as both headers say makes the grids
    agree, the header is right and the array is turned. If not, but array shape and voxel size are the CT's, the
    segmentation was drawn on this CT and only its header is wrong: it gets the CT's.
    """
    if ct.raw.shape == seg.raw.shape and np.allclose(ct.image.affine, seg.image.affine, rtol=0, atol=1e-3):
        return None, ""
    turned = seg.image.as_reoriented(ornt_transform(io_orientation(seg.image.affine), io_orientation(ct.image.affine)))
    if turned.shape == ct.raw.shape and np.allclose(turned.affine, ct.image.affine, rtol=0, atol=1e-2):
        return nib.Nifti1Image(np.asanyarray(turned.dataobj).astype(np.uint8), ct.image.affine), ""
    sizes = [nib.affines.voxel_sizes(scan.image.affine) for scan in (ct, seg)]
    if ct.raw.shape != seg.raw.shape or not np.allclose(sizes[0], sizes[1], rtol=0.01):
        raise BrokenPair(
            f"{path}: grid {seg.raw.shape} of {np.round(sizes[1], 3)} mm differs from its CT's {ct.raw.shape} "
            f"of {np.round(sizes[0], 3)} mm. Get the pair again."
        )
    values = np.rint(seg.raw * seg.slope + seg.intercept).astype(np.uint8)
    return nib.Nifti1Image(values, ct.image.affine), header_says(ct.image, seg.image)


def header_says(ct: nib.Nifti1Image, seg: nib.Nifti1Image) -> str:
    """How a segmentation's header differs from its CT's, of the same shape."""
    codes = ["".join(nib.aff2axcodes(image.affine)) for image in (seg, ct)]
    if codes[0] != codes[1]:
        return f"its axes are {codes[0]}, not {codes[1]}"
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(ct.shape) - 1)
    places = [nib.affines.apply_affine(image.affine, corners) for image in (seg, ct)]
    return f"it lies {np.linalg.norm(places[0] - places[1], axis=1).max():.3g} mm away"


def check_header(path: Path, ct: Scan, seg: Scan, drawn: bool) -> None:
    """Raise BrokenPair where a segmentation fits its CT clearly better the other way than it was taken: as ``drawn`` on
    the CT, voxel by voxel, or placed by its header. Rightly taken, 0.99 and more of it lies on tissue."""
    voxels = np.argwhere(seg.raw * np.float32(seg.slope) + np.float32(seg.intercept) > 0)
    voxels = voxels[:: max(1, len(voxels) // ENOUGH)]
    placed = np.linalg.inv(ct.image.affine) @ seg.image.affine
    by_header = share_on_tissue(ct, np.rint(nib.affines.apply_affine(placed, voxels)).astype(int))
    as_drawn = share_on_tissue(ct, voxels)
    taken, other = (as_drawn, by_header) if drawn else (by_header, as_drawn)
    if other > taken + MARGIN:
        ways = ("where its header places it", "as drawn on its CT's slices")
        cause = f"{other:.0%} of it lies on tissue {ways[not drawn]}, but {taken:.0%} {ways[drawn]}, as is usual"
        raise BrokenPair(f"{path}: {cause}. Save it on its CT's grid (ITK-SNAP, 3D Slicer).")


def share_on_tissue(ct: Scan, voxels: NDArray[np.int_]) -> float:
    """Which part of some voxels ``[N, 3]`` lies within a CT and has a liver's HU."""
    inside = voxels[((voxels >= 0) & (voxels < ct.raw.shape)).all(1)]
    hu = ct.raw[tuple(inside.T)] * np.float32(ct.slope) + np.float32(ct.intercept)
    return float(np.count_nonzero((hu > -40) & (hu < 250)) / len(voxels))


def check_overlay(path: Path, ct: Scan, labels: NDArray[Any]) -> None:
    """Raise BrokenPair unless nearly all labelled voxels have a liver's HU; a flipped segmentation mostly has not.

    In LiTS and BTCV the share is at least 0.99; mirrored along an axis it is 0.28 to 0.98, below 0.9 in 50 of 60.
    """
    inside = ct.raw[labels > 0] * np.float32(ct.slope) + np.float32(ct.intercept)
    share = np.mean((inside > -40) & (inside < 250))
    if share < ON_TISSUE:
        raise BrokenPair(
            f"{path}: only {share:.0%} of it lies on tissue of -40 to 250 HU. Check its orientation and its CT."
        )


@functools.cache
def reader() -> Callable[[dict[str, str]], Any]:
    """How the segmentation bundle reads a CT, with all its checks."""
    from liver_ct.chain.stages import read_bundle  # late: it takes a few seconds

    load: Callable[[dict[str, str]], Any] = read_bundle(shipped("bundles") / "liver_seg").get_parsed_content("load")
    return load


def check_as_read(image: Path) -> None:
    """Raise BrokenPair unless a CT can be read as the chain does it: geometry, HU, order of the slices."""
    try:
        reader()({"image": str(image)})
    except Exception as error:
        if found := find_study_error(error):
            raise BrokenPair(str(found)) from None
        raise


def check_pair(image: Path, label: Path, repaired: Path) -> tuple[Path, bool, str, str]:
    """Check a CT and its segmentation; return the segmentation to use, `repaired` if its header had to be put right,
    whether it marks a tumour, the checksum of the CT's voxels, and what the header said that was not followed."""
    ct, seg = read(image), read(label)
    check_ct(image, ct)
    check_labels(label, seg)
    moved, said = on_grid(ct, seg, label)
    if moved is not None:
        check_header(label, ct, seg, drawn=bool(said))
    check_overlay(label, ct, seg.raw if moved is None else np.asanyarray(moved.dataobj))
    check_as_read(image)
    marked, voxels = seg.limits()[1] == TUMOUR, hashlib.sha256(np.ascontiguousarray(ct.raw.T).data).hexdigest()
    if moved is None:
        return label, marked, voxels, said
    with written_whole(repaired) as part:
        nib.save(moved, part)
    return repaired, marked, voxels, said
