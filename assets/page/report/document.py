"""HTML in which every text is escaped unless it was built here, in one file that asks nothing of anyone."""

import html
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

_PICTURE = re.compile(r"!\[[^\]]*\]\((data:image/jpeg;base64,[A-Za-z0-9+/=]+)\)")
# Beyond the escaping: a browser fetches nothing and runs nothing of this file, whatever stands in it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup that was built here; any other text is escaped."""


def text(value: Any) -> Html:
    """A value as markup: numbers as people write them, anything else escaped."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("")
    if isinstance(value, bool):
        return Html(str(value).lower())
    if isinstance(value, int):
        return Html(f"{value:,}")
    if isinstance(value, float):
        return Html(f"{value:.4g}")
    # What no browser should meet, and what would turn the direction of the text around it.
    printable = "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in str(value))
    return Html(html.escape(printable))


def tag(name: str, *parts: Any, **attributes: str) -> Html:
    """An element around parts; ``class_`` is the attribute ``class``."""
    written = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{''.join(text(part) for part in parts)}</{name}>")


def table(heads: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Html:
    """Columns of numbers, with what is empty in them, are set to the right."""
    rows = [list(row) for row in rows]
    right = [
        any(_is_number(row[place]) for row in rows)
        and all(row[place] is None or _is_number(row[place]) for row in rows)
        for place in range(len(heads))
    ]

    def line(kind: str, cells: Sequence[Any]) -> Html:
        return tag("tr", *(tag(kind, cell, **({"class": "n"} if to else {})) for cell, to in zip(cells, right)))

    body = tag("tbody", *(line("td", row) for row in rows))
    return tag("div", tag("table", tag("thead", line("th", heads)), body), class_="wide")


class Number(Html):
    """What stands in a column of numbers: one that was written out, or a word in its place."""


def number(value: float | None, form: str) -> Number | None:
    """A number in Python's format ``form``; none stays none."""
    return None if value is None else Number(html.escape(format(value, form)))


def picture(markdown: str | None, caption: str) -> Html:
    """A picture as ``style.markdown_image`` makes it; nothing for what is none."""
    found = _PICTURE.fullmatch(markdown or "")
    if not found:
        return Html("")
    shown = Html(f'<img src="{found[1]}" alt="{html.escape(caption)}">')
    return tag("figure", shown, tag("figcaption", caption))


def details(summary: str, *parts: Any) -> Html:
    return tag("details", tag("summary", summary), *parts)


def note(*parts: Any) -> Html:
    return tag("p", *parts, class_="note")


def alarm(*parts: Any) -> Html:
    """What a reader must not miss."""
    return tag("p", *parts, class_="alarm", role="alert")


def section(name: str, title: str, *parts: Any) -> Html:
    return tag("section", tag("h2", title), *parts, id=name)


def page(title: str, *parts: Any) -> str:
    """The whole file, in ASCII: what is not, is written by its number."""
    style = resources.files("assets.page.report").joinpath("report.css").read_text()
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style>"
    )
    body = "\n".join(text(part) for part in parts)
    whole = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'
    return whole.encode("ascii", "xmlcharrefreplace").decode()


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) or (isinstance(value, int | float) and not isinstance(value, bool))
