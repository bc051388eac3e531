"""Pairs that are left out before the balance: blocked ones, those that ``where`` is not true for, those on no
keep-list, and images of evaluation sets.

An image goes when not one of its pairs is left, and then it is as if it had never been there: images that were joined
through it alone are joined no more. Where that cannot be read off the forest, pairs are searched anew among the images
of the groups that it was in.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from pipeline.balance.facts import columns_of_facts
from pipeline.balance.rules.base import Problem
from pipeline.blocklists import BlockedCounts, blocked_rows, unlisted_rows
from pipeline.core import query
from pipeline.core.errors import BlocklistError, ConfigError
from pipeline.core.expressions import check_expression, evaluating
from pipeline.neighbors import forest_without

UNLISTED = "not on the keep-list"
"""The reason of pairs that no keep-list names."""


def block(connection: duckdb.DuckDBPyConnection, files: Sequence[Path | str]) -> BlockedCounts:
    """Make the table ``blocked`` (``image_id, matched``) of the images with an embedding that are listed; needs
    ``facts``. Raises :class:`BlocklistError` as :func:`pipeline.blocklists.blocked_rows`, and if no image is left."""
    counts = blocked_rows(connection, files, "facts")
    images = connection.table("embeddings").aggregate("count(*)").fetchall()[0][0]
    if counts.blocked and counts.blocked == images:
        raise BlocklistError(f"the blocklist blocks all {images} images")
    return counts


def filter_pairs(
    connection: duckdb.DuckDBPyConnection,
    where: str | None,
    leaks: Sequence[Path],
    keep_list: Sequence[Path | str] = (),
) -> None:
    """Make the tables ``filtered`` (``sample_id, image_id, reason``) and ``filtered_images``, and the view
    ``pairs_left``; needs ``pairs``, ``facts`` and ``blocked``.

    Raises :class:`ConfigError` for an expression that is none, a keep-list that names no pair, and if nothing is left.
    """
    connection.execute("CREATE TEMP TABLE filtered (sample_id BIGINT, image_id BIGINT, reason VARCHAR)")
    if where is not None:
        check_expression(where, columns_of_facts(connection), what="balance.where")
        text = query.sql("pipeline.balance", "filter").format(expression=where)
        with evaluating("balance.where"):
            connection.execute(text, {"reason": f"where: {where}"})
    if keep_list:
        unlisted_rows(connection, keep_list, "facts")
        text = "INSERT INTO filtered SELECT *, $reason AS reason FROM unlisted ANTI JOIN filtered USING (sample_id)"
        connection.execute(text, {"reason": UNLISTED})
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
        if leaks:
            also = f", or balance.where is not true for it: {where}" if where is not None else ""
            near = "nothing is left, every pair is near to an evaluation image"
            raise ConfigError(f"balance.decontaminate: {near}{also}")
        if where is not None:
            raise ConfigError(f"balance.where: nothing is left for which this is true: {where}")
        raise ConfigError("balance: nothing is left, all pairs are blocked or left out by the keep-list")


def forest_of_the_rest(problem: Problem, forest: Path) -> Path:
    """The near-duplicate forest of the images that are not filtered, as if the others had never been there.

    Those that are blocked too stay in it, since a blocked image links its neighbors.
    """
    text = "SELECT image_id FROM filtered_images ANTI JOIN blocked USING (image_id)"
    dropped = problem.connection.sql(text).to_arrow_table()["image_id"].to_numpy()
    left = problem.scratch / "forest.parquet"
    forest_without(problem.embeddings.paths, forest, dropped, left, id_column=problem.embeddings.id_column)
    return left
