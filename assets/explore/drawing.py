"""Coordinates of the two drawings, which templates make SVG of: the curve of what goes, and the tree of a group."""

import dataclasses
import itertools

import numpy as np

from assets.explore.forest import Forest

WIDTH, HEIGHT = 640, 140
_POINTS = 161
_TREE = 420
ROW = 40
"""Pixels of a leaf of the tree."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """``points``: of an SVG polyline; ``x``, ``y``: of the threshold; ``top``: the share at the upper edge."""

    points: str
    x: float
    y: float
    top: float


def curve(forest: Forest, threshold: float) -> Curve:
    """The share of images that goes, over thresholds."""
    found = forest.curve(_POINTS)
    top = max(found[-1][1], 1)
    reach = forest.reach or 1.0

    def place(value: float, removed: int) -> tuple[float, float]:
        return round(WIDTH * value / reach, 1), round(HEIGHT * (1 - removed / top), 1)

    x, y = place(min(threshold, reach), forest.removed(threshold))
    points = " ".join(f"{a},{b}" for a, b in (place(*point) for point in found))
    return Curve(points=points, x=x, y=y, top=top / max(forest.images, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """A row of the tree: an image, which stands for ``size`` that are joined by shorter edges than are drawn."""

    image: int
    size: int
    y: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """``lines``: x1, y1, x2, y2; ``marks``: x, y and the distance at which two parts are joined."""

    leaves: list[Leaf]
    lines: list[tuple[float, float, float, float]]
    marks: list[tuple[float, float, float]]
    width: int
    height: int
    longest: float


def tree(forest: Forest, start: int, end: int, *, leaves: int = 40) -> Tree:
    """The dendrogram of a run of leaves that is a group; of more than ``leaves`` images the longest edges alone."""
    inner = forest.gap[start + 1 : end]
    # Of equal edges the later ones: any choice of the longest is a cut of the tree, ties are joined at one distance.
    cuts = np.sort(np.argsort(inner, kind="stable")[::-1][: leaves - 1])
    bounds = [start, *(start + 1 + cuts).tolist(), end]
    gaps = inner[cuts].astype(float)
    longest = float(gaps.max(initial=0)) or 1.0
    found = [
        Leaf(image=int(forest.members(first, first + 1)[0]), size=last - first, y=ROW * (number + 0.5))
        for number, (first, last) in enumerate(itertools.pairwise(bounds))
    ]
    lines, marks = [], []
    # Each part is a run of rows: its first and last row know where its line ends.
    top = {number: (leaf.y, 0.0, number, number) for number, leaf in enumerate(found)}
    for number in np.argsort(gaps, kind="stable").tolist():
        x = round(_TREE * float(gaps[number]) / longest, 1)
        upper, lower = top[number], top[number + 1]
        lines += [(upper[1], upper[0], x, upper[0]), (lower[1], lower[0], x, lower[0]), (x, upper[0], x, lower[0])]
        joined = ((upper[0] + lower[0]) / 2, x, upper[2], lower[3])
        marks.append((x, joined[0], float(gaps[number])))
        top[joined[2]] = top[joined[3]] = joined
    return Tree(
        leaves=found,
        lines=lines,
        marks=marks,
        width=_TREE,
        height=ROW * len(found),
        longest=longest if len(gaps) else 0,
    )
