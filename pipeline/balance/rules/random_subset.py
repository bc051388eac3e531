"""The control: as many images as connected components would remove at the threshold, drawn by chance.

Images are ordered by a hash of seed and id, so the draw depends on neither files nor order, and a larger removal
removes a superset. The first ones stay. Nothing stands for a removed image here; so that the tables keep their shape,
the removed ones are dealt out to the kept ones in turn, with the true distance between the two.
"""

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.balance.centers import CENTERS
from pipeline.balance.rules.base import Problem
from pipeline.core import query


class RandomSubset:
    """Removes by chance, at the rate of :class:`ConnectedComponents`."""

    def removals(self, problem: Problem) -> None:
        problem.connection.execute("CREATE OR REPLACE TEMP VIEW removals AS SELECT distance FROM forest")

    def groups(self, problem: Problem, threshold: float) -> Iterator[pa.RecordBatch]:
        parameters = {"seed": problem.config.seed, "threshold": threshold}
        problem.connection.execute(query.sql("pipeline.balance", "random_subset"), parameters)
        yield from query.stream(problem.connection, query.sql("pipeline.balance", "assigned_distances"), {}, CENTERS)


def kept_by_chance(connection: duckdb.DuckDBPyConnection, ids: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """The ``count`` of ``ids`` (N,) that this rule keeps, ascending."""
    connection.execute(query.sql("pipeline.balance", "random_order"))
    relation = pa.table({"image_id": ids})
    connection.register("drawn_from", relation)
    text = "SELECT image_id FROM drawn_from ORDER BY random_place($seed, image_id), image_id LIMIT $count"
    kept = connection.sql(text, params={"seed": seed, "count": count}).to_arrow_table()["image_id"].to_numpy()
    connection.unregister("drawn_from")
    return np.sort(kept)
