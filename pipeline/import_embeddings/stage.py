"""Embeddings made elsewhere into our tables: ``python -m pipeline.import_embeddings.stage SOURCE ROOT``.

SOURCE is a folder that clip-retrieval wrote (``img_emb``, ``text_emb``, ``metadata``), or Parquet with url, caption and
lists of floats. Under ROOT come ``teacher_embeddings``, which the search for near-duplicates, the balance and the
clustering read, and ``source_pairs``. A pair has the ``sample_id`` that it would have been given at the source.
"""

import contextlib
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
from pipeline.storage.purged import purged_images
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Output, Stage
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
        version=3,
        config=["imported", config, *([{"drop_bad": True}] if drop_bad else [])],
        inputs={p.name: identity for p in parts},
    )

    def write(pending: list[str]) -> dict[str, Any]:
        with query.connect(query_config or QueryConfig(), scratch=stage.root / ".tmp" / "import") as connection:
            bad = _bad_rows(parts) if drop_bad else None
            _load(connection, parts, bad, url_column=url_column, caption_column=caption_column, url_prefix=url_prefix)
            counts, purged = collect_counts(connection, str(source)), purged_images(stage.root)
            for number, part in enumerate(parts):
                if part.name in pending:
                    with stage.output(part.name) as output:
                        pairs = _pairs(connection, number)
                        # What was purged from the root does not come back.
                        pairs = pairs.filter(pa.array(~np.isin(pairs["image_id"].to_numpy(), purged)))
                        output.rows = _write_part(output, part, pairs, {"name": teacher})
        return counts | ({"bad_vectors": bad.num_rows} if bad is not None else {})

    return stage.run(write)


def _load(
    connection: duckdb.DuckDBPyConnection,
    parts: list[Part],
    bad: pa.Table | None,
    *,
    url_column: str,
    caption_column: str,
    url_prefix: str,
) -> None:
    """Tables ``pairs`` with minted ids, and ``imported``: which row of which part has which id; ``bad`` rows have
    none."""
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
            f'SELECT $prefix || "{url}"::VARCHAR, "{caption}"::VARCHAR, $part, file_row_number '
            "FROM read_parquet($path, file_row_number = true, hive_partitioning = false)",
            {"prefix": url_prefix, "part": number, "path": str(part.metadata)},
        )
    if bad is not None:
        connection.register("bad_rows", bad)
        connection.execute(query.sql("pipeline.import_embeddings", "drop_bad_rows"))
    mint_pairs(connection)
    connection.execute(query.sql("pipeline.import_embeddings", "imported_rows"))


def _pairs(connection: duckdb.DuckDBPyConnection, part: int) -> pa.Table:
    """Rows of a part that are used, in its order; ``first``: those whose vector stands for the image."""
    text = "SELECT * EXCLUDE (part) FROM imported WHERE part = $part ORDER BY place"
    return connection.sql(text, params={"part": part}).to_arrow_table()


def _write_part(output: Output, part: Part, pairs: pa.Table, metadata: dict[str, str]) -> int:
    """Tables of a part; returns for how many images there is a vector in it."""
    image_dim, text_dim = part.dims
    images = schema.teacher_embeddings(image_dim).with_metadata(metadata)
    captions = schema.caption_embeddings(text_dim).with_metadata(metadata) if text_dim else None
    done = 0
    with contextlib.ExitStack() as stack:
        path = output.path(f"teacher_embeddings/{part.name}.parquet")
        writer = stack.enter_context(EmbeddingWriter(path, images))
        if captions is not None:
            path = output.path(f"caption_embeddings/{part.name}.parquet")
            beside = stack.enter_context(EmbeddingWriter(path, captions))
        for rows, image, text in _chosen(part, pairs):
            vectors = {"image": image} if text is None else {"image": image, "text": text}
            units = {name: _unit(part, pairs.slice(done), values, name) for name, values in vectors.items()}
            done += len(rows)
            first = rows["first"].to_numpy(zero_copy_only=False)
            if first.any():
                ids = rows["image_id"].to_numpy()[first]
                writer.add({"image_id": ids, "image_embedding": units["image"][first]})
            described = {name: rows[name].to_numpy() for name in ("sample_id", "image_id")}
            if text is not None:
                # Of the vectors that stand beside each other; embeddings of two widths are of two spaces.
                similarity: Any = [None] * len(rows)
                if image_dim == text_dim:
                    similarity = np.einsum("ij,ij->i", units["image"], units["text"])
                beside.add({**described, "text_embedding": units["text"], "image_text_similarity": similarity})
    table = pairs.select(schema.SOURCE_PAIRS.names)
    parquet.write_table(table, output.path(f"source_pairs/{part.name}.parquet"), compression="zstd")
    return writer.rows


def _bad_rows(parts: list[Part]) -> pa.Table:
    """``part, place`` of every row of which no unit vectors can be made; reads all vectors."""
    found: list[tuple[int, int]] = []
    for number, part in enumerate(parts):
        start = 0
        for vectors in part.vectors():
            wrong = np.zeros(len(vectors[0]), bool)
            for values in vectors:
                if values is not None:
                    wrong |= np.isnan(_lengths(values))
            found += [(number, start + int(place)) for place in np.flatnonzero(wrong)]
            start += len(wrong)
    columns = zip(*found) if found else ((), ())
    return pa.table(dict(zip(("part", "place"), (pa.array(column, pa.int64()) for column in columns))))


def _unit(part: Part, pairs: pa.Table, vectors: np.ndarray, name: str) -> np.ndarray:
    lengths = _lengths(vectors)
    if np.isnan(lengths).any():
        raise _bad_vector(part, pairs, lengths, name)
    return np.asarray(vectors, np.float32) / lengths[:, None]


def _bad_vector(part: Part, pairs: pa.Table, lengths: np.ndarray, name: str) -> EmbeddingError:
    first = int(np.flatnonzero(np.isnan(lengths))[0])
    row = pairs.slice(first, 1).to_pylist()[0]
    width = part.dims[0 if name == "image" else 1]
    return EmbeddingError(
        f"part {part.name}, {part.metadata}, row {row['place']} (counted from 0, {row['url'][:200]}): its {name} "
        f"vector is not {width} finite numbers, or is zero; drop_bad (--drop-bad) leaves such rows out and counts them"
    )


def _chosen(part: Part, pairs: pa.Table) -> Iterator[tuple[pa.Table, np.ndarray, np.ndarray | None]]:
    places = pairs["place"].to_numpy()
    start = 0
    for image, text in part.vectors():
        first, last = np.searchsorted(places, [start, start + len(image)])
        rows = places[first:last] - start
        if len(rows):
            yield pairs.slice(first, last - first), image[rows], None if text is None else text[rows]
        start += len(image)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Of each row; not a number for one that no unit vector can be made of."""
    # In float64, where no finite float32 is too long.
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=1)
    return np.where(np.isfinite(lengths) & (lengths > 0), lengths, np.nan)


def _identity(part: Part) -> list[Any]:
    paths = [part.metadata, *(getattr(part, name, None) for name in ("image", "text"))]
    return [file_identity(path, name=path.name) for path in paths if path is not None]
