"""The outlines of the demo's shapes, as polygons around the origin within a circle of radius 1; y points down."""

import functools

import numpy as np

Polygon = np.ndarray  # [points, 2], float64
"""Corners in order; a polygon after the first one is cut out of it."""


@functools.cache
def outline(shape: str) -> tuple[Polygon, ...]:
    """The polygons of a shape of :data:`pipeline.demo.concepts.SHAPES`; KeyError for any other."""
    return tuple(np.asarray(polygon, dtype=np.float64) for polygon in _OUTLINES[shape]())


def _arc(radius: float, start_deg: float, end_deg: float, *, center: tuple[float, float] = (0.0, 0.0)) -> Polygon:
    angle = np.radians(np.linspace(start_deg, end_deg, 40))
    return np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=1)


def _circle() -> list[Polygon]:
    return [_arc(0.85, 0, 360)]


def _square() -> list[Polygon]:
    return [0.75 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])]


def _triangle() -> list[Polygon]:
    return [np.array([(0, -0.95), (0.95, 0.75), (-0.95, 0.75)])]


def _star() -> list[Polygon]:
    angle = np.radians(np.arange(10) * 36 - 90)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return [np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)]


def _cross() -> list[Polygon]:
    a, b = 0.28, 0.9
    return [
        np.array(
            [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        )
    ]


def _heart() -> list[Polygon]:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled to fit."""
    t = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([x, -y - 2.5], axis=1) / 17]


def _crescent() -> list[Polygon]:
    return [_arc(0.95, 0, 360), _arc(0.78, 0, 360, center=(0.42, -0.12))]


def _ring() -> list[Polygon]:
    return [_arc(0.92, 0, 360), _arc(0.52, 0, 360)]


def _arrow() -> list[Polygon]:
    return [np.array([(-0.95, -0.25), (0.1, -0.25), (0.1, -0.75), (0.98, 0), (0.1, 0.75), (0.1, 0.25), (-0.95, 0.25)])]


def _bolt() -> list[Polygon]:
    return [np.array([(0.25, -1), (-0.6, 0.15), (-0.08, 0.15), (-0.3, 1), (0.6, -0.25), (0.08, -0.25), (0.5, -1)])]


def _flower() -> list[Polygon]:
    angle = np.linspace(0, 2 * np.pi, 80)
    radius = 0.66 + 0.32 * np.cos(5 * angle)
    return [
        np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1),
        _arc(0.2, 0, 360),
    ]


def _house() -> list[Polygon]:
    walls_and_roof = [
        (-0.62, 0.9),
        (-0.62, -0.05),
        (-0.95, -0.05),
        (0, -0.95),
        (0.95, -0.05),
        (0.62, -0.05),
        (0.62, 0.9),
    ]
    door = [(-0.2, 0.9), (-0.2, 0.3), (0.2, 0.3), (0.2, 0.9)]
    return [np.array(walls_and_roof), np.array(door)]


_OUTLINES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "ring": _ring,
    "arrow": _arrow,
    "bolt": _bolt,
    "flower": _flower,
    "house": _house,
}
