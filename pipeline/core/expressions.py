"""Expressions that a setting holds: which pairs to take, what to order them by. Checked before anything runs.

What is asked of them is asked of DuckDB's own parser and binder, of the tree and not of the text. An expression
computes one value from the columns of one row, the same one on every machine and every day, and touches nothing else.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

from pipeline.core.errors import ConfigError, brief

# An allow-list, since a class that a later DuckDB adds is none that was thought of here. Left out are, among others,
# SUBQUERY, WINDOW, STAR, LAMBDA, PARAMETER, DEFAULT and POSITIONAL_REFERENCE.
_CLASSES = frozenset(
    (
        *("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR", "CASE", "FUNCTION"),
        *("CAST", "TYPE", "COLLATE"),
    )
)
_INSTEAD = {
    "SUBQUERY": "a subquery; for a value in a list write `x IN (1, 2)` or list_contains(xs, x)",
    "LAMBDA": "a lambda function (`->`); json_extract(column, '$.name') takes a value out of JSON",
    "WINDOW": "a window function, which looks at other rows",
    "STAR": "`*`, `ALL` or COLUMNS(...); columns are named one by one",
    "PARAMETER": "a parameter of a prepared statement",
}
# Functions are taken by what DuckDB's catalog says of them: scalar, and consistent (not volatile, not dependent on the
# query), or a macro made of such. These are called consistent there and are not, or reach beyond the row:
_REFUSED = dict.fromkeys(("age", "current_localtime", "current_localtimestamp"), "reads the clock")
# One of those samples at random (reservoir_quantile). list_max, list_sum and the like are macros, and stand.
_REFUSED |= dict.fromkeys(
    ("aggregate", "array_aggr", "array_aggregate", "list_aggr", "list_aggregate"),
    "calls an aggregate named by a text; use list_max, list_sum, list_avg and the like",
)
# To plan a query, DuckDB opens the files that it names.
_REFUSED["json_serialize_plan"] = "plans a query of its own"

_KINDS = {
    "aggregate": "an aggregate, which looks at other rows",
    "window": "a window function, which looks at other rows",
    "table": "a table function",
    "table_macro": "a table function",
    "pragma": "a pragma",
}
# Errors that depend on the values of a row: a failed cast, a number out of range, a pattern or format that is none.
_OF_VALUES = (duckdb.DataError, duckdb.InvalidInputException)


@dataclasses.dataclass(frozen=True)
class _Term:
    """One term of an ORDER BY, parsed; an expression alone is one without ``direction``."""

    expression: dict[str, Any]
    directed: bool


def check_expression(text: str, columns: Mapping[str, str], *, what: str) -> None:
    """Refuse what is not one boolean DuckDB expression over ``columns`` (name to DuckDB type), to stand in parentheses.

    Where it is evaluated, ``columns`` must be all that is in scope, of one relation whose name is none of theirs.
    Raises :class:`ConfigError` that names ``what``, the setting, and what was found.
    """
    with _naming(what, text):
        term = _parse(text)
        if term.directed:
            raise ConfigError("ASC, DESC and NULLS order rows, and no order is asked for here")
        _check_tree(term.expression, columns)
        (found,) = _bound(columns, select=f"({text})")
        if found != "BOOLEAN":
            raise ConfigError(f"the result is {found}, not BOOLEAN; compare it with something")
        _check_conditions(term.expression, columns)


def check_ordering(terms: Sequence[str], columns: Mapping[str, str], *, what: str) -> list[str]:
    """The terms, each ``expression [ASC|DESC] [NULLS FIRST|LAST]``, to stand behind ORDER BY, joined by commas.

    Ascending and with nulls last where a term does not say. Raises :class:`ConfigError` as :func:`check_expression`.
    """
    for text in terms:
        with _naming(what, text):
            tree = _parse(text).expression
            _check_tree(tree, columns)
            if not _columns(tree):
                raise ConfigError("it reads no column, so it puts no row before another")
            _bound(columns, behind=f"ORDER BY {text}")
            _check_conditions(tree, columns)
    return [text.strip() for text in terms]


def columns_of(text: str) -> frozenset[str]:
    """The columns that an expression, or a term of an ordering, reads; in lower case, since DuckDB minds no case.

    Raises :class:`ConfigError` if it cannot be parsed.
    """
    return frozenset(_folded(name) for name in _columns(_parse(text).expression))


def type_of(text: str, *, what: str) -> str:
    """A DuckDB type as DuckDB spells it; :class:`ConfigError` if the text is no type, or more than one."""
    with _naming(what, text):
        term = _parse(f"NULL::{text}")
        tree = term.expression
        if term.directed or tree["class"] != "CAST" or tree["child"]["class"] != "CONSTANT":
            raise ConfigError("this is no type, such as DOUBLE or VARCHAR[]")
        _check_tree(tree, {})
        return _bound({}, select=f"CAST(NULL AS {text})")[0]


@contextlib.contextmanager
def evaluating(what: str) -> Iterator[None]:
    """Errors that come of the values of a row, such as a cast that fails, are raised as those of a setting."""
    try:
        yield
    except _OF_VALUES as error:
        raise ConfigError(
            f"{what}: failed on the values of a row: {brief(error)}; TRY_CAST and TRY(...) make a null of what fails"
        ) from error


@contextlib.contextmanager
def _naming(what: str, text: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        shown = text if len(text) <= 200 else f"{text[:200]} ..."
        raise ConfigError(f"{what}: {error}; got {shown!r}") from error


def _parse(text: str) -> _Term:
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
    return _Term(order["expression"], directed)


def _orders(text: str) -> list[dict[str, Any]]:
    """What the parser makes of ``ORDER BY text``: all terms, and nothing but terms."""
    statements = _serialized(f"SELECT NULL ORDER BY {text}")
    (reference,) = _serialized("SELECT NULL ORDER BY NULL")
    modifiers = statements[0]["node"].get("modifiers", []) if len(statements) == 1 else []
    if len(modifiers) != 1 or modifiers[0].keys() != reference["node"]["modifiers"][0].keys():
        raise ConfigError("it must be one expression, and no statement or clause beside it")
    orders: list[dict[str, Any]] = modifiers[0]["orders"]
    # Parameters stand beside the node; they are refused by their class, which says more.
    if statements[0]["node"] | {"modifiers": None} != reference["node"] | {"modifiers": None}:
        raise ConfigError("it must be one expression, and no statement or clause beside it")
    return orders


def _serialized(query: str) -> list[dict[str, Any]]:
    options = "skip_default := true, skip_null := true, skip_empty := true"
    with _sandbox() as connection:
        row = connection.execute(f"SELECT json_serialize_sql(?::VARCHAR, {options})", [query]).fetchone()
    try:
        tree = json.loads(row[0] if row else "{}")
    except RecursionError as error:
        raise ConfigError("it is nested too deeply") from error
    if tree["error"]:
        raise ConfigError(f"it is no expression: {' '.join(str(tree['error_message']).split())}")
    statements: list[dict[str, Any]] = tree["statements"]
    return statements


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
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


def _columns(tree: dict[str, Any]) -> list[str]:
    """The first name of each column reference; what follows are fields of a struct."""
    return [node["column_names"][0] for node in _nodes(tree) if node["class"] == "COLUMN_REF"]


def _folded(name: str) -> str:
    """As DuckDB compares names: A to Z like a to z, and no other letter like another."""
    return name.encode().lower().decode()


def _check_tree(tree: dict[str, Any], columns: Mapping[str, str]) -> None:
    for node in _nodes(tree):
        if node["class"] not in _CLASSES:
            kind = _INSTEAD.get(node["class"], node["class"].lower().replace("_", " "))
            raise ConfigError(f"it has {kind}")
        if node["class"] == "TYPE" and node["qualified_name"]["path"][-1].lower() not in _types():
            raise ConfigError(f"there is no type {node['qualified_name']['path'][-1]} in DuckDB without an extension")
        if node["class"] == "FUNCTION":
            fault = _fault_of_call(node, own=True)
            if fault:
                raise ConfigError(fault)
    for name in _columns(tree):
        found = [column for column in columns if _folded(column) == _folded(name)]
        if len(found) > 1:
            raise ConfigError(f"{name!r} may be {' or '.join(map(repr, found))}, which differ in case alone")
        if not found:
            raise ConfigError(f"there is no column {name!r}; there are {', '.join(map(repr, columns)) or 'none'}")


def _check_conditions(tree: dict[str, Any], columns: Mapping[str, str]) -> None:
    """What AND, OR, NOT and WHEN join is boolean: DuckDB would take a number other than 0 for true, and cast texts."""
    conditions: list[dict[str, Any]] = []
    for node in _nodes(tree):
        if node["class"] == "CONJUNCTION" or node["type"] == "OPERATOR_NOT":
            conditions += node["children"]
        elif node["class"] == "CASE":
            conditions += [check["when_expr"] for check in node["case_checks"]]
    open_ones = [one for one in conditions if one["class"] not in ("COMPARISON", "CONJUNCTION", "BETWEEN")]
    if not open_ones:
        return
    texts = [_text(one) for one in open_ones]
    for text, kind in zip(texts, _bound(columns, select=", ".join(texts))):
        if kind not in ("BOOLEAN", '"NULL"'):
            raise ConfigError(f"{text} is {kind}, where a condition must stand; compare it with something")


def _text(tree: dict[str, Any]) -> str:
    """An expression as DuckDB writes it."""
    (statement,) = _serialized("SELECT NULL")
    whole = {"error": False, "statements": [{"node": statement["node"] | {"select_list": [tree]}}]}
    with _sandbox() as connection:
        row = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(whole)]).fetchone()
    return str(row[0] if row else "").removeprefix("SELECT ")


def _fault_of_call(node: dict[str, Any], *, own: bool) -> str | None:
    """Why a function may not be called; ``own``: by the setting itself, not by a macro of DuckDB's."""
    path = node["qualified_name"]["path"]
    name = path[-1].lower()
    if own and len(path) > 1:
        return f"{'.'.join(path)}() is not called by its name alone; write {path[-1]}(...)"
    if own and (name in _REFUSED or name.startswith("__")):
        return f"{name}() {_REFUSED.get(name, 'is internal to DuckDB')}"
    return _fault_of_function(name)


