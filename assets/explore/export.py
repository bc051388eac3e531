"""The same pages as files that lie beside one another, for a web server or a folder that is sent."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from assets.explore.explorer import Explorer
from assets.explore.links import FileLinks
from assets.explore.pages import FILES, Pages, static_file
from pipeline.core.errors import ConfigError

THRESHOLDS = 25
"""Evenly spread ones, beside the first."""


def write_pages(explorer: Explorer, root: str, folder: Path, *, first: float | None = None) -> int:
    """Write ``index.html`` and what it leads to into an empty folder; returns the number of files.

    ``first``: the threshold of the first page, that of the balance by default. Search, pages of single images, and all
    but the largest clusters are left out. Raises :class:`ConfigError` for a threshold beyond the forest.
    """
    start = explorer.default_threshold() if first is None else first
    reach = explorer.forest.reach if explorer.forest else 0.0
    if explorer.forest and not 0 <= start <= reach:
        raise ConfigError(f"--threshold {start:g} is not between 0 and the forest's max_distance {reach:g}")
    grid = sorted({start, *(float(value) for value in np.linspace(0, reach, THRESHOLDS))}) if explorer.forest else []
    links = FileLinks(grid, start)
    pages = Pages(explorer, links, root)
    written = _Folder(folder)
    for name in FILES:
        written.add(name, static_file(name))
    _thresholds(pages, links, written)
    _sections(pages, written)
    for name, (image, threshold) in links.groups.items():
        found = pages.views.group(image, threshold)
        assert found is not None
        written.add(name, pages.render("group.html", "threshold", group=found[0], tree=found[1], threshold=threshold))
    for name, cluster in links.clusters.items():
        of_cluster = pages.views.cluster(cluster)
        assert of_cluster is not None
        written.add(name, pages.render("cluster.html", "clusters", cluster=cluster, found=of_cluster))
    nothing = _no_image()
    for name, (image, kind) in links.copies.items():
        data = explorer.images.copy(image, kind) if explorer.images else None
        written.add(name, nothing if data is None else data)
    return written.count


class _Folder:
    def __init__(self, folder: Path):
        self._folder, self.count = folder, 0

    def add(self, name: str, content: str | bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.count += 1


def _thresholds(pages: Pages, links: FileLinks, written: _Folder) -> None:
    names = [links.threshold(threshold) for threshold in links.thresholds]
    for step, threshold in enumerate(links.thresholds):
        text = pages.render("threshold.html", "threshold", at=pages.views.at(threshold), pages=names, step=step)
        written.add(names[step], text)
    if not names:
        lines = ["There is no near-duplicate forest yet, so there is no threshold to choose."]
        written.add("index.html", pages.render("message.html", heading="A root", lines=lines, text=""))


def _sections(pages: Pages, written: _Folder) -> None:
    views = pages.views
    make: dict[str, Callable[[], dict[str, Any]]] = {
        "pairs": lambda: {"pictures": views.worst_pairs()},
        "clusters": lambda: {"found": views.clusters(0)},
        "download": lambda: {"rows": views.download()},
        "leaks": lambda: {"found": views.leaks()},
        "student": lambda: {"found": views.student()},
    }
    for name, _ in views.sections():
        written.add(f"{name}.html", pages.render(f"{name}.html", name, **make[name]()))


def _no_image() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(buffer, "JPEG")
    return buffer.getvalue()
