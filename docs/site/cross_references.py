"""Docstrings name things as Sphinx does, ``:class:`Stage```; the site shows such a name as code."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([\w.]+)`")


class CrossReferences(griffe.Extension):
    """Turn roles into code: the last part of the name."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_name, obj.docstring.value)


def _name(match: re.Match[str]) -> str:
    return f"`{match[1].rpartition('.')[2]}`"