@functools.cache
def _fault_of_function(name: str) -> str | None:
    overloads = _catalog().get(name, [])
    if not overloads:
        return f"there is no function {name}() in DuckDB without an extension"
    callable_here = [one for one in overloads if one[0] in ("scalar", "macro")]
    others = [_KINDS[kind] for kind, *_ in overloads if kind in ("aggregate", "window") or not callable_here]
    if others:
        return f"{name}() is {others[0]}"
    for kind, stability, parameters, definition in callable_here:
        if kind == "scalar" and stability != "CONSISTENT":
            return f"{name}() does not depend on the row alone, so that it may be another value each time"
        if kind == "macro" and not _made_of_consistent(definition, {_folded(one) for one in parameters}):
            return f"{name}() does not depend on the row alone, so that it may be another value each time"
    return None


def _made_of_consistent(definition: str, parameters: set[str]) -> bool:
    """Whether a macro computes its value from its parameters, by classes and functions that are allowed."""
    tree = _parse(definition).expression
    nodes = list(_nodes(tree))
    return (
        all(node["class"] in _CLASSES for node in nodes)
        and all(_folded(name) in parameters for name in _columns(tree))
        and not any(_fault_of_call(node, own=False) for node in nodes if node["class"] == "FUNCTION")
    )


@functools.cache
def _catalog() -> dict[str, list[tuple[str, str | None, list[str], str]]]:
    """All that may be called: kind, stability, parameters and, of a macro, its definition, of each overload by name."""
    query = "SELECT function_name, function_type, stability, parameters, macro_definition FROM duckdb_functions()"
    found: dict[str, list[tuple[str, str | None, list[str], str]]] = {}
    with _sandbox() as connection:
        for name, *overload in connection.execute(query).fetchall():
            found.setdefault(name.lower(), []).append(tuple(overload))
    return found


