"""Which to keep: groups of near-duplicates at a threshold, the image that stands for each, and their tables."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.balance.blocklist import BlockedCounts, block
from pipeline.balance.centers import CENTERS
from pipeline.balance.components import label_components, open_forest
from pipeline.balance.config import BalanceConfig
from pipeline.balance.embeddings import open_embeddings
from pipeline.balance.report import BalanceReport, balance_report
from pipeline.balance.rules.base import Problem
from pipeline.balance.rules.registry import RULES
from pipeline.balance.threshold import STEPS, check_choice, reach_of, sweep, threshold_for_removal
from pipeline.core import query, schema
from pipeline.core.errors import ConfigError
from pipeline.core.query import QueryConfig

TABLES = ("balance_groups", "removed_pairs", "blocked_pairs")


def semantic_balance(
    embeddings: Path | Sequence[Path],
    forest: Path,
    output: Path,
    *,
    threshold: float | None = None,
    target_removal: float | None = None,
    max_distance_to_center: float | None = None,
    rule: Literal["connected_components", "semdedup", "random"] = "connected_components",
    blocklist: Sequence[Path | str] = (),
    images: Sequence[Path] | None = None,
    cells: int = 16,
    cell_iterations: int = 100,
    seed: int = 0,
    query_config: QueryConfig | None = None,
) -> BalanceReport:
    """Write ``balance_groups``, ``removed_pairs`` and ``blocked_pairs`` as Parquet files into the folder ``output``.

    By the default rule a group is a connected component of the forest at the threshold; its center is the member
    nearest to the mean of its members, ties going to the smallest ``sample_id``; the center is kept. Give either
    ``threshold`` or ``target_removal``. DuckDB works within ``query_config.memory_limit`` and spills to a folder under
    ``output``; beside it, a few numbers are held per image that has a neighbor.

    Args:
        embeddings: Parquet files, or a folder of them, with ``sample_id`` and ``image_embedding`` (unit vectors);
            similarities need a ``text_embedding`` beside it.
        forest: the file that :func:`pipeline.neighbors.near_duplicate_forest` has written for them.
        output: folder, made if need be.
        threshold: Euclidean distance in [0, 2) up to which images are near-duplicates.
        target_removal: share of the images to remove, in [0, 1), for which the threshold is solved.
        max_distance_to_center: members farther than this from their center are released; none means no bound.
        rule: which images stand for which; ``cells``, ``cell_iterations`` and ``seed`` are read by some of the rules,
            as :class:`BalanceConfig` says.
        blocklist: files of ids or URLs (see :func:`pipeline.balance.blocklist.block`); their images are counted and
            left out of everything, before any share is taken.
        images: files of the table of that name; with them ``balanced_pairs`` is written too.
        cells: k-means cells of SemDeDup's rule.
        cell_iterations: its Lloyd iterations.
        seed: seed of what is drawn.
        query_config: limits of DuckDB; none means the defaults.

    Returns:
        What was kept and removed, with the removal at other thresholds.

    Raises:
        ConfigError: for impossible settings.
        pipeline.core.errors.BlocklistError: for a blocklist that cannot be read, names nothing, or blocks all.
        pipeline.core.errors.EmbeddingError: for malformed embeddings, or a forest of others.
    """
    config = _checked(
        rule=rule,
        max_distance_to_center=max_distance_to_center,
        blocklist=[str(path) for path in blocklist],
        cells=cells,
        cell_iterations=cell_iterations,
        seed=seed,
    )
    check_choice(threshold, target_removal, reach=reach_of(forest))
    output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".balance-", dir=output) as scratch,
        query.connect(query_config or QueryConfig(), scratch=Path(scratch)) as connection,
    ):
        problem, blocked = _open(
            connection, Path(scratch), embeddings=embeddings, forest=forest, config=config, images=images
        )
        chosen_rule = RULES[rule]()
        chosen_rule.removals(problem)
        samples = problem.embeddings.rows - blocked.blocked
        curve = sweep(connection, samples=samples, max_distance=problem.reach).to_arrow_table().to_pylist()
        if threshold is None:
            assert target_removal is not None
            threshold = threshold_for_removal(connection, target_removal, samples=samples, reach=problem.reach)
        label_components(connection, threshold)
        _write_centers(problem, chosen_rule.groups(problem, threshold))
        _write_tables(problem, output, images)
        return balance_report(
            connection,
            output / "balance_groups.parquet",
            rule=rule,
            threshold=threshold,
            blocked=blocked,
            sweep=curve,
        )


def threshold_sweep(
    forest: Path, samples: int, query_config: QueryConfig, *, max_distance: float, steps: int = STEPS
) -> pa.Table:
    """``threshold, removed, kept, removal_rate`` at ``steps`` + 1 thresholds from 0 to ``max_distance``."""
    with query.connect(query_config, scratch=forest.parent.parent / ".tmp") as connection:
        query.view(connection, "removals", [forest])
        return sweep(connection, samples=samples, max_distance=max_distance, steps=steps).to_arrow_table()


def _checked(**values: Any) -> BalanceConfig:
    try:
        return BalanceConfig.model_validate(values)
    except ValueError as error:
        raise ConfigError(f"balance: {error}") from error


def _open(
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    *,
    embeddings: Path | Sequence[Path],
    forest: Path,
    config: BalanceConfig,
    images: Sequence[Path] | None,
) -> tuple[Problem, BlockedCounts]:
    found = open_embeddings(connection, embeddings)
    blocked = block(connection, config.blocklist, images)
    connection.execute(
        "CREATE TEMP VIEW embedded AS SELECT sample_id FROM embeddings ANTI JOIN blocked USING (sample_id)"
    )
    open_forest(connection, forest, blocked=blocked.blocked)
    connection.execute(query.sql("pipeline.balance", "random_order"))
    connection.execute(query.sql("pipeline.balance", "similarities" if found.has_text else "no_similarities"))
    problem = Problem(connection=connection, embeddings=found, scratch=scratch, reach=reach_of(forest), config=config)
    return problem, blocked


def _write_centers(problem: Problem, batches: Any) -> None:
    """Through a file, not through memory: there may be as many rows as images."""
    path = problem.scratch / "centers.parquet"
    with pq.ParquetWriter(path, CENTERS) as writer:
        for batch in batches:
            writer.write_batch(batch)
    query.view(problem.connection, "centers", [path])


def _write_tables(problem: Problem, output: Path, images: Sequence[Path] | None) -> None:
    limit = problem.config.max_distance_to_center
    groups = {"groups": [str(output / "balance_groups.parquet")]}
    limits = {"max_distance_to_center": math.inf if limit is None else limit}
    _write(problem, output, "balance_groups", schema.BALANCE_GROUPS, limits)
    _write(problem, output, "removed_pairs", schema.REMOVED_PAIRS, groups)
    _write(problem, output, "blocked_pairs", schema.BLOCKED_PAIRS, {})
    if images is not None:
        named = groups | {"images": query.files(list(images))}
        _write(problem, output, "balanced_pairs", schema.BALANCED_PAIRS, named)


def _write(problem: Problem, output: Path, table: str, table_schema: pa.Schema, parameters: dict[str, Any]) -> None:
    query.write(
        problem.connection, query.sql("pipeline.balance", table), parameters, output / f"{table}.parquet", table_schema
    )
