"""The two styles that are never trained on, OpenMoji and Fluent Emoji (flat), as SVG by code."""

import json
from pathlib import Path
from typing import Any

from benchmarks.emoji.catalog import code_of
from pipeline.core.errors import SourceError

_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="{left} {top} {width} {height}">{body}</svg>'
)


def openmoji(folder: Path) -> dict[str, str]:
    """SVG by code, of a folder of ``<code points>.svg``."""
    return {code_of(path.stem): path.read_text() for path in sorted(folder.glob("*.svg"))}


def iconify(folder: Path) -> dict[str, str]:
    """SVG by code, of an icon set in Iconify's JSON: bodies in ``icons.json``, names by code points in ``chars.json``.

    Raises :class:`SourceError` for a name without an icon, or an alias that does more than mirror.
    """
    icons = json.loads((folder / "icons.json").read_text())
    chars = json.loads((folder / "chars.json").read_text())
    return {code_of(points): _drawing(name, icons, folder) for points, name in sorted(chars.items())}


def _drawing(name: str, icons: dict[str, Any], folder: Path) -> str:
    alias = icons["aliases"].get(name, {"parent": name})
    icon = icons["icons"].get(alias["parent"])
    if icon is None or not alias.keys() <= {"parent", "hFlip"}:
        raise SourceError(f"{folder}: cannot draw {name!r}: {'no such icon' if icon is None else sorted(alias)}")
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    body = icon["body"]
    if alias.get("hFlip"):
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return _SVG.format(left=left, top=top, width=width, height=height, body=body)
