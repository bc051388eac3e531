"""Which to keep: groups of near-duplicates at a threshold, the central image of each, and their tables."""

import dataclasses
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import query, schema
from pipeline.config import BalanceConfig, QueryConfig
from pipeline.errors import ConfigError, EmbeddingError
from pipeline.forest import Edges, components
from pipeline.store import Stage, StageResult, read_result
from pipeline.vectors import as_paths, list_matrix

log = logging.getLogger(__name__)

_MAX_DISTANCE = b"max_distance"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalanceReport:
    """``kept`` + ``removed`` = ``samples``; ``groups`` counts those of two or more images."""

    threshold: float
    samples: int
    kept: int
    removed: int
    groups: int
    largest_group: int
    largest_group_share: float
    max_distance_to_centre: float


def semantic_balance(
    embeddings: Path | Sequence[Path],
    forest: Path,
    output: Path,
    *,
    threshold: float | None = None,
    target_removal: float | None = None,
    max_distance_to_centre: float | None = None,
    images: Sequence[Path] | None = None,
    query_config: QueryConfig | None = None,
) -> BalanceReport:
    """Write ``balance_groups.parquet`` and ``removed_pairs.parquet`` into the folder ``output``.

    A group is a connected component of the forest at ``threshold`` (Euclidean, unit vectors); its centre is the member
    nearest to the mean of its members, ties going to the smallest ``sample_id``; the centre is kept. Give either
    ``threshold`` or ``target_removal``, the share of images to remove, for which the threshold is solved. With
    ``images`` (the files of the table of that name) and a ``text_embedding`` beside the image embedding,
    ``balanced_pairs.parquet`` is written too. Raises :class:`ConfigError` for an impossible threshold.
    """
    paths = as_paths(embeddings)
    output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".balance-", dir=output) as scratch,
        query.connect(query_config or QueryConfig(), scratch=Path(scratch)) as connection,
    ):
        ids = _sample_ids(connection, paths)
        chosen = _threshold(connection, forest, len(ids), threshold, target_removal)
        members = _members(connection, forest, ids, chosen)
        connection.register("members", members)
        connection.register("centres", pa.Table.from_batches(_centres(connection, paths), schema=_CENTRES))
        groups = output / "balance_groups.parquet"
        limit = math.inf if max_distance_to_centre is None else max_distance_to_centre
        _write(connection, groups, schema.BALANCE_GROUPS, embeddings=query.files(paths), max_distance_to_centre=limit)
        _write(connection, output / "removed_pairs.parquet", schema.REMOVED_PAIRS, groups=str(groups))
        if images is not None:
            _write(
                connection,
                output / "balanced_pairs.parquet",
                schema.BALANCED_PAIRS,
                groups=str(groups),
                images=query.files(list(images)),
                embeddings=query.files(paths),
            )
        counts = query.one(connection, query.sql("balance_counts"), {"groups": str(groups)})
        assert counts is not None
        return BalanceReport(threshold=chosen, **counts)


def balance_pairs(root: Path, config: BalanceConfig, query_config: QueryConfig) -> StageResult:
    """Stage ``balance``: ``balance_groups``, ``removed_pairs`` and ``balanced_pairs``."""
    embeddings = read_result(root, "teacher_embeddings")
    forest = read_result(root, "near_duplicates")
    images = read_result(root, "images")
    inputs = {"balance": [embeddings.digest, forest.digest, images.digest]}
    stage = Stage(root, "balance", version=1, config=config.content(), inputs=inputs)
    if stage.is_complete():
        return stage.result()
    with stage.running():
        for shard in stage.pending():
            with stage.output(shard) as output:
                folder = root / ".tmp" / "balance" / "tables"
                report = semantic_balance(
                    embeddings.parquet("teacher_embeddings"),
                    forest.parquet("near_duplicates")[0],
                    folder,
                    threshold=None if config.target_removal else config.threshold,
                    target_removal=config.target_removal,
                    max_distance_to_centre=config.max_distance_to_centre,
                    images=images.parquet("images"),
                    query_config=query_config,
                )
                for table in ("balance_groups", "removed_pairs", "balanced_pairs"):
                    (folder / f"{table}.parquet").replace(output.path(f"{table}/{table}.parquet"))
                output.rows, output.stats = report.samples, dataclasses.asdict(report)
        return stage.finish()


def threshold_sweep(
    forest: Path, samples: int, query_config: QueryConfig, *, max_distance: float, steps: int = 60
) -> pa.Table:
    """``threshold, removed, kept, removal_rate`` at ``steps`` + 1 thresholds from 0 to ``max_distance``."""
    with query.connect(query_config, scratch=forest.parent.parent / ".tmp") as connection:
        parameters = {"forest": str(forest), "samples": samples, "max_distance": max_distance, "steps": steps}
        return connection.sql(query.sql("threshold_sweep"), params=parameters).to_arrow_table()


_CENTRES = pa.schema(
    [
        schema.SAMPLE_ID,
        pa.field("centre_id", pa.int64(), nullable=False),
        pa.field("distance_to_centre", pa.float32(), nullable=False),
    ]
)


