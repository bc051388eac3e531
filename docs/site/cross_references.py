"""Docstrings name things as Sphinx does, ``:class:`Stage```; the site links them its own way."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([\w.]+)`")


class CrossReferences(griffe.Extension):
    """Turn roles into links of mkdocs-autorefs, where a name is whole, else into code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_link, obj.docstring.value)


def _link(match: re.Match[str]) -> str:
    return f"`{match[1].rpartition('.')[2]}`"
