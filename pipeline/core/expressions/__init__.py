"""Expressions that a setting holds: which pairs to take, what to order them by. Checked before anything runs.

What is asked of them is asked of DuckDB's own parser and binder, of the tree and not of the text. An expression
computes one value from the columns of one row, the same one on every machine and every day, and touches nothing else.
"""

from pipeline.core.expressions.check import check_expression, check_ordering, columns_of, evaluating, type_of

__all__ = ["check_expression", "check_ordering", "columns_of", "evaluating", "type_of"]