@functools.cache
def _types() -> frozenset[str]:
    with _sandbox() as connection:
        return frozenset(
            name.lower() for (name,) in connection.execute("SELECT type_name FROM duckdb_types()").fetchall()
        )


def _bound(columns: Mapping[str, str], *, select: str = "NULL", behind: str = "") -> list[str]:
    """The types of what is selected from one row of nulls of ``columns``; what DuckDB objects to is the error.

    Of nulls, and not of no row: so that a constant that is none of its type (``width > 'x'``) is seen too.
    """
    folded = [_folded(name) for name in columns]
    # No column has this name. Those that differ in case alone are left out: they were refused if they are read.
    relation = "r" + "_" * max(map(len, folded), default=0)
    fields = [
        f"CAST(NULL AS {kind}) AS {_quoted(name)}" for name, kind in columns.items() if folded.count(_folded(name)) == 1
    ]
    with _sandbox() as connection:
        try:
            # A table, and not a subquery, whose constants DuckDB does not compare row by row.
            nulls = ", ".join([f"NULL AS {relation}", *fields])
            connection.execute(f"CREATE TEMPORARY TABLE {relation} AS SELECT {nulls}")
            result = connection.sql(f"SELECT {select} FROM {relation} {behind}")
            result.fetchall()
            return [str(kind) for kind in result.types]
        except duckdb.Error as error:
            raise ConfigError(brief(error).partition(" LINE 1:")[0]) from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def _sandbox() -> Iterator[duckdb.DuckDBPyConnection]:
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
