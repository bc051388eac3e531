"""Pictures of the image semantic balance: which threshold, which groups, what was replaced, what it did to concepts."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assets.plots import BLUE, GREY, ORANGE, RED, empty, new_figure, percent, render, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GroupPictures = Sequence[tuple[bytes, Sequence[tuple[bytes, float]]]]
"""Per group the encoded centre image and what it replaced: (encoded image, distance to the centre)."""

_CURVE_POINTS = 600
_SHEET_COLUMNS, _SHEET_ROWS = 9, 8


def threshold_curve(distances: np.ndarray, samples: int, *, chosen: float, png: Path | None = None) -> bytes:
    """Share of images that a threshold removes, with the chosen one marked.

    ``distances``: lengths of the forest's edges, ascending; ``samples``: number of images N. Each edge joins two
    groups, so a threshold removes as many images as there are edges up to it.
    """
    figure, axes = new_figure()
    furthest = max(float(distances[-1]) if len(distances) else 0.0, chosen)
    grid = np.linspace(0, furthest * 1.02, _CURVE_POINTS)
    axes.plot(grid, np.searchsorted(distances, grid, side="right") / max(samples, 1), color=BLUE)
    removed = int(np.searchsorted(distances, chosen, side="right"))
    share = removed / max(samples, 1)
    axes.plot([chosen, chosen, 0], [0, share, share], color=RED, linewidth=1.2, linestyle="--")
    axes.plot([chosen], [share], "o", color=RED, markersize=8)
    axes.set(xlim=(0, grid[-1]), ylim=(0, None), xlabel="threshold: Euclidean distance", ylabel="images removed")
    percent(axes.yaxis)
    axes.set_title(f"Threshold {chosen:.3g} removes {share:.1%}: {samples - removed:,} of {samples:,} images stay")
    return render(figure, png)


def group_size_histogram(sizes: Sequence[int], groups: Sequence[int], *, png: Path | None = None) -> bytes:
    """How many groups have which size. ``sizes``: distinct group sizes; ``groups``: number of groups of each."""
    figure, axes = new_figure()
    if not len(sizes):
        empty(axes, "no groups")
        return render(figure, png)
    size, count = np.asarray(sizes), np.asarray(groups)
    images = int((size * count).sum())
    axes.plot(size, count, "o", color=BLUE, markersize=6, alpha=0.8, markeredgewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="images in the group", ylabel="groups")
    axes.set_xlim(0.8, max(12, size.max() * 1.5))
    axes.set_ylim(0.7, max(12, count.max() * 2))
    for axis in (axes.xaxis, axes.yaxis):
        thousands(axis)
    single = int(count[size == 1].sum())
    axes.set_title(
        f"{int(count.sum()):,} groups of {images:,} images: {single:,} hold one image, "
        f"the largest {size.max():,} ({size.max() / images:.1%})"
    )
    return render(figure, png)


def group_sheet(groups: GroupPictures, *, png: Path | None = None) -> bytes:
    """One row a group: the image that was kept, then images that it replaced, with their distance to it.

    At most ``8`` rows of ``9`` images are shown. Raises :class:`PIL.UnidentifiedImageError` for other bytes.
    """
    shown = groups[:_SHEET_ROWS]
    columns = min(_SHEET_COLUMNS, 1 + max((len(members) for _, members in shown), default=0))
    figure, axes = new_figure(0.4 + 1.15 * max(columns, 4), 0.7 + 1.35 * max(len(shown), 1))
    if not shown:
        empty(axes, "no group of more than one image")
        return render(figure, png)
    for row, (centre, members) in enumerate(shown):
        hidden = len(members) - (columns - 1)
        _thumbnail(axes, centre, 0, row, f"kept, group of {len(members) + 1:,}", RED)
        for column, (member, distance) in enumerate(members[: columns - 1], start=1):
            more = f"{distance:.3f}, +{hidden:,} more" if column == columns - 1 and hidden > 0 else f"{distance:.3f}"
            _thumbnail(axes, member, column, row, more)
    axes.set(xlim=(-0.05, max(columns, 4) + 0.15), ylim=(len(shown) * 1.2, -0.2))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title("Images kept (first column) and those they replaced, with distance to the kept one")
    return render(figure, png)


def _thumbnail(axes: "Axes", data: bytes, column: int, row: int, text: str, frame: str | None = None) -> None:  # noqa: PLR0917
    """Draw an image, fitted into a square of side 1, with its caption below."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
        image.thumbnail((256, 256))
    side = 0.94
    width, height = (side * length / max(image.size) for length in image.size)
    left, top = column + 0.1 + (side - width) / 2, 1.2 * row + (side - height) / 2
    axes.imshow(np.asarray(image), extent=(left, left + width, top + height, top), interpolation="lanczos")
    if frame:
        corners = [left, left + width, left + width, left, left], [top, top, top + height, top + height, top]
        axes.plot(*corners, color=frame, linewidth=2.5, solid_joinstyle="miter")
    axes.text(column + 0.1 + side / 2, 1.2 * row + 0.97, text, ha="center", va="top", fontsize=7.5)


