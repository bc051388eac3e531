"""Templates and what all pages share; whatever comes from a root is escaped."""

import functools
from importlib import resources
from typing import Any, Final

from assets.explore.explorer import Explorer
from assets.explore.links import Links
from assets.explore.views import Views

POLICY: Final = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FILES: Final = {"explore.css": "text/css; charset=utf-8", "explore.js": "text/javascript; charset=utf-8"}
"""Static files with their content types."""

PLACEHOLDER: Final = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 160"><rect width="160" height="160" fill="#8882"/>'
    b'<text x="80" y="84" text-anchor="middle" font-family="sans" font-size="13" fill="#888">no image</text></svg>'
)
"""What stands for an image that cannot be shown: an SVG."""


class Pages:
    """HTML of the pages of one opened root, with links of one kind; ``root``: how it is called."""

    def __init__(self, explorer: Explorer, links: Links, root: str):
        self.explorer, self.views = explorer, Views(explorer)
        self._links, self._root, self._environment = links, root, _environment()

    def render(self, template: str, here: str = "", **values: Any) -> str:
        explorer, sections = self.explorer, self.views.sections()
        return str(
            self._environment.get_template(template).render(
                {
                    "links": self._links,
                    "root": self._root,
                    "notes": explorer.tables.notes,
                    "sections": sections,
                    "names": {name for name, _ in sections},
                    "forest": explorer.forest,
                    "reach": explorer.forest.reach if explorer.forest else None,
                    "chosen": explorer.chosen,
                    "searchable": "source_pairs" in explorer.tables,
                    "policy": POLICY.replace("; frame-ancestors 'none'", ""),
                    "here": here,
                    "asked": "",
                    **values,
                }
            )
        )


def static_file(name: str) -> bytes:
    """One of the ``FILES``."""
    return resources.files("assets.explore").joinpath("static", name).read_bytes()


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("assets.explore"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "cut": cut,
        "whole": lambda value: f"{value:,}",
        "number": lambda value: f"{value:.3f}",
        "exact": lambda value: f"{value:.6g}",
        "edge": lambda value: f"{value:.5f}",
        "percent": lambda value: f"{value:.1%}",
        "points": lambda value: f"{100 * value:+.1f}",
    }
    # All of them now: the first page should not wait for it.
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


def cut(text: str | None, longest: int) -> str:
    """In one line, with at most so many characters."""
    line = " ".join((text or "")[: 4 * longest].split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
