"""Synthetic portal-venous abdominal CT with liver and tumour labels, for the demo and the tests.

python scripts/phantom.py make --output data/phantom --cases 1 --size 256,256,80 --spacing 1.5,1.5,3

Anatomy is drawn from implicit surfaces in millimetres: x to the patient's right, y to the front, z to the head (NIfTI's
RAS world), with z = 0 at the height of the liver hilum. Signed distances are negative inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

import fire
import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation

AIR, LUNG, FAT, MUSCLE, LIVER = -1000.0, -850.0, -100.0, 58.0, 105.0  # HU
Vector = Sequence[float]


class Shape(NamedTuple):
    """An ellipsoid: centre and radii in mm, HU, and a turn in the axial plane in degrees."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    turn: float = 0.0


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
HEPATIC_VESSELS = [
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


def smooth_max(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Maximum of two distances with the edge rounded over `width` mm: the intersection of two bodies."""
    overlap = np.clip(0.5 - 0.5 * (b - a) / width, 0, 1)
    return b + (a - b) * overlap + width * overlap * (1 - overlap)


def oval(x: np.ndarray, y: np.ndarray, half: tuple[float, float]) -> np.ndarray:
    """Approximate signed distance to a rounded-rectangular oval with half axes in mm."""
    u, v = np.square(x / half[0]), np.square(y / half[1])
    return (np.sqrt(u + v - 0.28 * u * v / (0.2 + u + v)) - 1) * (0.5 * sum(half))


class Canvas:
    """CT under construction: HU [X,Y,Z] float32 on axes that run right, front, up, and warped coordinates in mm."""

    def __init__(self, size: Sequence[int], spacing: Vector, centre: Vector, rng: np.random.Generator):
        self.rng = rng
        self.axes = [(np.arange(n) - (n - 1) / 2) * step + mid for n, step, mid in zip(size, spacing, centre)]
        self.step = max(spacing)
        self.soft = max(1.2, 1.1 * min(spacing))  # mm over which an edge blurs: partial volume
        self.hu = np.full(tuple(size), AIR, np.float32)
        self.coords = self._warp(scale=rng.uniform(0.97, 1.03))

    def _warp(self, scale: float) -> list[np.ndarray]:
        """Coordinates bent by a few long waves, so that no surface is a perfect ellipsoid."""
        grids = np.meshgrid(*[axis.astype(np.float32) / scale for axis in self.axes], indexing="ij", sparse=True)
        warped = []
        for grid in grids:
            wave = grid
            for length, height in ((150, 3.0), (80, 1.8), (42, 1.0)):
                for first, second in ((0, 1), (1, 2), (0, 2)):
                    steps = self.rng.normal(0, 1, 2) * 2 * np.pi / length
                    phase = grids[first] * np.float32(steps[0]) + grids[second] * np.float32(steps[1])
                    wave = wave + np.float32(height / 1.7) * np.sin(phase + np.float32(self.rng.uniform(0, 6.28)))
            warped.append(np.ascontiguousarray(np.broadcast_to(wave, self.hu.shape)))
        return warped

    def box(self, low: Vector, high: Vector, margin: float = 14) -> tuple[slice, ...]:
        """Index ranges that hold everything between two corners in mm, with room for the warp."""
        ranges = []
        for axis, start, end in zip(self.axes, low, high):
            edges = np.searchsorted(axis, [start - margin - abs(start) * 0.04, end + margin + abs(end) * 0.04])
            ranges.append(slice(*edges.tolist()))
        return tuple(ranges)

    def at(self, box: tuple[slice, ...]) -> list[np.ndarray]:
        """Warped x, y, z of a box."""
        return [grid[box] for grid in self.coords]

    def cover(self, distance: np.ndarray, soft: float | None = None) -> np.ndarray:
        """Share of each voxel that lies inside, 0..1."""
        return np.clip(0.5 - distance / (soft or self.soft), 0, 1)

    def paint(self, distance: np.ndarray, hu: Any, box: tuple[slice, ...] = (), soft: float | None = None) -> None:
        """Blend `hu` over the part of the box where `distance` is negative."""
        part = self.hu[box]
        part += self.cover(distance, soft) * (hu - part)

    def ellipsoid(self, shape: Shape, box: tuple[slice, ...]) -> np.ndarray:
        """Signed distance to an ellipsoid in a box."""
        x, y, z = (grid - np.float32(c) for grid, c in zip(self.at(box), shape.centre))
        cos, sin = np.float32(np.cos(np.radians(shape.turn))), np.float32(np.sin(np.radians(shape.turn)))
        parts = [
            part / np.float32(radius) for part, radius in zip((cos * x + sin * y, cos * y - sin * x, z), shape.radii)
        ]
        level = np.sqrt(sum(np.square(part) for part in parts))
        slope = np.sqrt(sum(np.square(part / np.float32(radius)) for part, radius in zip(parts, shape.radii)))
        return level * (level - 1) / (slope + np.float32(1e-6))

    def bounds(self, shape: Shape) -> tuple[slice, ...]:
        """Box of an ellipsoid, large enough for any turn."""
        reach = (max(shape.radii[:2]),) * 2 + (shape.radii[2],)
        return self.box(*([c + side * r for c, r in zip(shape.centre, reach)] for side in (-1, 1)))

    def solid(self, shape: Shape, inside: np.ndarray | None = None) -> None:
        """Paint an ellipsoid, optionally only where the distance `inside` (whole volume) is negative."""
        box = self.bounds(shape)
        distance = self.ellipsoid(shape, box)
        if inside is not None:
            distance = smooth_max(distance, inside[box], 6)
        self.paint(distance, shape.hu, box)

    def along(self, points: Sequence[Vector], wall: float = 0) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """Yield box and signed distance of each piece of a tapering tube through points (x, y, z, radius)."""
        for (*a, ra), (*b, rb) in zip(points, points[1:]):
            reach = max(ra, rb) + wall
            box = self.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
            offset = [grid - np.float32(c) for grid, c in zip(self.at(box), a)]
            line = np.subtract(b, a).astype(np.float32)
            share = np.clip(sum(o * c for o, c in zip(offset, line)) / (line @ line), 0, 1)
            gap = np.sqrt(sum(np.square(o - share * c) for o, c in zip(offset, line)))
            yield box, gap - np.float32(ra + wall) - share * np.float32(rb - ra)

    def tube(self, points: Sequence[Vector], hu: float, inside: np.ndarray | None = None, wall: float = 0) -> None:
        """Paint a tube, `wall` mm thicker all round, optionally only where `inside` (whole volume) is negative."""
        for box, distance in self.along(points, wall):
            self.paint(distance if inside is None else np.maximum(distance, inside[box]), hu, box)


# ---------------------------------------------------------------------------------------------- anatomy


def draw_trunk(canvas: Canvas) -> np.ndarray:
    """Skin, fat and muscle wall; returns the distance to the cavity inside the wall."""
    x, y, _ = canvas.coords
    body, wall = oval(x, y, (170, 120)), oval(x, y + 1, (157, 106))
    canvas.paint(body, 30)
    canvas.paint(body + 2.5, FAT)
    canvas.paint(wall, MUSCLE - 4)
    cavity = wall + np.float32(14)
    canvas.paint(cavity, FAT)
    return cavity


def under_diaphragm(canvas: Canvas, cavity: np.ndarray) -> np.ndarray:
    """Distance to the abdominal space: the cavity below a high right and a lower left dome."""
    domes = []
    for centre, radii in (((64, 6, -22), (94, 104, 104)), ((-64, -2, -22), (94, 104, 92))):
        x, y, z = (grid - np.float32(c) for grid, c in zip(canvas.coords, centre))
        z = np.maximum(z, 0)
        level = np.sqrt(np.square(x / radii[0]) + np.square(y / radii[1]) + np.square(z / radii[2]))
        domes.append((level - 1) * np.float32(min(radii)))
    return np.maximum(-smooth_max(-domes[0], -domes[1], 8), cavity)


def draw_chest(canvas: Canvas, cavity: np.ndarray, abdomen: np.ndarray) -> None:
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


def draw_ribs(canvas: Canvas, cavity: np.ndarray) -> None:
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


def draw_kidneys(canvas: Canvas, abdomen: np.ndarray) -> None:
    """Cortex, medulla and the fat of the sinus."""
    for kidney in KIDNEYS:
        canvas.solid(kidney, abdomen + 4)
        inner = tuple(0.62 * radius for radius in kidney.radii)
        canvas.solid(kidney._replace(radii=inner, hu=135))
        side = -np.sign(kidney.centre[0])
        centre = (kidney.centre[0] + side * 12, kidney.centre[1] + 6, kidney.centre[2])
        canvas.solid(Shape(centre, (12, 7, 22), -70, kidney.turn))


def draw_stomach(canvas: Canvas, abdomen: np.ndarray) -> None:
    """Wall, fluid, and an air level to the front."""
    canvas.solid(STOMACH, abdomen + 5)
    inner = Shape(STOMACH.centre, tuple(radius - 4.5 for radius in STOMACH.radii), 18, STOMACH.turn)
    box = canvas.bounds(inner)
    distance = smooth_max(canvas.ellipsoid(inner, box), abdomen[box] + 9, 5)
    canvas.paint(distance, 18, box)
    canvas.paint(np.maximum(distance, 44 - canvas.at(box)[1]), -920, box)


def draw_bowel(canvas: Canvas, abdomen: np.ndarray) -> None:
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


def liver_distance(canvas: Canvas, abdomen: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
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


def draw_liver(canvas: Canvas, abdomen: np.ndarray) -> np.ndarray:
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
    canvas.solid(GALLBLADDER._replace(radii=tuple(r + 2 for r in GALLBLADDER.radii), hu=80), abdomen + 3)
    canvas.solid(GALLBLADDER, abdomen + 5)
    return whole


def draw_table(canvas: Canvas) -> None:
    """The couch, a thin curved shell under the back."""
    x, y = canvas.axes[0][:, None, None], canvas.axes[1][None, :, None]
    bed = y + 134 - np.square(x) / 900
    canvas.paint(np.maximum(np.abs(bed) - 2, np.abs(x) - 190), 20)
    canvas.paint(np.maximum(np.abs(bed + 10) - 8, np.abs(x) - 190), -900)


def draw_tumours(canvas: Canvas, liver: np.ndarray, count: int, radii: tuple[float, float]) -> np.ndarray:
    """Paint hypodense ellipsoids with soft edges inside the liver; returns their mask."""
    mask, rng = np.zeros(liver.shape, bool), canvas.rng
    depth = liver.copy()  # shrinks to what is still free of tumours
    for _ in range(count):
        radius = max(rng.uniform(*radii), 0.75 * canvas.step)
        deep = np.argwhere(depth < max(-0.8 * radius, depth.min() + 1))
        index = deep[rng.integers(len(deep))]
        centre = tuple(float(grid[tuple(index)]) for grid in canvas.coords)
        shape = Shape(centre, tuple(radius * rng.uniform(0.85, 1.15, 3)), rng.uniform(55, 70), rng.uniform(0, 90))
        box = canvas.bounds(shape)
        distance = canvas.ellipsoid(shape, box)
        canvas.paint(np.maximum(distance, liver[box]), shape.hu, box, soft=max(4, canvas.soft))
        mask[box] |= (distance < 0) & (liver[box] < 0)
        depth[box] = np.maximum(depth[box], 4 - distance)
    return mask


def add_noise(canvas: Canvas, sigma: float) -> None:
    """Parenchymal mottle and correlated quantum noise of `sigma` HU, both in the body and around it."""
    noise = canvas.rng.standard_normal(canvas.hu.shape, dtype=np.float32)
    for axis in (0, 1):  # neighbours in a slice share noise, as a reconstruction kernel makes them
        noise = ndimage.convolve1d(noise, np.array([0.35, 0.75, 0.35], np.float32), axis=axis)
    canvas.hu += noise * np.float32(sigma / noise.std()) if sigma else 0


def geometry(size: Sequence[int], spacing: Vector, axcodes: str, tilt: Vector) -> tuple[np.ndarray, np.ndarray]:
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
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    draw_table(canvas)
    cavity = draw_trunk(canvas)
    abdomen = under_diaphragm(canvas, cavity)
    draw_chest(canvas, cavity, abdomen)
    for shape in MUSCLES:
        canvas.solid(shape)
    draw_spine(canvas)
    draw_ribs(canvas, cavity)
    draw_bowel(canvas, abdomen)
    draw_stomach(canvas, abdomen)
    canvas.tube(*PANCREAS, abdomen + 4)
    draw_kidneys(canvas, abdomen)
    for shape in ORGANS:
        canvas.solid(shape, (abdomen if shape.centre[2] < 60 else cavity) + 3)
    canvas.tube(*PORTAL)
    labels = np.zeros(canvas.hu.shape, np.uint8)
    if liver:
        distance = draw_liver(canvas, abdomen)
        labels[distance < 0] = 1
        labels[draw_tumours(canvas, distance, tumours, tumour_radius)] = 2
    for points, hu in (AORTA, CAVA):
        canvas.tube(points, hu)
    add_noise(canvas, noise)
    turn, affine = geometry(size, spacing, axcodes, tilt)
    ct = np.clip(np.rint(canvas.hu), -1024, 3071).astype(dtype)
    return apply_orientation(ct, turn).copy(), apply_orientation(labels, turn).copy(), affine


# ---------------------------------------------------------------------------------------------- files


def nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """NIfTI image in scanner coordinates, mm."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    return image


def write_case(folder: str | Path, case_id: int, suffix: str = ".nii.gz", **knobs: Any) -> tuple[Path, Path]:
    """Write one phantom as LiTS does, `volume-N` and `segmentation-N`; `knobs` go to `make_phantom`."""
    ct, labels, affine = make_phantom(**{"seed": case_id, **knobs})
    paths = Path(folder) / f"volume-{case_id}{suffix}", Path(folder) / f"segmentation-{case_id}{suffix}"
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for path, array in zip(paths, (ct, labels)):
        nib.save(nifti(array, affine), path)
    return paths


def write_msd(folder: str | Path, case_id: int, **knobs: Any) -> tuple[Path, Path]:
    """Write one phantom in the layout of MSD Task03_Liver: imagesTr/liver_N.nii.gz and labelsTr/liver_N.nii.gz."""
    ct, labels, affine = make_phantom(**{"seed": case_id, "axcodes": "RAS", **knobs})
    paths = [Path(folder) / name / f"liver_{case_id}.nii.gz" for name in ("imagesTr", "labelsTr")]
    for path, array in zip(paths, (ct, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nifti(array, affine), path)
    return paths[0], paths[1]


def dicom_header(series: Any, columns: np.ndarray, shape: Sequence[int]) -> Any:
    """Data set that all slices of a series share; `columns` are the affine's first three in DICOM coordinates."""
    from pydicom.dataset import Dataset

    sizes = np.linalg.norm(columns, axis=0)
    header = Dataset()
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # CT Image Storage
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = series
    header.Modality, header.Manufacturer, header.SeriesDescription = "CT", "phantom", "portal venous"
    header.PatientName, header.PatientID = "Phantom^Liver", "PHANTOM"
    header.PatientBirthDate, header.PatientSex = "", "O"
    header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20240101", "120000", "1", ""
    header.ReferringPhysicianName, header.PositionReferenceIndicator = "", ""
    header.BodyPartExamined, header.ConvolutionKernel = "ABDOMEN", "B30f"
    header.SeriesNumber, header.AcquisitionNumber, header.KVP, header.PatientPosition = 1, 1, 120, "HFS"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.ImageOrientationPatient = [round(float(v), 8) for v in (columns[:, :2] / sizes[:2]).T.ravel()]
    header.PixelSpacing = [round(float(sizes[1]), 6), round(float(sizes[0]), 6)]  # rows first
    header.SliceThickness = round(float(sizes[2]), 6)
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.Rows, header.Columns = int(shape[1]), int(shape[0])
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = -1024, 1, "HU"
    return header


def write_dicom_series(folder: str | Path, ct: np.ndarray, affine: np.ndarray, axcodes: str = "LPS") -> list[Path]:
    """Write a CT [X,Y,Z] in HU as a DICOM CT series, one file per axial slice, numbered as ``axcodes`` says.

    Args:
        folder: to write to; made if missing.
        ct: in any orientation.
        affine: 4 x 4, voxel to world mm (RAS).
        axcodes: where columns, rows and slices run to: LPS from the feet up, LPI from the head down.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    turn = ornt_transform(nib.io_orientation(affine), axcodes2ornt(axcodes))
    stored = np.clip(apply_orientation(ct, turn), -1024, 32767).astype(np.int32) + 1024
    world = np.diag([-1, -1, 1, 1]) @ affine @ inv_ornt_aff(turn, ct.shape)  # DICOM: x to the left, y to the back
    header = dicom_header([generate_uid() for _ in range(3)], world[:3, :3], stored.shape)
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(stored.shape[2]):
        item = pydicom.Dataset(header)
        item.SOPInstanceUID, item.InstanceNumber = generate_uid(), index + 1
        item.ImagePositionPatient = [round(float(v), 6) for v in world[:3] @ [0, 0, index, 1]]
        item.PixelData = np.ascontiguousarray(stored[..., index].T).astype("<u2").tobytes()
        item.file_meta = pydicom.dataset.FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        paths.append(Path(folder) / f"slice_{index + 1:04d}.dcm")
        item.save_as(paths[-1], enforce_file_format=True)
    return paths


def make(
    output: str,
    cases: int = 1,
    size: Sequence[int] = (256, 256, 80),
    spacing: Vector = (1.5, 1.5, 3.0),
    seed: int = 0,
    tumours: int = 3,
    noise: float = 12.0,
    axcodes: str = "LPS",
    layout: str = "lits",
    first: int = 0,
) -> None:
    """Write phantom cases and name the files.

    Args:
        output: folder to write to.
        cases: how many, numbered from FIRST, each with anatomy and tumours of its own.
        size: voxels left-right, back-front, foot-head.
        spacing: voxel size in mm along the same axes.
        seed: of the first case.
        tumours: per case.
        noise: standard deviation in HU.
        axcodes: storage order, such as LPS or RAS.
        layout: lits, msd, or dicom (a folder of slices per case, no labels).
        first: number of the first case.
    """
    if layout not in ("lits", "msd", "dicom"):
        raise SystemExit(f"ERROR {output}: unknown layout {layout!r}. Use lits, msd or dicom.")
    for number in range(first, first + cases):
        knobs = {"size": size, "spacing": spacing, "tumours": tumours, "noise": noise, "axcodes": axcodes}
        knobs["seed"] = seed + number - first
        if layout == "dicom":
            ct, _, affine = make_phantom(**knobs)
            print(write_dicom_series(Path(output) / f"volume-{number}", ct, affine)[0].parent)
        else:
            print(*(write_case if layout == "lits" else write_msd)(output, number, **knobs))


if __name__ == "__main__":
    fire.Fire({"make": make})
