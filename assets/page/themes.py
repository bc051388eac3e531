"""Colors: a palette that color-blind people can tell apart, and how a finished figure comes to dark paper."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GRAY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#f0e442",
    "#777777",
)
GRID = "#e4e4e4"
_INK, _PAPER = "#000000", "#ffffff"
# The same for small text, which needs more contrast than a line: 4.5 to 1 on white.
_AS_TEXT = {ORANGE: "#8f6300", GREEN: "#007a59", RED: "#b84f00", PURPLE: "#a04c7b", SKY: "#1f75a8", YELLOW: "#756d00"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theme:
    """``colors``: what takes the place of a color of the light theme; others stay."""

    name: str
    paper: str
    colors: Mapping[str, str]


LIGHT = Theme(name="light", paper=_PAPER, colors={})
DARK = Theme(
    name="dark",
    paper="#0d1117",
    colors={
        **{text: color for color, text in _AS_TEXT.items()},
        _PAPER: "#0d1117",
        _INK: "#e6edf3",
        GRID: "#30363d",
        BLUE: "#3d95d6",
        SKY: "#a5d8fb",
        GRAY: "#a0a6ad",
    },
)


def text_color(color: str) -> str:
    """A color of the palette for small text."""
    return _AS_TEXT.get(color, color)


def recolor(figure: "Figure", theme: Theme) -> None:
    """Give everything in a figure that was drawn light the colors of a theme; images keep theirs."""
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    if not theme.colors:
        return
    for axes in figure.axes:
        # Of ticks that are not made yet too.
        axes.tick_params(which="both", colors=theme.colors[_INK], grid_color=theme.colors[GRID])
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(_changed(artist.get_color(), theme))
        elif isinstance(artist, Line2D):
            artist.set_color(_changed(artist.get_color(), theme))
            artist.set_markerfacecolor(_changed(artist.get_markerfacecolor(), theme))
            artist.set_markeredgecolor(_changed(artist.get_markeredgecolor(), theme))
        elif isinstance(artist, Patch):
            artist.set_facecolor(_changed(artist.get_facecolor(), theme))
            artist.set_edgecolor(_changed(artist.get_edgecolor(), theme))
        elif isinstance(artist, Collection):
            artist.set_facecolor([_changed(color, theme) for color in artist.get_facecolor()])
            artist.set_edgecolor([_changed(color, theme) for color in artist.get_edgecolor()])


def _changed(color: Any, theme: Theme) -> Any:
    from matplotlib.colors import to_hex, to_rgba

    if isinstance(color, str) and color == "none":
        return color
    *_, alpha = to_rgba(color)
    known = theme.colors.get(to_hex(color))
    return color if known is None else to_rgba(known, alpha)
