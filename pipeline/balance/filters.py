"""Pairs that are left out before the balance: those that ``where`` is not true for, and images of evaluation sets.

An image goes when not one of its pairs is left, and then it is as if it had never been there: images that were joined
through it alone are joined no more. Where that cannot be read off the forest, pairs are searched anew among the images
of the groups that it was in.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from pipeline.balance.facts import columns_of_facts, require_unambiguous
from pipeline.balance.rules.base import Problem
from pipeline.core import query
from pipeline.core.errors import ConfigError
from pipeline.core.expressions import check_expression, evaluating
from pipeline.neighbors import forest_without


def filter_pairs(connection: duckdb.DuckDBPyConnection, where: str | None, leaks: Sequence[Path]) -> None:
    """Make the tables ``filtered`` (``sample_id, image_id, reason``) and ``filtered_images``, and the view
    ``pairs_left``; needs ``pairs``, ``facts`` and ``blocked``.

    Raises :class:`ConfigError` for an expression that is none, and one that leaves nothing.
    """
    connection.execute("CREATE TEMP TABLE filtered (sample_id BIGINT, image_id BIGINT, reason VARCHAR)")
    if where is not None:
        check_expression(where, columns_of_facts(connection), what="balance.where")
        require_unambiguous(connection, [where], what="balance.where")
        text = query.sql("pipeline.balance", "filter").format(expression=where)
        with evaluating("balance.where"):
            connection.execute(text, {"reason": f"where: {where}"})
    if leaks:
        query.view(connection, "leaks", list(leaks))
        connection.execute(query.sql("pipeline.balance", "filter_leaks"))
    connection.execute(query.sql("pipeline.balance", "filtered_images"))
    connection.execute(
        "CREATE TEMP VIEW pairs_left AS "
        "SELECT * FROM pairs ANTI JOIN filtered USING (sample_id) ANTI JOIN blocked USING (image_id)"
    )
    left = query.one(connection, "SELECT count(*) AS pairs FROM pairs_left", {})
    assert left is not None
    if not left["pairs"]:
        if where is None:
            raise ConfigError("balance: nothing is left, all images are blocked or leaks of evaluation sets")
        raise ConfigError(f"balance.where: nothing is left for which this is true: {where}")


def forest_of_the_rest(problem: Problem, forest: Path) -> Path:
    """The near-duplicate forest of the images that are not filtered, as if the others had never been there.

    Those that are blocked too stay in it, since a blocked image links its neighbors.
    """
    text = "SELECT image_id FROM filtered_images ANTI JOIN blocked USING (image_id)"
    dropped = problem.connection.sql(text).to_arrow_table()["image_id"].to_numpy()
    left = problem.scratch / "forest.parquet"
    forest_without(problem.embeddings.paths, forest, dropped, left, id_column=problem.embeddings.id_column)
    return left
