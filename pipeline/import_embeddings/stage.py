"""Embeddings made elsewhere into our tables: ``python -m pipeline.import_embeddings.stage SOURCE ROOT``.

SOURCE is a folder that clip-retrieval wrote (``img_emb``, ``text_emb``, ``metadata``), or Parquet with url, caption and
lists of floats. Under ROOT come ``teacher_embeddings``, which the search for near-duplicates, the balance and the
clustering read, and ``source_pairs``. A pair has the ``sample_id`` that it would have been given at the source.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import query, schema
from pipeline.core.errors import EmbeddingError
from pipeline.core.files import file_identity, fingerprint_of
from pipeline.core.query import QueryConfig
from pipeline.import_embeddings.parts import Part, find_parts
from pipeline.source.stage import collect_counts
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Stage
from pipeline.vectors.write import EmbeddingWriter


def import_embeddings(
    source: Path,
    root: Path,
    *,
    url_column: str = "url",
    caption_column: str = "caption",
    url_prefix: str = "",
    image_column: str = "image_embedding",
    text_column: str = "text_embedding",
    teacher: str = "unknown",
    query_config: QueryConfig | None = None,
) -> StageResult:
    """Import every part of ``source`` into ``root``; parts that are done and unchanged are not read again.

    Vectors are normalized. Exact repeats of a pair are dropped, and so are pairs without URL or caption; the result's
    ``stats`` count both.

    Args:
        source: a folder as clip-retrieval writes it, or of Parquet files with embeddings.
        root: where ``source_pairs`` and ``teacher_embeddings`` are written.
        url_column: column of the URL, from which the id is made.
        caption_column: column of the caption, from which the id is made too.
        url_prefix: put before each URL, for columns of paths: ``file://`` makes URLs of them.
        image_column: column of the image embedding, in Parquet alone.
        text_column: column of the caption's, in Parquet alone.
        teacher: what is noted in the files as the model that made them.
        query_config: limits of DuckDB; none means the defaults.

    Returns:
        The completed stage ``teacher_embeddings``.

    Raises:
        EmbeddingError: for parts that do not fit together, missing columns, other counts of vectors than of rows, mixed
            widths, and vectors that are not finite or zero.
    """
    parts = find_parts(Path(source), image_column=image_column, text_column=text_column)
    config = {"url_column": url_column, "caption_column": caption_column, "url_prefix": url_prefix, "teacher": teacher}
    # Which of two repeats is the first depends on all parts.
    identity = fingerprint_of([_identity(part) for part in parts])
    stage = Stage(
        Path(root),
        "teacher_embeddings",
        version=1,
        config=["imported", config],
        inputs={p.name: identity for p in parts},
    )

    def write(pending: list[str]) -> dict[str, Any]:
        with query.connect(query_config or QueryConfig(), scratch=stage.root / ".tmp" / "import") as connection:
            _load(connection, parts, url_column=url_column, caption_column=caption_column, url_prefix=url_prefix)
            counts = collect_counts(connection, str(source))
            for number, part in enumerate(parts):
                if part.name in pending:
                    with stage.output(part.name) as output:
                        pairs = _pairs(connection, number)
                        pq.write_table(
                            pairs.select(schema.SOURCE_PAIRS.names),
                            output.path(f"source_pairs/{part.name}.parquet"),
                            compression="zstd",
                        )
                        target = output.path(f"teacher_embeddings/{part.name}.parquet")
                        output.rows = _write(target, part, pairs, {"name": teacher})
        return counts

    return stage.run(write)


def _load(
    connection: duckdb.DuckDBPyConnection, parts: list[Part], *, url_column: str, caption_column: str, url_prefix: str
) -> None:
    """Tables ``pairs`` with minted ids, and ``imported``: which row of which part has which id."""
    connection.execute("CREATE TEMP TABLE source_rows (url VARCHAR, caption VARCHAR, list_index BIGINT, place BIGINT)")
    for number, part in enumerate(parts):
        names = pq.read_schema(part.metadata).names
        missing = sorted({url_column, caption_column} - set(names))
        if missing:
            raise EmbeddingError(f"{part.metadata}: no column {missing}, from which sample_id is made; it has {names}")
        url, caption = (name.replace('"', '""') for name in (url_column, caption_column))
        connection.execute(
            f'INSERT INTO source_rows SELECT $prefix || "{url}"::VARCHAR, "{caption}"::VARCHAR, $part, '
            "file_row_number FROM read_parquet($path, file_row_number = true, hive_partitioning = false)",
            {"prefix": url_prefix, "part": number, "path": str(part.metadata)},
        )
    connection.execute(query.sql("pipeline.source", "source_pairs"))
    connection.execute(query.sql("pipeline.import_embeddings", "imported_rows"))


def _pairs(connection: duckdb.DuckDBPyConnection, part: int) -> pa.Table:
    return connection.sql(
        "SELECT sample_id, url, caption, place FROM imported WHERE part = $part ORDER BY place", params={"part": part}
    ).to_arrow_table()


def _write(path: Path, part: Part, pairs: pa.Table, metadata: dict[str, str]) -> int:
    """Write the vectors of the rows ``pairs`` of a part; returns their number."""
    table_schema = schema.imported_embeddings(*part.dims).with_metadata(metadata)
    with EmbeddingWriter(path, table_schema) as writer:
        for ids, image, text in _chosen(part, pairs):
            columns: dict[str, Any] = {"sample_id": ids, "image_embedding": _unit(image, part, "image")}
            if text is not None:
                columns["text_embedding"] = _unit(text, part, "text")
            writer.add(columns)
    return writer.rows


def _chosen(part: Part, pairs: pa.Table) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    ids, places = pairs["sample_id"].to_numpy(), pairs["place"].to_numpy()
    start = 0
    for image, text in part.vectors():
        first, last = np.searchsorted(places, [start, start + len(image)])
        rows = places[first:last] - start
        if len(rows):
            yield ids[first:last], image[rows], None if text is None else text[rows]
        start += len(image)


def _unit(vectors: np.ndarray, part: Part, what: str) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths) | (lengths == 0)
    if bad.any():
        raise EmbeddingError(
            f"part {part.name} of {part.metadata}: {int(bad.sum())} {what} vectors are not finite, or zero"
        )
    return vectors / lengths


def _identity(part: Part) -> list[Any]:
    paths = [part.metadata, *(getattr(part, name, None) for name in ("image", "text"))]
    return [file_identity(path, name=path.name) for path in paths if path is not None]
