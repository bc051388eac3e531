"""The near-duplicate forest at any threshold: what goes, and which groups there are.

Leaves of the dendrogram stand in a row in which the members of every group that single linkage makes are neighbors
(:mod:`pipeline.graph.dendrogram`), and between two neighbors there is one edge of the forest: the one that brings them
together. So the groups at t are what is left between the gaps that are longer than t, found in one pass over an array.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.core import parquet
from pipeline.core.errors import EmbeddingError
from pipeline.graph.dendrogram import dendrogram
from pipeline.graph.forest import Edges


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """Groups of two or more images at one threshold, by their place in the row of leaves.

    ``start``, ``end`` (G,): the run of leaves. ``length`` (G,): the lengths of a group's edges added up, beyond
    which no two of its images are from each other.
    """

    start: np.ndarray
    end: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    @property
    def size(self) -> np.ndarray:
        return self.end - self.start

    def largest(self, count: int) -> list[int]:
        """Numbers of the groups with most images; of equal ones those that come first."""
        return _first(-self.size, self.start, count)

    def longest(self, count: int) -> list[int]:
        """Numbers of the groups with the greatest ``length``."""
        return _first(-self.length, self.start, count)

    def at(self, place: int) -> int | None:
        """The number of the group that a leaf is in; none if it is alone."""
        number = int(np.searchsorted(self.start, place, side="right")) - 1
        return number if number >= 0 and place < self.end[number] else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forest:
    """A minimum spanning forest of ``images`` images, with pairs up to the distance ``reach``.

    ``ids`` (V,) int64 ascend: the images that have an edge. ``edges`` (E,): between indices into them, by (distance, a,
    b). ``row`` (V,): the index at each place of the row of leaves; ``place`` (V,) the other way around. ``gap`` (V,)
    float32: the edge between a place and the one before it, infinite where no edge joins them.
    """

    images: int
    reach: float
    ids: np.ndarray
    edges: Edges
    row: np.ndarray
    place: np.ndarray
    gap: np.ndarray
    _lengths: np.ndarray

    @classmethod
    def read(cls, path: Path, *, images: int, reach: float) -> Self:
        """Of the table ``near_duplicates``; about 3 µs and 150 bytes an edge."""
        table = parquet.read_table(path, columns=["id_a", "id_b", "distance"])
        a, b, distance = (table[name].to_numpy() for name in table.column_names)
        return cls.of(a, b, distance, images=images, reach=reach)

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray, distance: np.ndarray, *, images: int, reach: float) -> Self:
        """``a``, ``b`` (E,) int64: ids at both ends, ``distance`` (E,) float32, in any order.

        Raises :class:`EmbeddingError` for more images with an edge than there are images.
        """
        order = np.lexsort((b, a, distance))
        ids, ends = np.unique(np.concatenate([a[order], b[order]]), return_inverse=True)
        if len(ids) > images:
            raise EmbeddingError(f"the forest has edges of {len(ids)} images, and there are {images}")
        edges = Edges(a=ends[: len(a)], b=ends[len(a) :], distance=distance[order].astype(np.float32))
        tree = dendrogram(len(ids), edges)
        # An edge lies where the second of the two groups that it joins begins: after the first leaf, unless one of the
        # two is no leaf, whose bounds then say it.
        middle = tree.start + 1
        below = np.flatnonzero(tree.above < len(edges))
        node = tree.above[below]
        middle[node] = np.where(tree.start[below] == tree.start[node], tree.end[below], tree.start[below])
        gap = np.full(len(ids), np.inf, np.float32)
        gap[middle] = edges.distance
        place = np.empty(len(ids), np.int64)
        place[tree.leaves] = np.arange(len(ids))
        lengths = np.cumsum(np.where(np.isfinite(gap), gap, 0), dtype=np.float64)
        return cls(
            images=images, reach=reach, ids=ids, edges=edges, row=tree.leaves, place=place, gap=gap, _lengths=lengths
        )

    def removed(self, threshold: float) -> int:
        """How many images go: an edge within the threshold is one image less. Compared as float32, the stored type."""
        return int(np.searchsorted(self.edges.distance, np.float32(threshold), side="right"))

    def threshold_for(self, share: float) -> float:
        """The smallest threshold that removes this share of the images; the largest known if none does."""
        count = math.ceil(share * self.images)
        if count < 1:
            return 0.0
        return float(self.edges.distance[count - 1]) if count <= len(self.edges) else self.reach

    def groups(self, threshold: float) -> Groups:
        """Those of two or more images."""
        start = np.flatnonzero(self.gap > np.float32(threshold))
        end = np.append(start[1:], len(self.gap))
        several = end - start > 1
        start, end = start[several], end[several]
        return Groups(start=start, end=end, length=self._lengths[end - 1] - self._lengths[start])

    def members(self, start: int, end: int) -> np.ndarray:
        """Ids of a run of leaves, in its order."""
        return np.asarray(self.ids[self.row[start:end]])

    def place_of(self, image: int) -> int | None:
        """Where an image stands in the row of leaves; none if it has no edge."""
        index = int(np.searchsorted(self.ids, image))
        return int(self.place[index]) if index < len(self.ids) and self.ids[index] == image else None

    def border(self, threshold: float, count: int) -> tuple[list[tuple[int, int, float]], list[tuple[int, int, float]]]:
        """The longest edges within a threshold and the shortest beyond it, each from the threshold on."""
        middle = self.removed(threshold)
        under = range(middle - 1, max(middle - 1 - count, -1), -1)
        over = range(middle, min(middle + count, len(self.edges)))
        return self._pairs(under), self._pairs(over)

    def curve(self, points: int) -> list[tuple[float, int]]:
        """``(threshold, removed)`` at evenly spread thresholds from 0 to ``reach``."""
        return [(float(value), self.removed(value)) for value in np.linspace(0, self.reach, points)]

    def _pairs(self, places: Sequence[int]) -> list[tuple[int, int, float]]:
        edges = self.edges
        return [
            (int(self.ids[edges.a[place]]), int(self.ids[edges.b[place]]), float(edges.distance[place]))
            for place in places
        ]


def _first(key: np.ndarray, tie: np.ndarray, count: int) -> list[int]:
    """Numbers of the smallest keys in order; of equal ones those with the smaller ``tie``."""
    # All that are no larger than the last of them: of equals the partition alone would take any.
    last = np.partition(key, count - 1)[count - 1] if len(key) > count else np.inf
    chosen = np.flatnonzero(key <= last)
    return [int(number) for number in chosen[np.lexsort((tie[chosen], key[chosen]))][:count]]
