"""``catalog.sql``: the tables under a root as DuckDB views."""

from pathlib import Path

from pipeline.files import write_text_atomically
from pipeline.schema import TABLES


def write_catalog(root: Path) -> Path:
    """Write ``catalog.sql``: one DuckDB view per table that exists. Paths are absolute, so it works from anywhere."""
    lines = ["-- One view per table. Use: duckdb -init catalog.sql, or duckdb.sql(open('catalog.sql').read())"]
    for table in TABLES:
        if any((root / table).glob("*.parquet")):
            pattern = str((root / table).resolve() / "*.parquet").replace("'", "''")
            lines.append(f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM read_parquet('{pattern}');")
    path = root / "catalog.sql"
    write_text_atomically(path, "\n".join(lines) + "\n")
    return path
