"""Which members of a group stay: the central one, or the first in an order that is asked for, or several of them."""

from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.balance.centers import CENTERS, distances
from pipeline.balance.facts import columns_of_facts
from pipeline.balance.rules.base import Problem
from pipeline.balance.rules.connected_components import rows_at_a_time
from pipeline.core import query
from pipeline.core.expressions import check_ordering, evaluating
from pipeline.vectors.read import list_matrix


def repeat_removals(connection: duckdb.DuckDBPyConnection, keep_per_group: int) -> None:
    """Let ``removals`` speak of groups of which ``keep_per_group`` stay: an edge that joins two groups removes as many
    images as are now too many. Needs ``removals`` whose rows are edges."""
    text = "SELECT id_a, id_b, distance FROM removals ORDER BY distance, id_a, id_b"
    edges = connection.sql(text).to_arrow_table()
    ends = np.concatenate([edges["id_a"].to_numpy(), edges["id_b"].to_numpy()])
    ids, places = np.unique(ends, return_inverse=True)
    parent, size = list(range(len(ids))), [1] * len(ids)

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    gone = np.zeros(edges.num_rows, np.int64)
    pairs = zip(places[: edges.num_rows].tolist(), places[edges.num_rows :].tolist())
    for number, (a, b) in enumerate(pairs):
        first, second = root(a), root(b)
        joined = size[first] + size[second]
        before = max(size[first] - keep_per_group, 0) + max(size[second] - keep_per_group, 0)
        gone[number] = max(joined - keep_per_group, 0) - before
        parent[second], size[first] = first, joined
    distances = pa.table({"distance": np.repeat(edges["distance"].to_numpy(), gone)})
    connection.execute("DROP VIEW removals")
    connection.register("removals", distances)


def prioritize(connection: duckdb.DuckDBPyConnection, keep_by: Sequence[str], *, images: str) -> None:
    """Make ``priorities`` (``image_id, place``) of the ids in the relation ``images``, places being those in the order
    ``keep_by``."""
    terms = check_ordering(keep_by, columns_of_facts(connection), what="balance.keep_by")
    text = query.sql("pipeline.balance", "priorities").format(terms=", ".join(terms), images=images)
    with evaluating("balance.keep_by"):
        connection.execute(text)


def elect(problem: Problem, keep_by: Sequence[str]) -> None:
    """Let the first image of each group in the order ``keep_by`` (terms of ``ORDER BY``) stand for it.

    Makes ``priorities``, and ``centers`` anew, with distances to the images that stand now. Raises
    :class:`pipeline.core.errors.ConfigError` for terms that are none.
    """
    connection = problem.connection
    prioritize(connection, keep_by, images="centers")
    connection.execute(query.sql("pipeline.balance", "elected"))
    path = problem.scratch / "elected.parquet"
    with pq.ParquetWriter(path, CENTERS) as writer:
        for batch in _to_elected(problem):
            writer.write_batch(batch)
    connection.execute("DROP VIEW centers")
    query.view(connection, "centers", [path])


def _to_elected(problem: Problem) -> Iterator[pa.RecordBatch]:
    """``CENTERS`` of the table ``assigned``. Distances are those by which rule ``bounded`` has cut, bit by bit, which
    DuckDB's, in float32, would not be."""
    text = query.sql("pipeline.balance", "assigned_vectors")
    rows = rows_at_a_time(problem.embeddings.width)
    for batch in query.stream(problem.connection, text, {}, rows=rows):
        vectors = [list_matrix(batch.column(name), what=name) for name in ("image_embedding", "center_embedding")]
        columns = [batch.column("image_id"), batch.column("center_id"), distances(*vectors)]
        yield pa.RecordBatch.from_arrays(columns, schema=CENTERS)
    themselves = "SELECT DISTINCT center_id AS image_id, center_id, 0 AS distance_to_center FROM assigned"
    yield from query.stream(problem.connection, themselves, {}, CENTERS)


def kept_members(keep_per_group: int, *, ordered: bool) -> dict[str, str]:
    """What ``balance_groups.sql`` is filled in with; ``ordered``: :func:`elect` was asked for an order."""
    if keep_per_group == 1:
        return {"kept": "image_id = group_id", "priorities": ""}
    order = "image_id <> group_id, " + ("place, image_id" if ordered else "distance_to_center, image_id")
    kept = f"row_number() OVER (PARTITION BY group_id ORDER BY {order}) <= {keep_per_group}"
    return {"kept": kept, "priorities": " LEFT JOIN priorities USING (image_id)" if ordered else ""}
