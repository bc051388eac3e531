"""Pictures of the image semantic balance: which threshold, which groups, what was replaced, what it did to concepts."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from assets.page.style import empty, new_figure, percent, render, thousands, title
from assets.page.themes import BLUE, GRAY, ORANGE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GroupPictures = Sequence[Sequence[tuple[bytes, str]]]
"""Per group (encoded image, line of text) of the image that was kept, then of those that it replaced."""

_LINEAR_SIZES = 50
_SHEET_COLUMNS, _SHEET_ROWS = 9, 8
_PAIR_COLUMNS = 4


def threshold_curve(
    sweep: pa.Table, *, threshold: float, removal_rate: float, samples: int, full: Path | None = None
) -> bytes:
    """Share of images that a threshold removes, with the chosen one marked.

    ``sweep``: columns ``threshold`` (Euclidean distance) and ``removal_rate`` in [0, 1], ascending. ``removal_rate`` is
    that of the chosen threshold: it lies below the curve if members far from their center were released.
    """
    figure, axes = new_figure()
    thresholds = sweep["threshold"].to_numpy()
    axes.plot(thresholds, sweep["removal_rate"].to_numpy(), color=BLUE)
    axes.plot([threshold, threshold, 0], [0, removal_rate, removal_rate], color=RED, linewidth=1.2, linestyle="--")
    axes.plot([threshold], [removal_rate], "o", color=RED, markersize=8)
    furthest = max(threshold, *thresholds.tolist())
    axes.set(xlim=(0, furthest * 1.02), ylim=(0, None), xlabel="threshold: Euclidean distance", ylabel="images removed")
    percent(axes.yaxis)
    kept = samples - round(removal_rate * samples)
    title(axes, f"Threshold {threshold:.3g} removes {removal_rate:.1%}: {kept:,} of {samples:,} images stay")
    return render(figure, full)


def group_size_histogram(
    sizes: Sequence[int] | np.ndarray, counts: Sequence[int] | np.ndarray | None = None, *, full: Path | None = None
) -> bytes:
    """How many groups have which size. ``sizes``: of every group; or distinct ones, with ``counts`` groups of each."""
    figure, axes = new_figure()
    if not len(sizes):
        empty(axes, "no groups")
        return render(figure, full)
    if counts is None:
        size, count = np.unique(np.asarray(sizes), return_counts=True)
    else:
        size, count = np.asarray(sizes), np.asarray(counts)
    images = int((size * count).sum())
    axes.plot(size, count, "o", color=BLUE, markersize=6, alpha=0.8, markeredgewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="images in the group", ylabel="groups")
    axes.set_xlim(0.8, max(12, size.max() * 1.5))
    axes.set_ylim(0.7, max(12, count.max() * 2))
    for axis in (axes.xaxis, axes.yaxis):
        thousands(axis)
    single = int(count[size == 1].sum())
    title(
        axes,
        f"{int(count.sum()):,} groups of {images:,} images: {single:,} hold one image, "
        f"the largest {size.max():,} ({size.max() / images:.1%})",
    )
    return render(figure, full)


def group_sheet(groups: GroupPictures, *, full: Path | None = None) -> bytes:
    """One row a group: the image that was kept, framed, then those that it replaced; at most 8 rows of 9 images.

    Raises :class:`PIL.UnidentifiedImageError` for bytes that are no image.
    """
    shown = [group[:_SHEET_COLUMNS] for group in groups[:_SHEET_ROWS]]
    columns = max((len(group) for group in shown), default=0)
    # Not narrower than the title.
    columns = max(columns, 6)
    figure, axes = new_figure(0.4 + 1.15 * columns, 0.7 + 1.35 * max(len(shown), 1))
    if not shown:
        empty(axes, "no group of more than one image")
        return render(figure, full)
    for row, group in enumerate(shown):
        for column, (image, text) in enumerate(group):
            _thumbnail(axes, image, text, place=(column, row), framed=column == 0)
    axes.set(xlim=(-0.05, columns + 0.15), ylim=(len(shown) * 1.2, -0.2))
    axes.set_aspect("equal")
    axes.set_axis_off()
    title(axes, "Images kept (framed), and those they replaced with their distance")
    return render(figure, full)


def pair_sheet(pairs: Sequence[tuple[bytes, bytes, str]], *, found: int, full: Path | None = None) -> bytes:
    """Four pairs a row: a test image, framed, beside it a training image, and below a line of text; ``found`` is the
    number of all pairs, of which these are the nearest.

    Raises :class:`PIL.UnidentifiedImageError` for bytes that are no image.
    """
    rows = -(-len(pairs) // _PAIR_COLUMNS)
    figure, axes = new_figure(0.4 + 2.4 * _PAIR_COLUMNS, 0.7 + 1.35 * max(rows, 1))
    if not pairs:
        empty(axes, "no test image is near to a training image")
        return render(figure, full)
    for number, (test, training, text) in enumerate(pairs):
        row, column = divmod(number, _PAIR_COLUMNS)
        _thumbnail(axes, test, "", place=(2.2 * column, row), framed=True)
        _thumbnail(axes, training, "", place=(2.2 * column + 1, row), framed=False)
        axes.text(2.2 * column + 1.07, 1.2 * row + 0.97, text, ha="center", va="top", fontsize=8, parse_math=False)
    axes.set(xlim=(-0.05, 2.2 * _PAIR_COLUMNS), ylim=(rows * 1.2, -0.2))
    axes.set_aspect("equal")
    axes.set_axis_off()
    shown = f"the nearest {len(pairs):,} of {found:,} pairs" if len(pairs) < found else f"{found:,} pairs"
    title(axes, f"Test images (framed) and training images near to them, with their distance: {shown}")
    return render(figure, full)


def border_sheet(
    under: Sequence[tuple[bytes, bytes, str]],
    over: Sequence[tuple[bytes, bytes, str]],
    *,
    threshold: float,
    full: Path | None = None,
) -> bytes:
    """Pairs just under a threshold, framed, in the upper rows, and pairs just over it below; a line of text for each.

    Raises :class:`PIL.UnidentifiedImageError` for bytes that are no image.
    """
    rows = [
        part[start : start + _PAIR_COLUMNS] for part in (under, over) for start in range(0, len(part), _PAIR_COLUMNS)
    ]
    figure, axes = new_figure(0.4 + 2.4 * _PAIR_COLUMNS, 0.7 + 1.6 * max(len(rows), 1))
    if not rows:
        empty(axes, "no pair is known here")
        return render(figure, full)
    framed = -(-len(under) // _PAIR_COLUMNS)
    for row, pairs in enumerate(rows):
        for column, (left, right, text) in enumerate(pairs):
            for place, image in ((2.2 * column, left), (2.2 * column + 1, right)):
                # Three lines of text need more room between rows than the one of other sheets.
                _thumbnail(axes, image, "", place=(place, 1.2 * row), framed=row < framed)
            axes.text(2.2 * column + 1.07, 1.44 * row + 0.97, text, ha="center", va="top", fontsize=6, parse_math=False)
    axes.set(xlim=(-0.05, 2.2 * _PAIR_COLUMNS), ylim=(len(rows) * 1.44, -0.2))
    axes.set_aspect("equal")
    axes.set_axis_off()
    title(axes, f"Pairs just under {threshold:.4g} (framed), which it joins, and just over, which it leaves apart")
    return render(figure, full)


def _thumbnail(axes: "Axes", data: bytes, text: str, *, place: tuple[float, float], framed: bool) -> None:
    """Draw an image, fitted into a square of side 1 at (column, row), with its text below."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((256, 256))
    side, corner_x, corner_y = 0.94, place[0] + 0.1, 1.2 * place[1]
    width, height = (side * length / max(image.size) for length in image.size)
    left, top = corner_x + (side - width) / 2, corner_y + (side - height) / 2
    axes.imshow(np.asarray(image), extent=(left, left + width, top + height, top), interpolation="lanczos")
    if framed:
        x, y = [left, left + width, left + width, left, left], [top, top, top + height, top + height, top]
        axes.plot(x, y, color=RED, linewidth=2.5, solid_joinstyle="miter")
    axes.text(corner_x + side / 2, corner_y + 0.97, text, ha="center", va="top", fontsize=8)