def concept_distribution(before: Sequence[int], after: Sequence[int], *, png: Path | None = None) -> bytes:
    """How evenly images are spread over concepts (or clusters) before and after the balance, each ranked by itself.

    ``before``, ``after``: number of images of each concept, in any order. Both are drawn as shares of their own total:
    what counts is the shape, not the size.
    """
    figure, axes = new_figure()
    numbers = []
    for counts, label, colour in ((before, "before", GREY), (after, "after", BLUE)):
        ranked = np.sort(np.asarray(counts))[::-1]
        ranked = ranked[ranked > 0]
        numbers.append(_evenness(ranked))
        shares = ranked / max(ranked.sum(), 1)
        axes.plot(np.arange(1, len(ranked) + 1), shares, color=colour, label=f"{label}: {ranked.sum():,} images")
    axes.set(xscale="log", yscale="log", xlabel="concept, by rank", ylabel="share of the images")
    thousands(axes.xaxis)
    _percent_log(axes.yaxis)
    axes.legend(loc="lower left")
    axes.set_title(
        f"The commonest tenth of the concepts holds {numbers[0]:.0%} of the images before, {numbers[1]:.0%} after"
    )
    return render(figure, png)


def _evenness(ranked: np.ndarray) -> float:
    """Share of the images in the commonest tenth of the concepts; 0.1 if all are equally common."""
    return float(ranked[: -(-len(ranked) // 10)].sum() / max(ranked.sum(), 1))


def _percent_log(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axis.set_minor_formatter(NullFormatter())


def cluster_size_histogram(sizes: Sequence[int], *, png: Path | None = None) -> bytes:
    """How many clusters have which size. ``sizes``: number of images of every cluster, empty ones included."""
    figure, axes = new_figure()
    if not len(sizes):
        empty(axes, "no clusters")
        return render(figure, png)
    size = np.asarray(sizes)
    # Whole numbers belong into one bin each, or into bins that hold equally many of them.
    step = max(1, -(-int(size.max() + 1) // 60))
    axes.hist(size, bins=np.arange(0, size.max() + step + 1, step) - 0.5, color=BLUE, rwidth=0.92)
    axes.axvline(np.median(size), color=ORANGE, linestyle="--", linewidth=1.5, label=f"median {np.median(size):,.0f}")
    axes.set(xlabel="images in the cluster", ylabel="clusters")
    axes.grid(visible=False, axis="x")
    for axis in (axes.xaxis, axes.yaxis):
        thousands(axis)
    axes.legend(loc="upper right")
    axes.set_title(
        f"{len(size):,} clusters of {size.sum():,} images: {int((size == 0).sum()):,} empty, the largest {size.max():,}"
    )
    return render(figure, png)
