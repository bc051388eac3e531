"""A run config as a file: read and checked before anything starts, with the line of whatever is wrong in it."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from assets.settings import Settings, problems
from pipeline.core.errors import ConfigError

_PLACE = ("resources", "settings", "config")
"""Where the settings stand in a run config of Dagster's."""

_Path = tuple[Hashable, ...]


class _Loader(yaml.SafeLoader):
    """YAML as people write it today: ``1e-6`` is a number, ``yes``, ``off`` and ``12:30`` are texts."""


# PyYAML is of YAML 1.1. By first letter: the rules for a plain scalar that begins with it.
_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0].rpartition(":")[2] not in ("bool", "int", "float", "timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), list(_first))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    """``0100`` is a hundred, not an octal number."""
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[1:2] in ("o", "x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_run_config(path: Path) -> Settings:
    """The settings of a run config: ``resources: {settings: {config: ...}}``, as ``profiles/*.yaml`` are.

    Raises :class:`ConfigError` for a file that is no YAML, for keys that stand twice or that Dagster would not know,
    and for settings that are wrong, each with its line.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    lines: dict[_Path, int] = {}
    try:
        node = loader.get_single_node()
        if node is not None:
            _walk(loader, node, (), lines=lines, path=path, seen=set())
        content = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: no YAML: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()
    values = _settings_of(content or {}, lines, path)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        found = [(lines.get(_known((*_PLACE, *place), lines), 1), text) for place, text in problems(error)]
        raise ConfigError("\n".join(f"{path}:{line}: {text}" for line, text in sorted(found))) from error


def as_run_config(settings: Settings) -> str:
    """The run config of settings, all of them spelled out."""
    content: Any = settings.model_dump(mode="json")
    for name in reversed(_PLACE):
        content = {name: content}
    return yaml.safe_dump(content, sort_keys=False, width=110)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a run config."""
    schema = Settings.model_json_schema()
    definitions = schema.pop("$defs", {})
    for name in reversed(_PLACE):
        schema = {"type": "object", "properties": {name: schema}, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "clip-cid run config",
        **schema,
        "$defs": definitions,
    }


def _walk(
    loader: _Loader, node: yaml.Node, place: _Path, *, lines: dict[_Path, int], path: Path, seen: set[yaml.Node]
) -> None:
    """Note the line of every key and item, and refuse a key that stands twice.

    What an alias names is looked at where it stands first: it may hold itself, or be named a billion times over.
    """
    if node in seen:
        return
    seen.add(node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = loader.construct_object(key, deep=True)
            line = key.start_mark.line + 1
            if not isinstance(name, Hashable):
                raise ConfigError(f"{path}:{line}: a key is a text")
            below = (*place, name)
            if below in lines:
                raise ConfigError(f"{path}:{line}: {_dotted(below)} stands twice; first in line {lines[below]}")
            lines[below] = line
            _walk(loader, value, below, lines=lines, path=path, seen=seen)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*place, number)] = item.start_mark.line + 1
            _walk(loader, item, (*place, number), lines=lines, path=path, seen=seen)


def _settings_of(content: Any, lines: dict[_Path, int], path: Path) -> dict[str, Any]:
    place: _Path = ()
    for name in _PLACE:
        if not isinstance(content, dict):
            raise ConfigError(f"{path}:{lines.get(place, 1)}: {_dotted(place) or 'the file'} has to be a mapping")
        strange = [key for key in content if key != name]
        if strange:
            line = lines[(*place, strange[0])]
            raise ConfigError(
                f"{path}:{line}: {_dotted((*place, strange[0]))} is not known here; settings stand under "
                f"{': '.join(_PLACE)}:"
            )
        place, content = (*place, name), content.get(name) or {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}:{lines.get(place, 1)}: {_dotted(place)} has to be a mapping")
    return content


def _known(place: _Path, lines: dict[_Path, int]) -> _Path:
    """The longest beginning of a place that has a line: what is missing has none."""
    while place and place not in lines:
        place = place[:-1]
    return place


def _dotted(place: _Path) -> str:
    return ".".join(str(part) for part in place)
