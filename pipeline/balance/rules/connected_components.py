"""CLIP-CID's rule: connected components of the near-duplicate graph; the image nearest to the mean of each stays."""

from collections.abc import Iterator

import pyarrow as pa

from pipeline.balance.centers import ELEMENTS, group_centers
from pipeline.balance.rules.base import Problem
from pipeline.core import query

# DuckDB hands out rows in vectors of this many.
_VECTOR_ROWS = 2048


class ConnectedComponents:
    """Single linkage on Euclidean distances; ``docs/balance.md`` says where it comes from."""

    def removals(self, problem: Problem) -> None:
        # An edge within the threshold joins two groups: one image less is kept.
        problem.connection.execute("CREATE OR REPLACE TEMP VIEW removals AS FROM forest")

    def groups(self, problem: Problem, threshold: float) -> Iterator[pa.RecordBatch]:
        yield from centers_of(problem, "components")


def centers_of(problem: Problem, components: str) -> Iterator[pa.RecordBatch]:
    """``CENTERS`` of the groups in a relation ``image_id, component``."""
    text = query.sql("pipeline.balance", "members_by_group").format(components=components)
    batches = query.stream(problem.connection, text, {}, rows=rows_at_a_time(problem.embeddings.width))
    yield from group_centers(batches, problem.scratch)


def rows_at_a_time(width: int) -> int:
    """Rows of a batch of embeddings as wide as that."""
    return max(_VECTOR_ROWS, ELEMENTS // width // _VECTOR_ROWS * _VECTOR_ROWS)
