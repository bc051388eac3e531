"""What DuckDB's parser makes of an expression: a tree, which is looked at in place of the text."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Any

import duckdb

from pipeline.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of an ORDER BY, parsed; an expression alone is one without ``direction``."""

    expression: dict[str, Any]
    directed: bool


def parse(text: str) -> Term:
    """One term of an ORDER BY, which can be put into parentheses or before a comma as it is.

    Parsed by itself, it must be one term; followed by a comma and one more, two. So it neither ends the query that it
    stands in nor leaves a comment open nor brings a clause with it.
    """
    if not text.strip() or "\0" in text:
        raise ConfigError("it is empty" if not text.strip() else "it holds a NUL character")
    terms, more = _orders(text), _orders(f"{text}, NULL")
    if len(terms) != 1 or len(more) != 2:
        raise ConfigError("it must be one expression, without a comment at its end")
    order = terms[0]
    directed = (order["type"], order["null_order"]) != ("ORDER_DEFAULT", "ORDER_DEFAULT")
    return Term(order["expression"], directed)


def _orders(text: str) -> list[dict[str, Any]]:
    """What the parser makes of ``ORDER BY text``: all terms, and nothing but terms."""
    statements = serialized(f"SELECT NULL ORDER BY {text}")
    (reference,) = serialized("SELECT NULL ORDER BY NULL")
    modifiers = statements[0]["node"].get("modifiers", []) if len(statements) == 1 else []
    if len(modifiers) != 1 or modifiers[0].keys() != reference["node"]["modifiers"][0].keys():
        raise ConfigError("it must be one expression, and no statement or clause beside it")
    orders: list[dict[str, Any]] = modifiers[0]["orders"]
    # Parameters stand beside the node; they are refused by their class, which says more.
    if statements[0]["node"] | {"modifiers": None} != reference["node"] | {"modifiers": None}:
        raise ConfigError("it must be one expression, and no statement or clause beside it")
    return orders


def serialized(query: str) -> list[dict[str, Any]]:
    options = "skip_default := true, skip_null := true, skip_empty := true"
    with sandbox() as connection:
        row = connection.execute(f"SELECT json_serialize_sql(?::VARCHAR, {options})", [query]).fetchone()
    try:
        tree = json.loads(row[0] if row else "{}")
    except RecursionError as error:
        raise ConfigError("it is nested too deeply") from error
    if tree["error"]:
        raise ConfigError(f"it is no expression: {' '.join(str(tree['error_message']).split())}")
    statements: list[dict[str, Any]] = tree["statements"]
    return statements


def text_of(tree: dict[str, Any]) -> str:
    """An expression as DuckDB writes it."""
    (statement,) = serialized("SELECT NULL")
    whole = {"error": False, "statements": [{"node": statement["node"] | {"select_list": [tree]}}]}
    with sandbox() as connection:
        row = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(whole)]).fetchone()
    return str(row[0] if row else "").removeprefix("SELECT ")


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression of a tree, wherever it stands in it; without recursion, as sums of many terms nest deeply."""
    left = [tree]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "class" in value:
                yield value
            left += reversed(value.values())
        elif isinstance(value, list):
            left += reversed(value)


def column_names(tree: dict[str, Any]) -> list[str]:
    """The first name of each column reference; what follows are fields of a struct."""
    return [node["column_names"][0] for node in nodes(tree) if node["class"] == "COLUMN_REF"]


def folded(name: str) -> str:
    """As DuckDB compares names: A to Z like a to z, and no other letter like another."""
    return name.encode().lower().decode()


@contextlib.contextmanager
def sandbox() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection from which nothing can be reached: no file, no network, no extension.

    Without the optimizer, which would reason from nulls being all that there is, and not see what is wrong with others.
    """
    with _database().cursor() as connection:
        connection.execute("PRAGMA disable_optimizer")
        yield connection


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": "1", "autoload_known_extensions": "false"})
    connection.execute("SET autoinstall_known_extensions = false")
    # DuckDB does not let it be turned on again.
    connection.execute("SET enable_external_access = false")
    return connection
