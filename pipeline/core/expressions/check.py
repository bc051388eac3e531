"""Whether an expression of a setting is one that may be evaluated, asked before anything runs."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

from pipeline.core.errors import ConfigError, brief
from pipeline.core.expressions.functions import CLASSES, fault_of_call, types
from pipeline.core.expressions.tree import column_names, folded, nodes, parse, sandbox, text_of

_INSTEAD = {
    "SUBQUERY": "a subquery; for a value in a list write `x IN (1, 2)` or list_contains(xs, x)",
    "LAMBDA": "a lambda function (`->`); json_extract(column, '$.name') takes a value out of JSON",
    "WINDOW": "a window function, which looks at other rows",
    "STAR": "`*`, `ALL` or COLUMNS(...); columns are named one by one",
    "PARAMETER": "a parameter of a prepared statement",
}
# Errors that depend on the values of a row: a failed cast, a number out of range, a pattern or format that is none.
_OF_VALUES = (duckdb.DataError, duckdb.InvalidInputException)


def check_expression(text: str, columns: Mapping[str, str], *, what: str) -> None:
    """Refuse what is not one boolean DuckDB expression over ``columns`` (name to DuckDB type), to stand in parentheses.

    Where it is evaluated, ``columns`` must be all that is in scope, of one relation whose name is none of theirs.
    Raises :class:`ConfigError` that names ``what``, the setting, and what was found.
    """
    with _naming(what, text):
        term = parse(text)
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
            tree = parse(text).expression
            _check_tree(tree, columns)
            if not column_names(tree):
                raise ConfigError("it reads no column, so it puts no row before another")
            _bound(columns, behind=f"ORDER BY {text}")
            _check_conditions(tree, columns)
    return [text.strip() for text in terms]


def columns_of(text: str) -> frozenset[str]:
    """The columns that an expression, or a term of an ordering, reads; in lower case, since DuckDB minds no case.

    Raises :class:`ConfigError` if it cannot be parsed.
    """
    return frozenset(folded(name) for name in column_names(parse(text).expression))


def type_of(text: str, *, what: str) -> str:
    """A DuckDB type as DuckDB spells it; :class:`ConfigError` if the text is no type, or more than one."""
    with _naming(what, text):
        term = parse(f"NULL::{text}")
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
            f"{what}: failed on the values of a row: {_said(error)}; TRY_CAST and TRY(...) make a null of what fails"
        ) from error


@contextlib.contextmanager
def _naming(what: str, text: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        shown = text if len(text) <= 200 else f"{text[:200]} ..."
        raise ConfigError(f"{what}: {error}; got {shown!r}") from error


def _check_tree(tree: dict[str, Any], columns: Mapping[str, str]) -> None:
    for node in nodes(tree):
        if node["class"] not in CLASSES:
            kind = _INSTEAD.get(node["class"], node["class"].lower().replace("_", " "))
            raise ConfigError(f"it has {kind}")
        if node["class"] == "TYPE" and node["qualified_name"]["path"][-1].lower() not in types():
            raise ConfigError(f"there is no type {node['qualified_name']['path'][-1]} in DuckDB without an extension")
        if node["class"] == "FUNCTION":
            fault = fault_of_call(node, own=True)
            if fault:
                raise ConfigError(fault)
    for name in column_names(tree):
        found = [column for column in columns if folded(column) == folded(name)]
        if len(found) > 1:
            raise ConfigError(f"{name!r} may be {' or '.join(map(repr, found))}, which differ in case alone")
        if not found:
            raise ConfigError(f"there is no column {name!r}; there are {', '.join(map(repr, columns)) or 'none'}")


def _check_conditions(tree: dict[str, Any], columns: Mapping[str, str]) -> None:
    """What AND, OR, NOT and WHEN join is boolean: DuckDB would take a number other than 0 for true, and cast texts."""
    conditions: list[dict[str, Any]] = []
    for node in nodes(tree):
        if node["class"] == "CONJUNCTION" or node["type"] == "OPERATOR_NOT":
            conditions += node["children"]
        elif node["class"] == "CASE":
            conditions += [check["when_expr"] for check in node["case_checks"]]
    open_ones = [one for one in conditions if one["class"] not in ("COMPARISON", "CONJUNCTION", "BETWEEN")]
    if not open_ones:
        return
    texts = [text_of(one) for one in open_ones]
    for text, kind in zip(texts, _bound(columns, select=", ".join(texts))):
        if kind not in ("BOOLEAN", '"NULL"'):
            raise ConfigError(f"{text} is {kind}, where a condition must stand; compare it with something")


def _bound(columns: Mapping[str, str], *, select: str = "NULL", behind: str = "") -> list[str]:
    """The types of what is selected from one row of nulls of ``columns``; what DuckDB objects to is the error.

    Of nulls, and not of no row: so that a constant that is none of its type (``width > 'x'``) is seen too.
    """
    names = [folded(name) for name in columns]
    # No column has this name. Those that differ in case alone are left out: they were refused if they are read.
    relation = "r" + "_" * max(map(len, names), default=0)
    fields = [
        f"CAST(NULL AS {kind}) AS {_quoted(name)}" for name, kind in columns.items() if names.count(folded(name)) == 1
    ]
    with sandbox() as connection:
        try:
            # A table, and not a subquery, whose constants DuckDB does not compare row by row.
            nulls = ", ".join([f"NULL AS {relation}", *fields])
            connection.execute(f"CREATE TEMPORARY TABLE {relation} AS SELECT {nulls}")
            result = connection.sql(f"SELECT {select} FROM {relation} {behind}")
            result.fetchall()
            return [str(kind) for kind in result.types]
        except duckdb.Error as error:
            raise ConfigError(_said(error)) from error


def _said(error: duckdb.Error) -> str:
    """What DuckDB says, without the query that it shows beneath."""
    return brief(error).partition(" LINE ")[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
