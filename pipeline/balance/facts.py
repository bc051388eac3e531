"""What is known of images and pairs beside their embeddings, as relations that the balance works with.

- ``pairs`` (``sample_id, image_id, similarity``): every caption of every image that has an embedding;
- ``facts``: all that may stand in ``where`` and ``keep_by``, a row for each pair;
- ``images`` and ``named`` (``sample_id, url, caption``), where there are such tables.

A folder of embeddings alone is a data set too: there an image has one caption at most, and the files' other columns are
what is known of it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import duckdb

from pipeline.balance.embeddings import EmbeddingFiles
from pipeline.core import query


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairTables:
    """Parquet files of the tables that describe images and pairs; ``attributes``, ``scores`` and ``leaks`` may have
    none."""

    images: Sequence[Path]
    pairs: Sequence[Path]
    captions: Sequence[Path]
    attributes: Sequence[Path] = ()
    scores: Sequence[Path] = ()
    leaks: Sequence[Path] = ()


def open_facts(connection: duckdb.DuckDBPyConnection, embeddings: EmbeddingFiles, tables: PairTables | None) -> None:
    """Make these relations; needs the view ``embeddings``."""
    if tables is None:
        connection.execute(query.sql("pipeline.balance", "similarities" if embeddings.has_text else "no_similarities"))
        vectors = "image_embedding, text_embedding" if embeddings.has_text else "image_embedding"
        text = query.sql("pipeline.balance", "facts_of_embeddings").format(vectors=vectors)
        connection.execute(text)
        return
    for name, paths in (("images", tables.images), ("named", tables.pairs), ("captions", tables.captions)):
        query.view(connection, name, list(paths))
    _view_or_none(connection, "carried", tables.attributes, "sample_id BIGINT, image_id BIGINT")
    _view_or_none(connection, "scores", tables.scores, "image_id BIGINT")
    _name_attributes(connection)
    connection.execute(query.sql("pipeline.balance", "pairs_of_captions"))
    connection.execute(query.sql("pipeline.balance", "facts_of_pairs"))


def columns_of_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Names and DuckDB types of all that is known of a pair."""
    relation = connection.table("facts")
    return dict(zip(relation.columns, map(str, relation.types)))


def _name_attributes(connection: duckdb.DuckDBPyConnection) -> None:
    """The view ``attributes``: carried columns, those that have the name of another, such as LAION's WIDTH, with
    ``source_`` before it."""
    taken = {name for table in ("images", "scores") for name in connection.table(table).columns} | {
        "image_text_similarity"
    }
    taken = {name.lower() for name in taken} - {"image_id", "sample_id"}
    chosen = [
        f"{query.identifier(name)} AS {query.identifier(f'source_{name}' if name.lower() in taken else name)}"
        for name in connection.table("carried").columns
    ]
    connection.execute(f"CREATE TEMP VIEW attributes AS SELECT {', '.join(chosen)} FROM carried")


def _view_or_none(
    connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[Path], columns_if_none: str
) -> None:
    if paths:
        query.view(connection, name, list(paths))
    else:
        connection.execute(f"CREATE TEMP TABLE {name} ({columns_if_none})")
