"""``catalog.sql``: the tables under a root as DuckDB views."""

from pathlib import Path

from pipeline.core.files import write_text_atomically
from pipeline.core.schema import TABLES
from pipeline.storage.roots import storage_of

_HEAD = "-- One view per table. Use: duckdb -init catalog.sql, or duckdb.sql(open('catalog.sql').read())"
_REMOTE = "-- Before it: INSTALL httpfs; CREATE SECRET (TYPE s3, PROVIDER credential_chain);"


def write_catalog(root: Path) -> Path:
    """Write ``catalog.sql``: one DuckDB view per table that exists. Paths are absolute, so it works from anywhere."""
    storage = storage_of(root)
    lines = [_HEAD, *([_REMOTE] if storage.remote else [])]
    for table in TABLES:
        if storage.names(table, ".parquet"):
            pattern = f"{storage.uri(table)}/*.parquet".replace("'", "''")
            lines.append(f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM read_parquet('{pattern}');")
    text = "\n".join(lines) + "\n"
    storage.write_text("catalog.sql", text)
    path = Path(root) / "catalog.sql"
    if storage.remote:
        write_text_atomically(path, text)
    return path
