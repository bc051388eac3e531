"""The control: as many images as connected components would remove at the threshold, drawn by chance.

Images are ordered by a hash of seed and id, so the draw depends on neither files nor order, and a larger removal
removes a superset. The first ones stay. Nothing stands for a removed image here; so that the tables keep their shape,
the removed ones are dealt out to the kept ones in turn, with the true distance between the two.
"""

from collections.abc import Iterator

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
