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

from pipeline.core import parquet, query, schema
from pipeline.core.errors import EmbeddingError
from pipeline.core.files import file_identity, fingerprint_of
from pipeline.core.query import QueryConfig
from pipeline.import_embeddings.parts import Part, find_parts
from pipeline.source.pairs import collect_counts, mint_pairs
from pipeline.storage.completion import read_marks
from pipeline.storage.result import StageResult
from pipeline.storage.roots import storage_of
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
    drop_bad: bool = False,
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
        drop_bad: leave out rows whose vector is missing, of another width, zero or not finite, and count them as
            ``bad_vectors``.
        query_config: limits of DuckDB; none means the defaults.

    Returns:
        The completed stage ``teacher_embeddings``.

    Raises:
        EmbeddingError: for parts that do not fit together, missing columns, other counts of vectors than of rows, mixed
            widths, and the first row with a bad vector, if none may be dropped.
    """
    parts = find_parts(Path(source), image_column=image_column, text_column=text_column)
    config = {"url_column": url_column, "caption_column": caption_column, "url_prefix": url_prefix, "teacher": teacher}
    # Which of two repeats is the first depends on all parts.
    identity = fingerprint_of([_identity(part) for part in parts])
    stage = Stage(
        Path(root),
        "teacher_embeddings",
        version=1,
        config=["imported", config, *([{"drop_bad": True}] if drop_bad else [])],
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
                        target = output.path(f"teacher_embeddings/{part.name}.parquet")
                        bad = _write(target, part, pairs, {"name": teacher}, drop_bad=drop_bad)
                        parquet.write_table(
                            pairs.select(schema.SOURCE_PAIRS.names).filter(~bad),
                            output.path(f"source_pairs/{part.name}.parquet"),
                            compression="zstd",
                        )
                        output.rows = int((~bad).sum())
        if drop_bad:
            marks = read_marks(storage_of(stage.root), stage.name, [part.name for part in parts])
            counts["bad_vectors"] = counts["pairs"] - sum(mark.rows for mark in marks.values())
        return counts

    return stage.run(write)


def _load(
    connection: duckdb.DuckDBPyConnection, parts: list[Part], *, url_column: str, caption_column: str, url_prefix: str
) -> None:
    """Tables ``pairs`` with minted ids, and ``imported``: which row of which part has which id."""
    columns = "url VARCHAR, caption VARCHAR, list_index BIGINT, place BIGINT, name VARCHAR DEFAULT NULL"
    connection.execute(f"CREATE TEMP TABLE source_rows ({columns})")
    for number, part in enumerate(parts):
        names = pq.read_schema(part.metadata).names
        missing = sorted({url_column, caption_column} - set(names))
        if missing:
            raise EmbeddingError(f"{part.metadata}: no column {missing}, from which sample_id is made; it has {names}")
        url, caption = (name.replace('"', '""') for name in (url_column, caption_column))
        connection.execute(
            "INSERT INTO source_rows (url, caption, list_index, place) "
            f'SELECT $prefix || "{url}"::VARCHAR, "{caption}"::VARCHAR, $part, '
            "file_row_number FROM read_parquet($path, file_row_number = true, hive_partitioning = false)",
            {"prefix": url_prefix, "part": number, "path": str(part.metadata)},
        )
    mint_pairs(connection)
    connection.execute(query.sql("pipeline.import_embeddings", "imported_rows"))


def _pairs(connection: duckdb.DuckDBPyConnection, part: int) -> pa.Table:
    return connection.sql(
        "SELECT sample_id, image_id, url, caption, place FROM imported WHERE part = $part ORDER BY place",
        params={"part": part},
    ).to_arrow_table()


def _write(path: Path, part: Part, pairs: pa.Table, metadata: dict[str, str], *, drop_bad: bool) -> np.ndarray:
    """Write the vectors of the rows ``pairs`` of a part; returns which of those rows have a bad one, and are left
    out."""
    table_schema = schema.imported_embeddings(*part.dims).with_metadata(metadata)
    bad, done = np.zeros(len(pairs), bool), 0
    with EmbeddingWriter(path, table_schema) as writer:
        for ids, image, text in _chosen(part, pairs):
            vectors = {"image": image} if text is None else {"image": image, "text": text}
            lengths = {name: _lengths(rows) for name, rows in vectors.items()}
            for name, found in lengths.items():
                if np.isnan(found).any() and not drop_bad:
                    raise _bad_vector(part, pairs.slice(done), found, name)
            good = ~np.isnan(np.stack(list(lengths.values()))).any(axis=0)
            bad[done : done + len(ids)] = ~good
            done += len(ids)
            columns: dict[str, Any] = {"sample_id": ids[good]}
            for name, rows in vectors.items():
                columns[f"{name}_embedding"] = np.asarray(rows, np.float32)[good] / lengths[name][good, None]
            if good.any():
                writer.add(columns)
    return bad


def _bad_vector(part: Part, pairs: pa.Table, lengths: np.ndarray, name: str) -> EmbeddingError:
    first = int(np.flatnonzero(np.isnan(lengths))[0])
    row = pairs.slice(first, 1).to_pylist()[0]
    width = part.dims[0 if name == "image" else 1]
    return EmbeddingError(
        f"part {part.name}, {part.metadata}, row {row['place']} (counted from 0, {row['url'][:200]}): its {name} "
        f"vector is not {width} finite numbers, or is zero; drop_bad (--drop-bad) leaves such rows out and counts them"
    )


def _chosen(part: Part, pairs: pa.Table) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    ids, places = pairs["sample_id"].to_numpy(), pairs["place"].to_numpy()
    start = 0
    for image, text in part.vectors():
        first, last = np.searchsorted(places, [start, start + len(image)])
        rows = places[first:last] - start
        if len(rows):
            yield ids[first:last], image[rows], None if text is None else text[rows]
        start += len(image)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Of each row; not a number for one that no unit vector can be made of."""
    # In float64, where no finite float32 is too long.
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=1)
    return np.where(np.isfinite(lengths) & (lengths > 0), lengths, np.nan)


def _identity(part: Part) -> list[Any]:
    paths = [part.metadata, *(getattr(part, name, None) for name in ("image", "text"))]
    return [file_identity(path, name=path.name) for path in paths if path is not None]