def concept_distribution(
    before: Sequence[int] | np.ndarray, after: Sequence[int] | np.ndarray, *, full: Path | None = None
) -> bytes:
    """How evenly images are spread over concepts (or clusters) before and after the balance, each ranked by itself.

    ``before``, ``after``: number of images of each concept, in any order. Both are drawn as shares of their own total:
    what counts is the shape, not the size.
    """
    figure, axes = new_figure()
    effective = []
    for counts, label, color in ((before, "before", GRAY), (after, "after", BLUE)):
        ranked = np.sort(np.asarray(counts))[::-1]
        ranked = ranked[ranked > 0]
        shares = ranked / max(ranked.sum(), 1)
        effective.append(float(np.exp(-(shares * np.log(shares)).sum())))
        axes.plot(np.arange(1, len(ranked) + 1), shares, color=color, label=f"{label}: {ranked.sum():,} images")
    axes.set(xscale="log", yscale="log", xlabel="concept, by rank", ylabel="share of the images")
    thousands(axes.xaxis)
    _percent_log(axes.yaxis)
    axes.legend(loc="lower left", frameon=False)
    # The exponential of the entropy: so many equally common concepts would be as diverse.
    title(axes, f"Effective number of concepts: {effective[0]:,.0f} before, {effective[1]:,.0f} after")
    return render(figure, full)


def _percent_log(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    axis.set_minor_formatter(NullFormatter())


def cluster_size_histogram(sizes: Sequence[int] | np.ndarray, *, full: Path | None = None) -> bytes:
    """How many clusters have which size. ``sizes``: number of images of every cluster, empty ones included."""
    figure, axes = new_figure()
    if not len(sizes):
        empty(axes, "no clusters")
        return render(figure, full)
    size = np.asarray(sizes)
    # Whole numbers in a bin each, while these are few; else bins that grow with the size, as sizes spread by orders.
    if size.max() <= _LINEAR_SIZES:
        edges = np.arange(0, size.max() + 2)
    else:
        edges = np.unique(np.geomspace(1, size.max() + 1, _LINEAR_SIZES).round())
        axes.set_xscale("log")
    axes.hist(size, bins=(edges - 0.5).tolist(), color=BLUE, rwidth=0.92)
    axes.axvline(np.median(size), color=ORANGE, linestyle="--", linewidth=1.5, label=f"median {np.median(size):,.0f}")
    axes.set(xlabel="images in the cluster", ylabel="clusters")
    axes.grid(visible=False, axis="x")
    for axis in (axes.xaxis, axes.yaxis):
        thousands(axis)
    axes.legend(loc="upper right", frameon=False)
    vacant = int((size == 0).sum())
    title(axes, f"{len(size):,} clusters of {size.sum():,} images: {vacant:,} empty, the largest {size.max():,}")
    return render(figure, full)
