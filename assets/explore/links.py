"""Where a page leads to: addresses of the server, or names of files beside one another."""

from collections.abc import Sequence
from typing import Protocol

PAGES = ("search", "pairs", "clusters", "download", "leaks", "student")
"""Pages of a name, beside the one of the threshold."""


class Links(Protocol):
    """An address each, or none where there is no such page."""

    live: bool
    """Whether a server answers."""

    def static(self, name: str) -> str: ...
    def page(self, name: str) -> str | None: ...
    def threshold(self, threshold: float | None = None) -> str: ...
    def group(self, image: int, threshold: float) -> str | None: ...
    def image(self, image: int) -> str | None: ...
    def cluster(self, cluster: int) -> str | None: ...
    def copy(self, image: int, kind: str = "thumb") -> str: ...


class LiveLinks:
    """Those of the server."""

    live = True

    def static(self, name: str) -> str:
        return f"/static/{name}"

    def page(self, name: str) -> str | None:
        return f"/{name}"

    def threshold(self, threshold: float | None = None) -> str:
        return "/" if threshold is None else f"/?t={threshold!r}"

    def group(self, image: int, threshold: float) -> str | None:
        return f"/group/{image}?t={threshold!r}"

    def image(self, image: int) -> str | None:
        return f"/image/{image}"

    def cluster(self, cluster: int) -> str | None:
        return f"/cluster/{cluster}"

    def copy(self, image: int, kind: str = "thumb") -> str:
        return f"/{kind}/{image}"


class FileLinks:
    """Files of one folder; what a page has led to is noted, so that it can be written."""

    live = False

    def __init__(self, thresholds: Sequence[float], first: float):
        self.thresholds, self._first = list(thresholds), first
        self.groups: dict[str, tuple[int, float]] = {}
        self.clusters: dict[str, int] = {}
        self.copies: dict[str, tuple[int, str]] = {}

    def static(self, name: str) -> str:
        return name

    def page(self, name: str) -> str | None:
        # To search takes a server.
        return None if name == "search" else f"{name}.html"

    def threshold(self, threshold: float | None = None) -> str:
        if threshold is None or threshold == self._first:
            return "index.html"
        nearest = min(range(len(self.thresholds)), key=lambda number: abs(self.thresholds[number] - threshold))
        return f"threshold-{nearest:03}.html"

    def group(self, image: int, threshold: float) -> str | None:
        name = f"group-{self.threshold(threshold).removesuffix('.html')}-{image}.html"
        self.groups[name] = (image, threshold)
        return name

    def image(self, image: int) -> str | None:
        return None

    def cluster(self, cluster: int) -> str | None:
        name = f"cluster-{cluster}.html"
        self.clusters[name] = cluster
        return name

    def copy(self, image: int, kind: str = "thumb") -> str:
        name = f"thumbs/{image}.jpg"
        self.copies[name] = (image, "thumb")
        return name
