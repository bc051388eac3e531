"""What is to go: the images that a list names, with all their pairs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.blocklists import BlockedCounts, blocked_rows
from pipeline.core import query
from pipeline.core.errors import BlocklistError, MissingInputError
from pipeline.storage.completion import Mark
from pipeline.storage.roots import storage_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gone:
    """Ids of images and of their pairs, each ascending, and the ``shards`` that images lie in. ``touched``: images that
    stay, but have got a caption of one that goes."""

    image_ids: np.ndarray
    sample_ids: np.ndarray
    touched: np.ndarray
    shards: frozenset[str]

    @classmethod
    def of(
        cls, image_ids: Sequence[int], sample_ids: Sequence[int], touched: Sequence[int], shards: Sequence[str]
    ) -> "Gone":
        """Of lists, as a journal has them."""
        ids = [np.unique(np.array(values, np.int64)) for values in (image_ids, sample_ids, touched)]
        return cls(image_ids=ids[0], sample_ids=ids[1], touched=ids[2], shards=frozenset(shards))

    def rows(self, table: pa.Table | pa.RecordBatch) -> np.ndarray:
        """Which rows (N,) of a table speak of something that goes."""
        gone = np.zeros(table.num_rows, bool)
        for name, ids in self.by_column.items():
            if name in table.schema.names:
                gone |= np.isin(table.column(name).to_numpy(zero_copy_only=False), ids)
        return gone

    @property
    def by_column(self) -> dict[str, np.ndarray]:
        """The ids that no row may have, by the column that they stand in."""
        return {
            "image_id": self.image_ids,
            "sample_id": self.sample_ids,
            "id_a": self.image_ids,
            "id_b": self.image_ids,
            "kept_image_id": self.image_ids,
        }


def find_gone(
    connection: duckdb.DuckDBPyConnection, root: Path, files: Sequence[Path | str], marks: Sequence[Mark]
) -> tuple[Gone, BlockedCounts]:
    """The images of a root that blocklists name. Raises :class:`BlocklistError` if there is none of them."""
    storage = storage_of(root)
    tables = {name: _files(marks, name) for name in ("source_pairs", "images", "balanced_pairs")}
    if not tables["source_pairs"]:
        raise MissingInputError(f"{storage.uri('')}: nothing says which image has which id: no source_pairs")
    with storage.borrowed(name for names in tables.values() for name in names):
        for table, names in tables.items():
            if names:
                paths = [str(root / name) for name in names]
                relation = connection.read_parquet(paths, hive_partitioning=False, union_by_name=True, filename=True)
                relation.create_view(table)
        hashes = _hashes(connection) if tables["images"] else ""
        connection.execute(query.sql("pipeline.purge", "known").format(**_joined(hashes)))
        counts = blocked_rows(connection, files, "known")
        if not counts.blocked:
            raise BlocklistError(f"{storage.uri('')}: none of the {counts.entries} entries of the list is there")
        # Captions move to other images when a balance is made.
        moved = query.sql("pipeline.purge", "touched") if tables["balanced_pairs"] else "SELECT 0 WHERE false"
        found = [
            connection.sql("SELECT image_id FROM blocked"),
            connection.sql("SELECT sample_id FROM known SEMI JOIN blocked USING (image_id)"),
            connection.sql(moved),
            connection.sql("SELECT DISTINCT shard FROM known SEMI JOIN blocked USING (image_id)"),
        ]
        gone = Gone.of(*([row[0] for row in relation.fetchall()] for relation in found))
    return gone, counts


def _files(marks: Sequence[Mark], table: str) -> list[str]:
    """The files of a table, by the marks of all shards."""
    return sorted(
        name
        for mark in marks
        for name in mark.files
        if str(PurePosixPath(name).parent) == table and name.endswith(".parquet")
    )


def _hashes(connection: duckdb.DuckDBPyConnection) -> str:
    # Earlier versions had but one.
    return ", ".join(name for name in ("sha256", "md5") if name in connection.table("images").columns)


def _joined(hashes: str) -> dict[str, str]:
    if not hashes:
        return {"hashes": "", "images": ""}
    return {
        "hashes": f", {hashes}",
        "images": f"LEFT JOIN (SELECT image_id, {hashes} FROM images) AS images USING (image_id)",
    }
