"""A scene: a concept, and everything about one picture of it that its caption does not say."""

import colorsys
import dataclasses

import numpy as np

from pipeline.demo.concepts import Concept

# Hue in degrees, saturation and value of each color before jitter. Neighbors lie far enough apart in at least one of
# the three that neither this jitter nor that of near-duplicates turns one color into another.
_HSV = {
    "red": (0, 0.85, 0.85),
    "orange": (28, 0.90, 0.97),
    "yellow": (54, 0.85, 0.95),
    "green": (125, 0.75, 0.60),
    "cyan": (182, 0.75, 0.85),
    "blue": (225, 0.85, 0.80),
    "purple": (277, 0.75, 0.60),
    "pink": (328, 0.45, 0.97),
    "brown": (24, 0.65, 0.42),
    "white": (0, 0.00, 0.97),
}

# How far, in degrees, a background's pattern may be turned: bricks and checks that stand on edge look like others.
_PATTERN_TURN = {"plain": 0, "striped": 90, "dotted": 45, "checked": 20, "wavy": 90, "brick": 12}

_MIN_CONTRAST = 0.22
Rgb = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Scene:
    """One picture before it is drawn. Lengths are shares of the image's side, colors are RGB in 0..1."""

    concept: Concept
    side_px: int
    center: tuple[float, float]
    radius: float
    rotation_deg: float
    color: Rgb
    background: tuple[Rgb, Rgb]
    pattern_period: float
    pattern_turn_deg: float
    pattern_phase: tuple[float, float]
    light_gradient: tuple[float, float]
    noise: float
    jpeg_quality: int


def random_scene(concept: Concept, rng: np.random.Generator) -> Scene:
    """A scene of ``concept`` with position, size, rotation, shades, light, noise and image size drawn from ``rng``."""
    color = _random_color(concept.color, rng)
    turn = _PATTERN_TURN[concept.background]
    return Scene(
        concept=concept,
        side_px=int(rng.integers(64, 121)),
        center=(rng.uniform(0.38, 0.62), rng.uniform(0.38, 0.62)),
        radius=rng.uniform(0.24, 0.36),
        rotation_deg=rng.uniform(-20, 20),
        color=color,
        background=_random_background(color, rng),
        pattern_period=rng.uniform(0.17, 0.26),
        pattern_turn_deg=rng.uniform(-turn, turn),
        pattern_phase=(rng.uniform(), rng.uniform()),
        light_gradient=(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)),
        noise=rng.uniform(0.0, 0.04),
        jpeg_quality=int(rng.integers(80, 96)),
    )


def _random_color(name: str, rng: np.random.Generator) -> Rgb:
    hue, saturation, value = _HSV[name]
    return colorsys.hsv_to_rgb(
        ((hue + rng.uniform(-6, 6)) % 360) / 360,
        min(max(saturation + rng.uniform(-0.07, 0.07), 0.0), 1.0) if saturation else 0.0,
        min(value + rng.uniform(-0.05, 0.05), 1.0),
    )


def _random_background(color: Rgb, rng: np.random.Generator) -> tuple[Rgb, Rgb]:
    """Two nearly gray tones that differ from one another and, where the shape is gray itself, from the shape."""
    gray_shape = max(color) - min(color) < 0.1
    first = rng.uniform(0.1, 0.65 if gray_shape else 0.95)
    step = rng.uniform(_MIN_CONTRAST, 0.4)
    second = first - step if first - step > 0.05 else first + step
    if gray_shape:
        second = min(second, 0.7)
    return _tint(first, rng), _tint(second, rng)


def _tint(lightness: float, rng: np.random.Generator) -> Rgb:
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.12), lightness)
