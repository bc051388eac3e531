"""Labels that neither collide nor leave the figure: they are set when all else has its place."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from assets.page.themes import text_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

# By which artists of these kinds are found in a figure.
TITLE, _END = "title", "end of a line"
_PAD_PT = 4.0
_ROUNDS = 3
_LARGEST_PT, _SMALLEST_PT, _UPRIGHT_PT = 8.0, 5.5, 6.5
# Of DejaVu Sans, in sizes of the font, with the room between two labels.
_EM, _EM_OF_A_DIGIT = {".": 0.34, "±": 0.88, "%": 1.0}, 0.68


def end_label(axes: "Axes", x: float, y: float, text: str, *, color: str) -> None:
    """Write a value at the end of a line, right of the axes; :func:`settle` keeps it apart from others there."""
    axes.annotate(
        text,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(_PAD_PT, 0),
        textcoords="offset points",
        va="center",
        color=text_color(color),
        fontsize=8,
        gid=_END,
    )
    axes.plot([x], [y], "o", color=color, markersize=3)


def label_bars(axes: "Axes", bars: "BarContainer", labels: Sequence[str], *, width_pt: float) -> None:
    """Write a label above each bar of ``width_pt`` points, as large as fits; upright where that were too small."""
    lines = [line for label in labels for line in label.split("\n")]
    font = min(width_pt / max((_em(line) for line in lines), default=1), _LARGEST_PT)
    if font >= _SMALLEST_PT:
        axes.bar_label(bars, labels=labels, padding=2, fontsize=font)
    else:
        upright = [label.replace("\n", " ") for label in labels]
        axes.bar_label(bars, labels=upright, padding=2, fontsize=_UPRIGHT_PT, rotation=90)


def _em(text: str) -> float:
    """The width of a number in sizes of its font."""
    return max(sum(_EM.get(sign, _EM_OF_A_DIGIT) for sign in text), _EM_OF_A_DIGIT)


def settle(figure: "Figure") -> None:
    """Find the layout of a figure, move end labels apart and break titles that are too wide for their place; all of it
    stays there, whatever the figure is saved as."""
    # A broken title takes height from its axes, and labels then lie otherwise.
    for _ in range(_ROUNDS):
        figure.draw_without_rendering()
        broken = [_break_title(axes) for axes in figure.axes]
        if not any(broken):
            break
    for axes in figure.axes:
        _part_labels(axes)
    # Each way of saving would look for the layout again.
    figure.set_layout_engine("none")


def _break_title(axes: "Axes") -> bool:
    """To the width of a panel, or of the whole figure where there is no other."""
    from matplotlib.text import Text

    figure = axes.get_figure(root=True)
    assert figure is not None
    title = next((child for child in axes.get_children() if child.get_gid() == TITLE), None)
    if not isinstance(title, Text) or "\n" in title.get_text():
        return False
    extent = title.get_window_extent()
    alone = len([other for other in figure.axes if other.bbox.y0 == axes.bbox.y0]) == 1
    right = figure.bbox.x1 - _pixels(figure, _PAD_PT) if alone else _column_end(axes, figure)
    if extent.x1 <= right:
        return False
    letters = int(len(title.get_text()) * (right - extent.x0) / extent.width)
    title.set_text(textwrap.fill(title.get_text(), max(letters, 10), break_long_words=False))
    return True


def _column_end(axes: "Axes", figure: "Figure") -> float:
    """Where the next column begins, or the figure ends."""
    starts = [other.bbox.x0 for other in figure.axes if other.bbox.x0 > axes.bbox.x1]
    return min(starts, default=figure.bbox.x1) - _pixels(figure, _PAD_PT)


def _part_labels(axes: "Axes") -> None:
    labels = [text for text in axes.texts if text.get_gid() == _END]
    figure = axes.get_figure(root=True)
    if not labels or figure is None:
        return
    extents = [label.get_window_extent() for label in labels]
    wanted = [(extent.y0 + extent.y1) / 2 for extent in extents]
    height = max(extent.height for extent in extents)
    found = spread(wanted, height, low=axes.bbox.y0 + height / 2, high=axes.bbox.y1 - height / 2)
    for label, place, want in zip(labels, found, wanted):
        cast("Annotation", label).xyann = (_PAD_PT, (place - want) / _pixels(figure, 1))


def spread(wanted: Sequence[float], gap: float, *, low: float, high: float) -> list[float]:
    """Places as near as can be to those wanted, in their order, ``gap`` apart, within bounds while there is room.

    Those that would touch become a block around the mean of what they want, and blocks that touch one block.
    """
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    # Blocks of (center, members).
    blocks: list[tuple[float, int]] = []
    for place in order:
        blocks.append((min(max(wanted[place], low), high), 1))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2 - 1e-9:
            (upper, more), (lower, fewer) = blocks.pop(), blocks.pop()
            count = more + fewer
            reach = gap * (count - 1) / 2
            center = (upper * more + lower * fewer) / count
            blocks.append((max(min(center, high - reach), low + reach), count))
    places = [center + gap * (number - (count - 1) / 2) for center, count in blocks for number in range(count)]
    return [places[order.index(place)] for place in range(len(wanted))]


def _pixels(figure: "Figure", points: float) -> float:
    return float(points * figure.dpi / 72)
