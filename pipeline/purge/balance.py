"""The tables of a balance without what goes, consistent with one another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import parquet, query, schema
from pipeline.core.files import fingerprint_of
from pipeline.purge.gone import Gone

TABLES = ("balance_groups", "removed_pairs", "blocked_pairs", "filtered_pairs", "balanced_pairs")
REASON = "was removed for an image that is purged"
_MOVED = schema.FILTERED_PAIRS


def what_moves(root: Path, gone: Gone, stats: Mapping[str, Any]) -> dict[str, Any]:
    """What only the tables as they were can tell, JSON-like, to be kept before one is rewritten: pairs of images that
    were removed for one that goes (``moved``), kept images that go by shard, and the digest of the unused pairs."""
    with _opened(root, gone) as connection:
        text = query.sql("pipeline.purge", "moved")
        moved = [list(row) for row in connection.sql(text).fetchall()]
        text = "SELECT DISTINCT shard, image_id FROM balanced_pairs SEMI JOIN gone_images USING (image_id) ORDER BY ALL"
        kept: dict[str, list[int]] = {shard: list(ids) for shard, ids in stats.get("purged_kept", {}).items()}
        for shard, image_id in connection.sql(text).fetchall():
            kept.setdefault(shard, []).append(image_id)
        text = "SELECT DISTINCT sample_id FROM (FROM blocked_pairs UNION ALL BY NAME FROM filtered_pairs) ORDER BY ALL"
        unused = connection.sql(text).to_arrow_table()["sample_id"].to_pylist()
    return {
        "moved": moved,
        "stats": {
            "purged_kept": {shard: sorted(kept[shard]) for shard in sorted(kept)},
            "unused_digest": stats.get("unused_digest") or fingerprint_of(unused),
        },
    }


def rewrite_balance(root: Path, folder: Path, gone: Gone, moved: list[list[int]]) -> dict[str, Path]:
    """Write all tables of a balance under ``folder``; returns where each is, by its name under the root."""
    written = {}
    with _opened(root, gone) as connection:
        rows = [dict(zip(_MOVED.names, (*row, REASON))) for row in moved]
        connection.register("moved", pa.Table.from_pylist(rows, schema=_MOVED))
        connection.execute("CREATE TEMP TABLE orphans AS SELECT DISTINCT image_id FROM moved")
        connection.execute(query.sql("pipeline.purge", "balance"))
        for table in TABLES:
            name = f"{table}/{table}.parquet"
            written[name] = folder / name
            written[name].parent.mkdir(parents=True, exist_ok=True)
            query.write(connection, f"FROM new_{table}", {}, written[name], pq.read_schema(root / name))
    return written


def count_images(folder: Mapping[str, Path]) -> dict[str, int]:
    """The counts of a balance's report that its tables tell; ``folder``: the file of each table."""
    ids = {
        table: parquet.read_table(path, columns=["image_id"])["image_id"].to_numpy() for table, path in folder.items()
    }
    kept = parquet.read_table(folder["balance_groups"], columns=["kept"])["kept"].to_numpy(zero_copy_only=False)
    blocked = np.unique(ids["blocked_pairs"])
    filtered = np.setdiff1d(ids["filtered_pairs"], np.union1d(ids["balance_groups"], blocked))
    return {
        "samples": len(kept) + len(blocked) + len(filtered),
        "kept": int(kept.sum()),
        "removed": int((~kept).sum()),
        "blocked": len(blocked),
        "filtered": len(filtered),
        "filtered_pairs": len(ids["filtered_pairs"]),
    }


def _opened(root: Path, gone: Gone) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.register("gone_images", pa.table({"image_id": gone.image_ids}))
    connection.register("gone_samples", pa.table({"sample_id": gone.sample_ids}))
    for table in TABLES:
        query.view(connection, table, [root / table / f"{table}.parquet"])
    return connection
