"""What is known of a pair, when two tables say something under one name."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipeline.balance.world import planted_world


def test_a_carried_column_called_as_one_of_ours_has_another_name(tmp_path: Path) -> None:
    """Lists of LAION have a column WIDTH, of the image as it was found; DuckDB would take ours for it."""
    world = planted_world(tmp_path, seed=5, groups=8)
    path = tmp_path / "attributes.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("WIDTH", pa.array([9000] * table.num_rows)), path)
    assert not world.balance(threshold=0.3, where="source_WIDTH = 9000")[0].filtered_pairs
    found = world.balance(threshold=0.3, where="WIDTH > 200")[0].filtered_pairs
    assert found == sum(pair["width"] <= 200 for pair in world.pairs)