def _write(connection: duckdb.DuckDBPyConnection, path: Path, table_schema: pa.Schema, **parameters: Any) -> None:
    query.write(connection, query.sql(path.stem), parameters, path, table_schema)


def _sample_ids(connection: duckdb.DuckDBPyConnection, paths: list[Path]) -> np.ndarray:
    """All ids, ascending. Their order is that of the dense indices inside the forest code."""
    text = "SELECT sample_id FROM read_parquet($paths) ORDER BY sample_id"
    ids = connection.sql(text, params={"paths": query.files(paths)}).to_arrow_table()["sample_id"].to_numpy()
    if not len(ids):
        raise EmbeddingError(f"no embeddings: {len(paths)} files without a row")
    if (ids[1:] == ids[:-1]).any():
        raise EmbeddingError(f"{int((ids[1:] == ids[:-1]).sum())} values of sample_id stand more than once")
    return ids


def _threshold(
    connection: duckdb.DuckDBPyConnection,
    forest: Path,
    samples: int,
    threshold: float | None,
    target_removal: float | None,
) -> float:
    if (threshold is None) == (target_removal is None):
        raise ConfigError(
            f"give either threshold or target_removal, got threshold={threshold}, target_removal={target_removal}"
        )
    metadata = pq.read_schema(forest).metadata or {}
    reach = float(metadata.get(_MAX_DISTANCE, b"inf"))
    if threshold is not None:
        if not 0 < threshold < 2:
            raise ConfigError(f"threshold must lie in (0, 2), the distances of unit vectors; got {threshold}")
        if threshold > reach:
            raise ConfigError(
                f"threshold {threshold} lies beyond the forest's max_distance {reach}; make a larger forest"
            )
        return threshold
    assert target_removal is not None
    if not 0 < target_removal < 1:
        raise ConfigError(f"target_removal must lie in (0, 1); got {target_removal}")
    parameters = {"forest": str(forest), "removed": math.ceil(target_removal * samples)}
    found = query.one(connection, query.sql("threshold_for_removal"), parameters)
    if found is None:
        edges = pq.read_metadata(forest).num_rows
        raise ConfigError(
            f"target_removal {target_removal} of {samples} images is out of reach: at the forest's max_distance "
            f"{reach} {edges} are removed ({edges / samples:.3f}); make a forest with a larger max_distance"
        )
    return float(found["threshold"])


def _members(connection: duckdb.DuckDBPyConnection, forest: Path, ids: np.ndarray, threshold: float) -> pa.Table:
    """``sample_id, component`` of every image that has a neighbour within the threshold."""
    text = "SELECT * FROM read_parquet($forest) WHERE distance <= $threshold"
    edges = connection.sql(text, params={"forest": str(forest), "threshold": threshold}).to_arrow_table()
    ends = [edges["id_a"].to_numpy(), edges["id_b"].to_numpy()]
    a, b = (np.searchsorted(ids, end) for end in ends)
    for found, wanted in zip((a, b), ends):
        unknown = wanted[ids[np.minimum(found, len(ids) - 1)] != wanted]
        if len(unknown):
            raise EmbeddingError(f"{forest}: {len(unknown)} ids are not among the embeddings, e.g. {unknown[0]}")
    component = components(len(ids), Edges(a=a, b=b, distance=edges["distance"].to_numpy()))
    members = np.unique(np.concatenate([a, b]))
    return pa.table({"sample_id": ids[members], "component": component[members]})


def _centres(connection: duckdb.DuckDBPyConnection, paths: list[Path]) -> Iterator[pa.RecordBatch]:
    """``sample_id, centre_id, distance_to_centre`` of all members; holds one group's embeddings at a time."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    current = -1
    for batch in query.stream(connection, query.sql("members_by_group"), {"embeddings": query.files(paths)}):
        component = batch.column("component").to_numpy()
        ids = batch.column("sample_id").to_numpy()
        matrix = list_matrix(batch.column("image_embedding"), what="image_embedding")
        starts = np.flatnonzero(np.diff(component, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(component)]):
            if component[start] != current and held:
                yield _centre_of(held)
                held = []
            current = component[start]
            held.append((ids[start:end], matrix[start:end]))
    if held:
        yield _centre_of(held)


def _centre_of(parts: list[tuple[np.ndarray, np.ndarray]]) -> pa.RecordBatch:
    """One group, its rows ordered by sample_id. In float64, where sums of float16 vectors are exact, so that equal
    distances compare equal and the tie goes to the smallest id, which argmin meets first."""
    ids = np.concatenate([part for part, _ in parts])
    matrix = np.concatenate([part for _, part in parts]).astype(np.float64)
    centre = int(np.argmin(np.einsum("ij,ij->i", matrix - matrix.mean(axis=0), matrix - matrix.mean(axis=0))))
    distance = np.linalg.norm(matrix - matrix[centre], axis=1).astype(np.float32)
    return pa.RecordBatch.from_arrays([ids, np.full(len(ids), ids[centre]), distance], schema=_CENTRES)
