"""What is known of a pair, when two tables say something under one name."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError
from tests.pipeline.balance.world import planted_world


def test_a_carried_column_called_as_one_of_ours_is_refused_where_it_is_read(tmp_path: Path) -> None:
    """Lists of LAION have a column WIDTH, of the image as it was found; DuckDB would take ours for it."""
    world = planted_world(tmp_path, seed=5, groups=8)
    path = tmp_path / "attributes.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("WIDTH", pa.array([9000] * table.num_rows)), path)
    for options, what in [({"where": "WIDTH > 100"}, "where"), ({"keep_by": ["width DESC"]}, "keep_by")]:
        with pytest.raises(ConfigError, match=rf"balance\.{what}: more than one column is called width"):
            world.balance(threshold=0.3, **options)
    assert world.balance(threshold=0.3, where="height > 100")[0].filtered_pairs > 0
