"""CT under construction: bodies and tubes painted as implicit surfaces in millimetres.

x runs to the patient's right, y to the front, z to the head (NIfTI's RAS world). Signed distances are negative inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

AIR = -1000.0  # HU

Vector = Sequence[float]


class Shape(NamedTuple):
    """An ellipsoid: centre and radii in mm, HU, and a turn in the axial plane in degrees."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    turn: float = 0.0


def scaled(shape: Shape, factor: float) -> Shape:
    """The same ellipsoid with all radii ``factor`` times as long."""
    a, b, c = shape.radii
    return shape._replace(radii=(factor * a, factor * b, factor * c))


def grown(shape: Shape, by: float) -> Shape:
    """The same ellipsoid with all radii longer ``by`` so many mm."""
    a, b, c = shape.radii
    return shape._replace(radii=(a + by, b + by, c + by))


def smooth_max(a: NDArray[Any], b: NDArray[Any], width: float) -> NDArray[Any]:
    """Maximum of two distances with the edge rounded over `width` mm: the intersection of two bodies."""
    overlap = np.clip(0.5 - 0.5 * (b - a) / width, 0, 1)
    rounded: NDArray[Any] = b + (a - b) * overlap + width * overlap * (1 - overlap)
    return rounded


def oval(x: NDArray[Any], y: NDArray[Any], half: tuple[float, float]) -> NDArray[Any]:
    """Approximate signed distance to a rounded-rectangular oval with half axes in mm."""
    u, v = np.square(x / half[0]), np.square(y / half[1])
    distance: NDArray[Any] = (np.sqrt(u + v - 0.28 * u * v / (0.2 + u + v)) - 1) * (0.5 * sum(half))
    return distance


class Canvas:
    """CT under construction: HU [X,Y,Z] float32 on axes that run right, front, up, and warped coordinates in mm."""

    def __init__(self, size: Sequence[int], spacing: Vector, centre: Vector, rng: np.random.Generator):
        self.rng = rng
        self.axes = [(np.arange(n) - (n - 1) / 2) * step + mid for n, step, mid in zip(size, spacing, centre)]
        self.spacing = tuple(spacing)
        self.step = max(spacing)
        self.soft = max(1.2, 1.1 * min(spacing))  # mm over which an edge blurs: partial volume
        self.hu = np.full(tuple(size), AIR, np.float32)
        self.coords = self._warp(scale=rng.uniform(0.97, 1.03))

    def _warp(self, scale: float) -> list[NDArray[Any]]:
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

    def at(self, box: tuple[slice, ...]) -> list[NDArray[Any]]:
        """Warped x, y, z of a box."""
        return [grid[box] for grid in self.coords]

    def cover(self, distance: NDArray[Any], soft: float | None = None) -> NDArray[Any]:
        """Share of each voxel that lies inside, 0..1."""
        return np.clip(0.5 - distance / (soft or self.soft), 0, 1)

    def paint(self, distance: NDArray[Any], hu: Any, box: tuple[slice, ...] = (), soft: float | None = None) -> None:
        """Blend `hu` over the part of the box where `distance` is negative."""
        part = self.hu[box]
        part += self.cover(distance, soft) * (hu - part)

    def ellipsoid(self, shape: Shape, box: tuple[slice, ...]) -> NDArray[Any]:
        """Signed distance to an ellipsoid in a box."""
        x, y, z = (grid - np.float32(c) for grid, c in zip(self.at(box), shape.centre))
        cos, sin = np.float32(np.cos(np.radians(shape.turn))), np.float32(np.sin(np.radians(shape.turn)))
        parts = [
            part / np.float32(radius) for part, radius in zip((cos * x + sin * y, cos * y - sin * x, z), shape.radii)
        ]
        level = np.sqrt(sum(np.square(part) for part in parts))
        slope = np.sqrt(sum(np.square(part / np.float32(radius)) for part, radius in zip(parts, shape.radii)))
        distance: NDArray[Any] = level * (level - 1) / (slope + np.float32(1e-6))
        return distance

    def bounds(self, shape: Shape) -> tuple[slice, ...]:
        """Box of an ellipsoid, large enough for any turn."""
        flat = max(shape.radii[:2])
        reach = (flat, flat, shape.radii[2])
        low = [c - r for c, r in zip(shape.centre, reach)]
        high = [c + r for c, r in zip(shape.centre, reach)]
        return self.box(low, high)

    def solid(self, shape: Shape, inside: NDArray[Any] | None = None) -> None:
        """Paint an ellipsoid, optionally only where the distance `inside` (whole volume) is negative."""
        box = self.bounds(shape)
        distance = self.ellipsoid(shape, box)
        if inside is not None:
            distance = smooth_max(distance, inside[box], 6)
        self.paint(distance, shape.hu, box)

    def along(self, points: Sequence[Vector], wall: float = 0) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
        """Yield box and signed distance of each piece of a tapering tube through points (x, y, z, radius)."""
        for (*a, ra), (*b, rb) in pairwise(points):
            reach = max(ra, rb) + wall
            box = self.box((np.minimum(a, b) - reach).tolist(), (np.maximum(a, b) + reach).tolist())
            offset = [grid - np.float32(c) for grid, c in zip(self.at(box), a)]
            line = np.subtract(b, a).astype(np.float32)
            share = np.clip(sum(o * c for o, c in zip(offset, line)) / (line @ line), 0, 1)
            gap = np.sqrt(sum(np.square(o - share * c) for o, c in zip(offset, line)))
            yield box, gap - np.float32(ra + wall) - share * np.float32(rb - ra)

    def tube(self, points: Sequence[Vector], hu: float, inside: NDArray[Any] | None = None, wall: float = 0) -> None:
        """Paint a tube, `wall` mm thicker all round, optionally only where `inside` (whole volume) is negative."""
        for box, distance in self.along(points, wall):
            self.paint(distance if inside is None else np.maximum(distance, inside[box]), hu, box)
