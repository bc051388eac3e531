"""What DuckDB is asked: every question by a name, and each answer a list of rows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from assets.explore.captions import CaptionFile
from pipeline.core import query

LONGEST = 2000
"""Characters of a caption, or of any other text of the root, that leave DuckDB."""


class Queries:
    """Questions about the relations of a connection; each has a cursor of its own, so that threads may ask at once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, names: Iterable[str], scratch: Path):
        """``names``: the tables that are relations; ``scratch``: a folder for captions."""
        self._connection, self._names = connection, set(names)
        self._captions: CaptionFile | None = None
        if self._has("source_pairs"):
            text = query.sql("assets.explore", "explore_captions")
            with connection.cursor() as cursor:
                batches = query.stream(cursor, text, {"longest": LONGEST})
                self._captions = CaptionFile(batches, scratch / "captions")

    def captions(self, images: Iterable[int]) -> dict[int, str]:
        """The first caption of each image that has one."""
        return self._captions.of(images) if self._captions else {}

    def captions_of(self, image: int) -> list[dict[str, Any]]:
        """``caption, characters`` of each caption of an image."""
        return self._ask("explore_captions_of", image=image, longest=LONGEST) if self._has("source_pairs") else []

    def search(self, text: str, count: int) -> list[dict[str, Any]]:
        """``image_id, caption`` where a caption has all words of a text."""
        words = text.lower().split()
        return self._ask("explore_search", words=words, count=count, longest=LONGEST) if words else []

    def worst_pairs(self, count: int) -> list[dict[str, Any]]:
        return self._ask("explore_worst_pairs", count=count, longest=LONGEST)

    def clusters(self, count: int, skip: int) -> list[dict[str, Any]]:
        return self._ask("explore_clusters", count=count, skip=skip)

    def cluster(self, cluster: int, count: int, *, nearest: bool) -> list[dict[str, Any]]:
        return self._ask("explore_cluster", cluster=cluster, count=count, nearest=nearest)

    def download(self) -> list[dict[str, Any]]:
        return self._ask("explore_download", longest=200)

    def leaks(self, count: int) -> list[dict[str, Any]]:
        return self._ask("explore_leaks", count=count, longest=200)

    def gaps(self, count: int) -> list[dict[str, Any]]:
        return self._ask("explore_gaps", count=count)

    def typical(self, clusters: Sequence[int]) -> dict[int, int]:
        """The image nearest to the center of each cluster."""
        if not self._has("cluster_assignments"):
            return {}
        rows = self._ask("explore_typical", clusters=list(clusters))
        return {row["cluster_id"]: row["image_id"] for row in rows}

    def facts(self, image: int) -> dict[str, Any]:
        """What each table says of one image, by the question; nothing of tables that are not there."""
        asked = {
            "image": ("explore_image", ("images",), {"longest": LONGEST}),
            "verdict": ("explore_verdict", ("balance_groups",), {}),
            "left_out": ("explore_left_out", ("filtered_pairs", "blocked_pairs"), {}),
            "cluster": ("explore_cluster_of", ("cluster_assignments",), {}),
            "similarity": ("explore_similarities", ("caption_embeddings",), {}),
        }
        found = {
            key: self._ask(name, image=image, **more)
            for key, (name, needed, more) in asked.items()
            if all(self._has(table) for table in needed)
        }
        return {key: rows[0] if rows else None for key, rows in found.items()}

    def cluster_of_each(self) -> pa.Table:
        """``image_id, cluster_id`` of all images that are in one, by id."""
        text = query.sql("assets.explore", "explore_cluster_of_each")
        with self._connection.cursor() as cursor:
            return cursor.sql(text).to_arrow_table()

    def count(self, table: str) -> int:
        row = query.one(self._connection.cursor(), f"SELECT count(*) AS rows FROM {query.identifier(table)}", {})
        assert row is not None
        return int(row["rows"])

    def _has(self, table: str) -> bool:
        return table in self._names

    def _ask(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query.sql("assets.explore", name), parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]
