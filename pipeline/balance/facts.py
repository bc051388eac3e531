"""What is known of images and pairs beside their embeddings, as relations that the balance works with.

- ``pairs`` (``sample_id, image_id, similarity``): every caption of every image that has an embedding;
- ``facts``: all that may stand in ``where`` and ``keep_by``, a row for each pair;
- ``images`` and ``named`` (``sample_id, url, caption``), where there are such tables.

A folder of embeddings alone is a data set too: there an image has one caption at most, and the files' other columns are
what is known of it.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import duckdb

from pipeline.balance.embeddings import EmbeddingFiles
from pipeline.core import query
from pipeline.core.errors import ConfigError
from pipeline.core.expressions import columns_of
from pipeline.core.expressions.tree import folded


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
        _note_ambiguous(connection, ["sample_id", *connection.table("embeddings").columns, "image_text_similarity"])
        return
    for name, paths in (("images", tables.images), ("named", tables.pairs), ("captions", tables.captions)):
        query.view(connection, name, list(paths))
    _view_or_none(connection, "attributes", tables.attributes, "sample_id BIGINT, image_id BIGINT")
    _view_or_none(connection, "scores", tables.scores, "image_id BIGINT")
    connection.execute(query.sql("pipeline.balance", "pairs_of_captions"))
    connection.execute(query.sql("pipeline.balance", "facts_of_pairs"))
    others = [name for table in ("images", "attributes", "scores") for name in connection.table(table).columns]
    ours = ["sample_id", "image_id", "url", "caption"]
    _note_ambiguous(connection, [*ours, "image_text_similarity", *(name for name in others if name not in ours)])


def columns_of_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Names and DuckDB types of all that is known of a pair."""
    relation = connection.table("facts")
    return dict(zip(relation.columns, map(str, relation.types)))


def require_unambiguous(connection: duckdb.DuckDBPyConnection, texts: Sequence[str], *, what: str) -> None:
    """Raises :class:`ConfigError` where one of ``texts`` reads a column of which there are two: a list's column that is
    carried along may be called as one of ours is."""
    twice = {name for (name,) in connection.execute("SELECT name FROM ambiguous").fetchall()}
    for text in texts:
        if found := sorted(columns_of(text) & twice):
            raise ConfigError(
                f"{what}: more than one column is called {', '.join(found)} (case makes none); got {text!r}"
            )


def _note_ambiguous(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
    """DuckDB would call the second one otherwise, and say nothing."""
    twice = [[name] for name, count in Counter(map(folded, names)).items() if count > 1]
    connection.execute("CREATE OR REPLACE TEMP TABLE ambiguous (name VARCHAR)")
    if twice:
        connection.executemany("INSERT INTO ambiguous VALUES (?)", twice)


def _view_or_none(
    connection: duckdb.DuckDBPyConnection, name: str, paths: Sequence[Path], columns_if_none: str
) -> None:
    if paths:
        query.view(connection, name, list(paths))
    else:
        connection.execute(f"CREATE TEMP TABLE {name} ({columns_if_none})")
