"""Which functions, classes of expressions and types may stand in an expression, by what DuckDB's catalog says."""

import functools
from typing import Any

from pipeline.core.expressions.tree import column_names, folded, nodes, parse, sandbox

# An allow-list, since a class that a later DuckDB adds is none that was thought of here. Left out are, among others,
# SUBQUERY, WINDOW, STAR, LAMBDA, PARAMETER, DEFAULT and POSITIONAL_REFERENCE.
CLASSES = frozenset(
    (
        *("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR", "CASE", "FUNCTION"),
        *("CAST", "TYPE", "COLLATE"),
    )
)

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


def fault_of_call(node: dict[str, Any], *, own: bool) -> str | None:
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
        if kind == "macro" and not _made_of_consistent(definition, {folded(one) for one in parameters}):
            return f"{name}() does not depend on the row alone, so that it may be another value each time"
    return None


def _made_of_consistent(definition: str, parameters: set[str]) -> bool:
    """Whether a macro computes its value from its parameters, by classes and functions that are allowed."""
    tree = parse(definition).expression
    parts = list(nodes(tree))
    return (
        all(node["class"] in CLASSES for node in parts)
        and all(folded(name) in parameters for name in column_names(tree))
        and not any(fault_of_call(node, own=False) for node in parts if node["class"] == "FUNCTION")
    )


@functools.cache
def _catalog() -> dict[str, list[tuple[str, str | None, list[str], str]]]:
    """All that may be called: kind, stability, parameters and, of a macro, its definition, of each overload by name."""
    query = "SELECT function_name, function_type, stability, parameters, macro_definition FROM duckdb_functions()"
    found: dict[str, list[tuple[str, str | None, list[str], str]]] = {}
    with sandbox() as connection:
        for name, *overload in connection.execute(query).fetchall():
            found.setdefault(name.lower(), []).append(tuple(overload))
    return found


@functools.cache
def types() -> frozenset[str]:
    with sandbox() as connection:
        return frozenset(
            name.lower() for (name,) in connection.execute("SELECT type_name FROM duckdb_types()").fetchall()
        )
