"""The control: as many images as connected components would remove at the threshold, drawn by chance.

Images are ordered by a hash of seed and id, so the draw depends on neither files nor order, and a larger removal
removes a superset. The first ones stay. Nothing stands for a removed image here; so that the tables keep their shape,
the removed ones are dealt out to the kept ones in turn, with the true distance between the two.
"""

from collections.abc import Iterator

import pyarrow as pa

from pipeline import query
from pipeline.centres import CENTRES
from pipeline.rules.base import Problem


class RandomSubset:
    """Removes by chance, at the rate of :class:`ConnectedComponents`."""

    def removals(self, problem: Problem) -> None:
        problem.connection.execute("CREATE OR REPLACE TEMP VIEW removals AS SELECT distance FROM forest")

    def groups(self, problem: Problem, threshold: float) -> Iterator[pa.RecordBatch]:
        parameters = {"seed": problem.config.seed, "threshold": threshold}
        problem.connection.execute(query.sql("random_subset"), parameters)
        yield from query.stream(problem.connection, query.sql("assigned_distances"), {}, CENTRES)
