"""A phantom CT and its labels as arrays with their affine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from liver_ct.phantom import anatomy
from liver_ct.phantom.canvas import Canvas, Vector


def geometry(size: Sequence[int], spacing: Vector, axcodes: str, tilt: Vector) -> tuple[NDArray[Any], NDArray[Any]]:
    """Orientation transform from right-front-up axes to `axcodes`, and the affine of the stored array."""
    rotation = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.asarray(spacing, float)
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(size) - 1) / 2)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axcodes))
    return turn, affine @ inv_ornt_aff(turn, tuple(size))


def make_phantom(
    size: Sequence[int] = (256, 256, 80),
    spacing: Vector = (1.5, 1.5, 3.0),
    seed: int = 0,
    tumours: int = 3,
    tumour_radius: tuple[float, float] = (5.0, 20.0),
    noise: float = 12.0,
    axcodes: str = "LPS",
    tilt: Vector = (0.0, 0.0, 0.0),
    dtype: Any = np.int16,
    liver: bool = True,
    centre: Vector = (0.0, 0.0, 0.0),
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Make an abdominal CT and its labels.

    Args:
        size: voxels along the patient's left-right, back-front and foot-head axes, whatever the storage order.
        spacing: voxel size in mm along the same axes.
        seed: of anatomy, tumours and noise.
        tumours: how many; they lie within the liver and do not overlap while there is room.
        tumour_radius: smallest and largest, mm.
        noise: standard deviation, HU.
        axcodes: storage order as nibabel's axis codes, any of the 48; LiTS is LPS.
        tilt: turn of the scanner's axes in degrees about x, y, z, for an oblique affine.
        dtype: of the CT array.
        liver: False leaves the liver out, with its labels.
        centre: point of the anatomy, in mm, that lies at the middle of the volume.

    Returns:
        CT in HU, labels uint8 (0 background, 1 liver, 2 tumour), affine 4 x 4. Both arrays are stored in `axcodes`.
    """
    canvas = Canvas(size, spacing, centre, np.random.default_rng(seed))
    anatomy.draw_table(canvas)
    cavity = anatomy.draw_trunk(canvas)
    abdomen = anatomy.under_diaphragm(canvas, cavity)
    anatomy.draw_chest(canvas, cavity, abdomen)
    for shape in anatomy.MUSCLES:
        canvas.solid(shape)
    anatomy.draw_spine(canvas)
    anatomy.draw_ribs(canvas, cavity)
    anatomy.draw_bowel(canvas, abdomen)
    anatomy.draw_stomach(canvas, abdomen)
    canvas.tube(*anatomy.PANCREAS, abdomen + 4)
    anatomy.draw_kidneys(canvas, abdomen)
    for shape in anatomy.ORGANS:
        canvas.solid(shape, (abdomen if shape.centre[2] < 60 else cavity) + 3)
    canvas.tube(*anatomy.PORTAL)
    labels = np.zeros(canvas.hu.shape, np.uint8)
    if liver:
        distance = anatomy.draw_liver(canvas, abdomen)
        labels[distance < 0] = 1
        labels[anatomy.draw_tumours(canvas, distance, tumours, tumour_radius)] = 2
    for points, hu in (anatomy.AORTA, anatomy.CAVA):
        canvas.tube(points, hu)
    anatomy.add_noise(canvas, noise)
    turn, affine = geometry(size, spacing, axcodes, tilt)
    ct = np.clip(np.rint(canvas.hu), -1024, 3071).astype(dtype)
    return apply_orientation(ct, turn).copy(), apply_orientation(labels, turn).copy(), affine
