"""Scene to pixels."""

import io

import numpy as np
from PIL import Image, ImageDraw

from pipeline.demo.concepts import Concept
from pipeline.demo.outlines import outline
from pipeline.demo.scenes import Rgb, Scene, random_scene

# The shape's mask is drawn this many times larger and averaged down, which smooths its edge.
_OVERSAMPLING = 2


def render(concept: Concept, seed: tuple[int, ...]) -> bytes:
    """A JPEG that shows ``concept`` in a random scene; equal seeds give equal bytes."""
    rng = np.random.default_rng(seed)
    scene = random_scene(concept, rng)
    return jpeg_bytes(draw(scene, rng), scene.jpeg_quality)


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The scene as an RGB image of ``side_px`` by ``side_px``; ``rng`` gives the noise."""
    side = scene.side_px
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    # Channels first until the end: numpy broadcasts an image over three planes much faster than over the last axis.
    first, second, color = (_plane(rgb) for rgb in (*scene.background, scene.color))
    pixels = first + (second - first) * _pattern(scene, x, y)
    pixels += (color - pixels) * _mask(scene)
    pixels *= 1 + scene.light_gradient[0] * (x - 0.5) + scene.light_gradient[1] * (y - 0.5)
    pixels += scene.noise * rng.standard_normal((side, side), dtype=np.float32)
    pixels *= 255
    np.clip(pixels, 0, 255, out=pixels)
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels.astype(np.uint8), 0, 2)))


def jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    """``image`` as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _plane(rgb: Rgb) -> np.ndarray:
    return np.asarray(rgb, dtype=np.float32)[:, None, None]


def _mask(scene: Scene) -> np.ndarray:
    """Coverage of each pixel by the shape, ``[side, side]`` in 0..1."""
    side = scene.side_px * _OVERSAMPLING
    angle = np.radians(scene.rotation_deg)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    for number, polygon in enumerate(outline(scene.concept.shape)):
        corners = (polygon @ turn * scene.radius + scene.center) * side
        pen.polygon(corners.ravel().tolist(), fill=255 if number == 0 else 0)
    return np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.float32) / 255


def _pattern(scene: Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the second background tone each pixel has, ``[side, side]`` in 0..1, from coordinates in 0..1."""
    angle = np.radians(scene.pattern_turn_deg)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    # u and v count periods along the turned axes.
    u = (x * cos + y * sin) / np.float32(scene.pattern_period) + np.float32(scene.pattern_phase[0])
    v = (y * cos - x * sin) / np.float32(scene.pattern_period) + np.float32(scene.pattern_phase[1])
    turn = np.float32(2 * np.pi)
    match scene.concept.background:
        case "plain":
            return np.zeros_like(x)
        case "striped":
            height = np.sin(turn * u)
        case "dotted":
            height = np.cos(turn * u) + np.cos(turn * v) - np.float32(0.5)
        case "checked":
            height = np.float32(2) * np.sin(turn / 2 * u) * np.sin(turn / 2 * v)
        case "wavy":
            height = np.sin(turn * (u + np.float32(0.3) * np.sin(turn / 2 * v)))
        case "brick":
            height = _bricks(u, v)
        case other:
            raise AssertionError(f"no such background: {other}")
    return (np.float32(0.5) + np.float32(2.5) * height).clip(0, 1)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Above 0 on the mortar between bricks two periods long and one high, every other row shifted by half a brick."""
    row = np.floor(v)
    along = (u + row) / 2
    to_joint = 2 * np.minimum(along - np.floor(along), np.ceil(along) - along)
    to_bed = np.minimum(v - row, row + 1 - v)
    return np.float32(0.13) - np.minimum(to_joint, to_bed)
