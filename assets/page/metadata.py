"""What the Dagster UI shows of a stage: counts, sizes, time, place, columns, and the version of the data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from assets.page.columns import describe_column
from pipeline.core.files import fingerprint_of
from pipeline.storage.result import StageResult
from pipeline.storage.roots import storage_of


def materialization(
    result: StageResult, root: Path, table: str, *, extra: Mapping[str, Any] | None = None, asset_key: str | None = None
) -> dg.MaterializeResult:
    """A materialization of ``table`` (a folder under the root) by a stage, with numbers as plottable metadata."""
    storage = storage_of(root)
    place = storage.uri(table)
    parquet = result.paths(table)
    metadata: dict[str, Any] = {
        "path": dg.MetadataValue.path(place),
        "size_mb": round(sum(size for name, size in result.sizes.items() if name.startswith(f"{table}/")) / 1e6, 3),
        "shards": result.shards,
        "shards_computed_now": result.computed,
        "seconds": result.seconds,
    }
    if parquet:
        storage.fetch([parquet[0].relative_to(root).as_posix()])
        metadata["dagster/row_count"] = result.tables.get(table)
        metadata["dagster/column_schema"] = _column_schema(parquet[0], table)
        # The page cuts long lines, so the path has one to itself.
        metadata["duckdb"] = dg.MetadataValue.md(f"```sql\nSELECT * FROM\n'{place}/*.parquet'\nLIMIT 10\n```")
    # Lists among the figures are what pictures and tables are made from.
    metadata |= {
        name: _plain(value)
        for name, value in result.stats.items()
        if name not in ("samples", "seconds") and isinstance(value, int | float | str)
    }
    metadata |= extra or {}
    return dg.MaterializeResult(
        asset_key=asset_key,
        metadata=metadata,
        # Config enters by the fingerprint: Dagster does not see changes of run config by itself.
        data_version=dg.DataVersion(fingerprint_of(result.fingerprint, result.digest)),
    )


def _plain(value: Any) -> Any:
    """Floats as a person would write them; they are read here, not computed with."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _column_schema(path: Path, table: str) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                field.name,
                str(field.type),
                description=describe_column(table, field.name),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in pq.read_schema(path)
        ]
    )
