"""What all pictures share: style, size, and the way from a figure to bytes that Dagster can show.

A picture goes into the run's metadata as a JPEG of at most 100 KB and 1100 px, since metadata is stored in the event
log and shown in a window of 1200 px. The same picture in full is written as PNG if a path is given; within
:func:`for_print` in light and dark, as SVG and PNG, instead.
"""

import base64
import contextlib
import contextvars
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from assets.page.labels import TITLE, settle
from assets.page.themes import BLUE, DARK, GRAY, GREEN, GRID, LIGHT, ORANGE, PURPLE, RED, SKY, recolor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BYTES = 100_000
MAX_WIDTH_PX = 1100

_SERIES = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
# These keep their color in every picture, whichever of them are in it.
_MODELS = {"teacher": GRAY, "student": BLUE, "baseline": ORANGE}

_SCREEN_DPI, _FILE_DPI = 100, 200
# In inches, around each panel.
_PAD_WIDTH, _PAD_HEIGHT = 0.09, 0.07
_QUALITIES = (92, 85, 75, 60)
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
}


def new_figure(width_in: float = 8.0, height_in: float = 4.2, **grid: Any) -> tuple["Figure", Any]:
    """A figure and its axes, drawn by Agg without a window or global state; ``grid`` goes to ``Figure.subplots``."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=_PAD_WIDTH, h_pad=_PAD_HEIGHT)
    with matplotlib.rc_context(cast(Any, _STYLE)):
        figure = Figure(figsize=(min(width_in, MAX_WIDTH_PX / _SCREEN_DPI), height_in), layout=layout)
        FigureCanvasAgg(figure)
        return figure, figure.subplots(**grid)


_PRINTED: contextvars.ContextVar[Path | None] = contextvars.ContextVar("printed", default=None)


@contextlib.contextmanager
def for_print(folder: Path) -> Iterator[None]:
    """While the block lasts, what is drawn is written to ``folder`` alone: of each picture ``NAME-light`` and
    ``NAME-dark``, as ``.svg`` with its text as outlines and as ``.png`` of 200 dots an inch."""
    token = _PRINTED.set(folder)
    try:
        yield
    finally:
        _PRINTED.reset(token)


def print_folder() -> Path | None:
    """The folder of :func:`for_print`, if in such a block."""
    return _PRINTED.get()


def render(figure: "Figure", full: Path | None) -> bytes:
    """The figure as JPEG within those limits; at twice the size to the PNG ``full``, if given, in a new folder too."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A caption in a script that the font lacks is shown as boxes; that is no reason to fail or to warn.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        settle(figure)
        # Drawn once, which takes most of the time: the small one is the large one reduced.
        figure.savefig(buffer, format="png", dpi=_FILE_DPI, facecolor="white")
        if full is not None and print_folder() is not None:
            _print(figure, full)
        elif full is not None:
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_bytes(buffer.getvalue())
    return compress(buffer.getvalue(), width=round(figure.get_figwidth() * _SCREEN_DPI))


def _print(figure: "Figure", full: Path) -> None:
    import matplotlib

    full.parent.mkdir(parents=True, exist_ok=True)
    # Two runs write the same bytes: names within an SVG are drawn from this, and it says no time.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": full.stem}):
        for theme in (LIGHT, DARK):
            recolor(figure, theme)
            name = f"{full.stem}-{theme.name}"
            figure.savefig(full.with_name(f"{name}.svg"), metadata={"Date": None}, facecolor=theme.paper)
            figure.savefig(full.with_name(f"{name}.png"), dpi=_FILE_DPI, facecolor=theme.paper)


def compress(picture: bytes, *, width: int = MAX_WIDTH_PX) -> bytes:
    """Any picture as JPEG of at most ``MAX_BYTES`` and ``width`` pixels across: first by quality, then by size."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    if image.width > width:
        image = image.resize((width, max(1, image.height * width // image.width)), Image.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= MAX_BYTES:
                return buffer.getvalue()
        smaller = (max(1, image.width * 4 // 5), max(1, image.height * 4 // 5))
        image = image.resize(smaller, Image.Resampling.LANCZOS)


def markdown_image(jpeg: bytes, alt: str) -> str:
    """A Markdown image that carries its own data."""
    return f"![{alt}](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"


def model_colors(names: list[str]) -> dict[str, str]:
    """A color for each model or run; those that the pipeline makes have theirs, others take what is left."""
    others = iter(color for color in _SERIES if color not in {_MODELS.get(name) for name in names})
    return {name: _MODELS.get(name) or next(others, RED) for name in names}


def title(axes: "Axes", text: str, *, panel: bool = False) -> None:
    """Title an only plot, or one panel of several."""
    axes.set_title(text, loc="left", fontsize=10 if panel else 12, pad=6 if panel else 10, parse_math=False, gid=TITLE)


def thousands(axis: Any) -> None:
    """Write the whole numbers of an axis as 12,000."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    locator = axis.get_major_locator()
    if isinstance(locator, MaxNLocator):
        locator.set_params(integer=True)


def percent(axis: Any) -> None:
    """Write the numbers of an axis, shares in 0..1, as per cent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0))


def empty(axes: "Axes", text: str) -> None:
    """Say in place of a plot that there is nothing to plot."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GRAY)
