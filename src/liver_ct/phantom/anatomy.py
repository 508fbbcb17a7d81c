"""The abdomen's anatomy, with z = 0 at the height of the liver hilum, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from liver_ct.phantom.canvas import Canvas, Shape, Vector, grown, oval, scaled, smooth_max

SHARED_MM = 1.5  # voxels this far apart share noise fully
LUNG, FAT, MUSCLE, LIVER = -850.0, -100.0, 58.0, 105.0  # HU

# Painted in this order, later over earlier. Right is +x.

MUSCLES = [Shape((s * 30, -76, 0), (30, 21, 900), MUSCLE, s * 10) for s in (-1, 1)]
MUSCLES += [Shape((s * 44, -36, -95), (19, 20, 75), MUSCLE + 3) for s in (-1, 1)]  # psoas
MUSCLES += [Shape((s * 17, -10, 15), (7, 14, 70), MUSCLE, s * 30) for s in (-1, 1)]  # crura of the diaphragm
KIDNEYS = [Shape((66, -44, -62), (27, 25, 52), 160, -25), Shape((-66, -44, -32), (27, 25, 52), 160, 25)]
GALLBLADDER = Shape((52, 48, -42), (15, 17, 30), 10, 20)
STOMACH = Shape((-62, 26, 14), (44, 40, 54), 75, 30)
ORGANS = [
    Shape((-103, -36, 28), (27, 52, 46), 115, -28),  # spleen
    Shape((-20, 40, 108), (58, 46, 50), 130, 25),  # heart
    Shape((-2, 34, 104), (24, 24, 34), 150),  # its right chambers
    Shape((40, 8, -40), (15, 14, 30), 75),  # duodenum
    Shape((-26, -14, 5), (5, 9, 12), 60),  # left adrenal gland
]
FISSURE = Shape((-4, 62, 4), (5, 26, 26), FAT, -12)
HILUM = Shape((26, 22, -8), (26, 11, 12), FAT, 25)
# Tubes: points in mm with a radius each, and HU
AORTA = ([(-12, -4, -300, 9), (-10, -3, 0, 11), (-14, -8, 300, 12)], 155)
CAVA = ([(20, -4, -300, 11), (20, 0, 0, 12), (16, 6, 62, 13), (12, 18, 92, 13)], 125)
PANCREAS = ([(34, 14, -36, 14), (8, 24, -14, 11), (-26, 14, 0, 11), (-62, -8, 14, 9), (-84, -22, 22, 7)], 92)
PORTAL = ([(6, 16, -30, 7), (24, 18, -6, 7), (52, 14, 2, 6), (86, -4, 0, 4), (112, -22, -8, 2)], 150)
HEPATIC_VESSELS: list[tuple[Sequence[Vector], float]] = [
    PORTAL,
    ([(52, 14, 2, 5), (82, 34, 4, 3.5), (104, 46, -4, 2)], 150),
    ([(24, 18, -6, 5), (10, 40, 18, 5), (-14, 52, 26, 3), (-34, 58, 34, 2)], 150),
    ([(16, 4, 56, 7), (58, 0, 40, 4.5), (102, 4, 16, 2)], 148),
    ([(16, 6, 56, 6), (46, 36, 40, 4), (70, 62, 14, 2)], 148),
    ([(16, 8, 56, 6), (-2, 34, 46, 4), (-26, 56, 44, 2)], 148),
    ([(86, -4, 0, 3), (98, 6, -30, 2.5), (108, 10, -58, 1.5)], 148),
]
COLON = [(104, 20, -150, 24), (106, 34, -96, 22), (72, 68, -84, 20), (0, 78, -80, 19), (-70, 72, -56, 19)]
COLON += [(-100, 52, -6, 18), (-112, 26, -26, 19), (-116, -8, -80, 18), (-112, -6, -160, 17)]


def draw_trunk(canvas: Canvas) -> NDArray[Any]:
    """Skin, fat and muscle wall; returns the distance to the cavity inside the wall."""
    x, y, _ = canvas.coords
    body, wall = oval(x, y, (170, 120)), oval(x, y + 1, (157, 106))
    canvas.paint(body, 30)
    canvas.paint(body + 2.5, FAT)
    canvas.paint(wall, MUSCLE - 4)
    cavity = wall + np.float32(14)
    canvas.paint(cavity, FAT)
    return cavity


def under_diaphragm(canvas: Canvas, cavity: NDArray[Any]) -> NDArray[Any]:
    """Distance to the abdominal space: the cavity below a high right and a lower left dome."""
    domes = []
    for centre, radii in (((64, 6, -22), (94, 104, 104)), ((-64, -2, -22), (94, 104, 92))):
        x, y, z = (grid - np.float32(c) for grid, c in zip(canvas.coords, centre))
        z = np.maximum(z, 0)
        level = np.sqrt(np.square(x / radii[0]) + np.square(y / radii[1]) + np.square(z / radii[2]))
        domes.append((level - 1) * np.float32(min(radii)))
    space: NDArray[Any] = np.maximum(-smooth_max(-domes[0], -domes[1], 8), cavity)
    return space


def draw_chest(canvas: Canvas, cavity: NDArray[Any], abdomen: NDArray[Any]) -> None:
    """Lungs above the diaphragm with a fatty mediastinum between them."""
    x, y, _ = canvas.coords
    middle = oval(x + 8, y - 12, (30, 92))
    lungs = np.maximum(np.maximum(cavity + 2, 2.5 - abdomen), -middle)
    canvas.paint(lungs, LUNG)


def draw_spine(canvas: Canvas) -> None:
    """Vertebrae with discs, spinal canal, and processes, repeated every 34 mm."""
    box = canvas.box((-48, -112, -900), (48, -5, 900))
    x, y, z = canvas.at(box)
    disc = 4.5 - np.abs(np.mod(z + 8, 34) - 17)  # negative within a vertebra, positive within a disc
    body = oval(x, y + 32, (23, 18))
    arch = np.minimum(np.abs(oval(x, y + 60, (15, 13))) - 3.5, np.maximum(np.abs(x) - 4, np.abs(y + 82) - 15))
    process = np.maximum(np.maximum(np.abs(y + 58) - 5, np.abs(x) - 42), np.abs(np.mod(z + 8, 34) - 17) - 9)
    bone = np.minimum(np.maximum(arch, np.abs(np.mod(z + 8, 34) - 15) - 13), process)
    canvas.paint(bone, 330, box)
    canvas.paint(body, 85, box)
    canvas.paint(np.maximum(body, disc - 12), 420, box)
    canvas.paint(np.maximum(body + 2.2, disc - 10), 185, box)
    canvas.paint(oval(x, y + 60, (11, 9)), 35, box)


def draw_ribs(canvas: Canvas, cavity: NDArray[Any]) -> None:
    """Ribs: oblique arcs within the wall, falling to the front, bone at the back and sides, cartilage in front."""
    columns = np.nonzero((np.abs(cavity - 6) < 12).any(axis=2))
    x, y, z = (grid[columns] for grid in canvas.coords)  # [columns, Z]
    forward = np.arctan2(np.abs(x), -y) / np.pi  # 0 at the spine, 1 at the breastbone
    height = z + 95 * forward + 20 * np.square(forward)
    across = np.abs(np.mod(height, 31) - 15.5) - 6
    distance = np.maximum(np.hypot(np.maximum(across + 5, 0), cavity[columns] - 6) - 5, np.abs(x) * -1 + 18)
    distance = np.maximum(distance, 30 - height)  # the last rib
    hu = np.where(forward > 0.78, 110, np.where(distance < -2.2, 200, 420))
    canvas.hu[columns] += canvas.cover(distance) * (hu - canvas.hu[columns])


def draw_kidneys(canvas: Canvas, abdomen: NDArray[Any]) -> None:
    """Cortex, medulla and the fat of the sinus."""
    for kidney in KIDNEYS:
        canvas.solid(kidney, abdomen + 4)
        canvas.solid(scaled(kidney, 0.62)._replace(hu=135))
        side = -np.sign(kidney.centre[0])
        centre = (kidney.centre[0] + side * 12, kidney.centre[1] + 6, kidney.centre[2])
        canvas.solid(Shape(centre, (12, 7, 22), -70, kidney.turn))


def draw_stomach(canvas: Canvas, abdomen: NDArray[Any]) -> None:
    """Wall, fluid, and an air level to the front."""
    canvas.solid(STOMACH, abdomen + 5)
    inner = grown(STOMACH, -4.5)._replace(hu=18)
    box = canvas.bounds(inner)
    distance = smooth_max(canvas.ellipsoid(inner, box), abdomen[box] + 9, 5)
    canvas.paint(distance, 18, box)
    canvas.paint(np.maximum(distance, 44 - canvas.at(box)[1]), -920, box)


def draw_bowel(canvas: Canvas, abdomen: NDArray[Any]) -> None:
    """Small-bowel loops of random course below the liver and a colon with stool and gas."""
    rng, inside = canvas.rng, abdomen + 6
    for _ in range(34):
        start = np.array([rng.uniform(-105, 60), rng.uniform(0, 72), rng.uniform(-150, -30)])
        start[2] -= 0.5 * max(start[0], 0)  # the liver is above on the right
        ends = [start, start + rng.normal(0, 22, 3), start + rng.normal(0, 22, 3)]
        points = [(*point, radius) for point, radius in zip(ends, rng.uniform(8, 12, 3))]
        canvas.tube(points, rng.uniform(60, 95), inside, wall=2.5)
        canvas.tube(points, rng.choice([25, 45, 70]), inside)
    canvas.tube(COLON, 60, inside, wall=2)
    canvas.tube(COLON, -30, inside)
    canvas.tube([(x, y + 7, z, radius * 0.6) for x, y, z, radius in COLON], -850, inside)


def liver_distance(canvas: Canvas, abdomen: NDArray[Any], box: tuple[slice, ...]) -> NDArray[Any]:
    """Distance to the liver in a box: the space under the right dome, cut off below by a slanting visceral surface."""
    x, y, z = canvas.at(box)
    span = np.float32(142) - x  # mm from the right wall towards the left
    floor = -86 + 0.60 * span + 0.0002 * np.square(span) + 0.0030 * np.square(y - 8)
    visceral = (floor - z) * np.float32(0.8)
    behind = np.minimum(30 - x, (4 + 0.30 * (30 - x) - y) / 1.05)  # the spine, then the stomach, lie behind it
    distance = smooth_max(smooth_max(abdomen[box] + np.float32(2.2), visceral, 14), behind, 10)
    for shape, gap in [(KIDNEYS[0], 4), (GALLBLADDER, 1), (FISSURE, 0), (HILUM, 0)]:
        distance = smooth_max(distance, gap - canvas.ellipsoid(shape, box), 4)
    return distance


def draw_liver(canvas: Canvas, abdomen: NDArray[Any]) -> NDArray[Any]:
    """Liver with its vessels, and the gallbladder; returns the distance to the liver, positive wherever it is not."""
    whole = np.full(canvas.hu.shape, 99, np.float32)
    box = canvas.box((-80, -110, -110), (160, 120, 95))
    whole[box] = liver_distance(canvas, abdomen, box)
    for piece, distance in canvas.along(CAVA[0], 1):  # the cava runs in a groove of the liver, outside it
        whole[piece] = np.maximum(whole[piece], -distance)
    canvas.solid(HILUM, abdomen + 2)
    canvas.solid(FISSURE, abdomen + 4)
    canvas.paint(whole[box], LIVER, box)
    for points, hu in HEPATIC_VESSELS:
        canvas.tube(points, hu, whole)
    canvas.solid(grown(GALLBLADDER, 2)._replace(hu=80), abdomen + 3)
    canvas.solid(GALLBLADDER, abdomen + 5)
    return whole


def draw_table(canvas: Canvas) -> None:
    """The couch, a thin curved shell under the back."""
    x, y = canvas.axes[0][:, None, None], canvas.axes[1][None, :, None]
    bed = y + 134 - np.square(x) / 900
    canvas.paint(np.maximum(np.abs(bed) - 2, np.abs(x) - 190), 20)
    canvas.paint(np.maximum(np.abs(bed + 10) - 8, np.abs(x) - 190), -900)


def draw_tumours(canvas: Canvas, liver: NDArray[Any], count: int, radii: tuple[float, float]) -> NDArray[Any]:
    """Paint hypodense ellipsoids with soft edges inside the liver; returns their mask."""
    mask, rng = np.zeros(liver.shape, bool), canvas.rng
    depth = liver.copy()  # shrinks to what is still free of tumours
    for _ in range(count):
        radius = max(rng.uniform(*radii), 0.75 * canvas.step)
        deep = np.argwhere(depth < max(-0.8 * radius, depth.min() + 1))
        index = deep[rng.integers(len(deep))]
        x, y, z = (float(grid[tuple(index)]) for grid in canvas.coords)
        a, b, c = radius * rng.uniform(0.85, 1.15, 3)
        shape = Shape((x, y, z), (a, b, c), rng.uniform(55, 70), rng.uniform(0, 90))
        box = canvas.bounds(shape)
        distance = canvas.ellipsoid(shape, box)
        canvas.paint(np.maximum(distance, liver[box]), shape.hu, box, soft=max(4, canvas.soft))
        mask[box] |= (distance < 0) & (liver[box] < 0)
        depth[box] = np.maximum(depth[box], 4 - distance)
    return mask


def add_noise(canvas: Canvas, sigma: float) -> None:
    """Parenchymal mottle and correlated quantum noise of `sigma` HU, both in the body and around it.

    Neighbours in a slice share noise as far as a reconstruction kernel reaches, in mm: between coarse voxels none is
    left. If it were shared there, blobs of the size of tumours would be twice as strong as in real livers.
    """
    noise = canvas.rng.standard_normal(canvas.hu.shape, dtype=np.float32)
    for axis in (0, 1):
        beyond = max(0.0, canvas.spacing[axis] ** 2 - SHARED_MM**2)
        shared = 0.35 * np.exp(-beyond / SHARED_MM**2)
        noise = ndimage.convolve1d(noise, np.array([shared, 0.75, shared], np.float32), axis=axis)
    canvas.hu += noise * np.float32(sigma / noise.std()) if sigma else 0
