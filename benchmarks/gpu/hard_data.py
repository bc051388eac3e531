"""Unit vectors that are hard for the pair search, in numpy, and the float64 answer to them."""

import numpy as np

from pipeline.graph.forest import Edges, minimum_spanning_forest

T = 0.447
"""The threshold that :func:`boundary` is made for."""


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def boundary(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Pairs at a distance of ``T``, give or take 1e-6 and less. Not for float16, which moves them further."""
    x = unit(rng.normal(size=(rows // 2 + 1, width)))
    other = rng.normal(size=x.shape)
    other = unit(other - (other * x).sum(axis=1, keepdims=True) * x)
    angle = 2 * np.arcsin((T + rng.choice([-1e-6, -1e-7, 0, 1e-7, 1e-6], size=len(x))) / 2)
    y = np.cos(angle)[:, None] * x + np.sin(angle)[:, None] * other
    return np.concatenate([x, y])[:rows].astype(np.float32)


def near_copies(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """A falling spectrum; a third are copies, 0 to 0.6 away from others."""
    found = unit(rng.normal(size=(rows, width)) / np.arange(1, width + 1) ** 0.5)
    copies = rows // 3
    if copies:
        noise = rng.normal(size=(copies, width)) / width**0.5 * rng.uniform(0, 0.6, size=(copies, 1))
        found[-copies:] = unit(found[rng.integers(0, rows - copies, copies)] + noise)
    return found.astype(np.float16)


def crowded(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """One picture over and over, in two places of the matrix, some of it exact repeats; a tenth is something else."""
    found = unit(unit(rng.normal(size=(1, width))) + 0.1 * rng.normal(size=(rows, width)) / width**0.5)
    found[::10] = unit(rng.normal(size=found[::10].shape))
    found[1::7] = found[1 % rows]
    return found.astype(np.float16)


DATA = {"near copies": near_copies, "boundary": boundary, "crowded": crowded}


def near_pairs(vectors: np.ndarray, max_distance: float) -> Edges:
    """All pairs a < b within ``max_distance``, from float64 differences, by brute force where that is short enough:
    a float64 product finds those that may be near, explicit differences decide."""
    wide = vectors.astype(np.float64)
    squares = np.einsum("ij,ij->i", wide, wide)
    parts = []
    for start in range(0, len(wide), 2048):
        block = wide[start : start + 2048]
        squared = squares[start : start + 2048, None] + squares[None, :] - 2 * block @ wide.T
        a, b = np.nonzero(squared <= max_distance**2 + 1e-6)
        parts.append(np.stack([a + start, b])[:, b > a + start])
    a, b = np.concatenate(parts, axis=1)
    distance = np.empty(len(a), np.float32)
    for start in range(0, len(a), 1 << 16):
        part = slice(start, start + (1 << 16))
        difference = wide[a[part]] - wide[b[part]]
        distance[part] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    near = distance <= np.float32(max_distance)
    return Edges(a=a[near], b=b[near], distance=distance[near])


def forest(vectors: np.ndarray, pairs: Edges) -> Edges:
    return minimum_spanning_forest(len(vectors), pairs)
