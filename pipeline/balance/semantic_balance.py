"""Which to keep: groups of near-duplicates at a threshold, the image that stands for each, and their tables."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.balance.centers import CENTERS
from pipeline.balance.components import label_components, open_forest
from pipeline.balance.config import BalanceConfig
from pipeline.balance.election import elect, kept_members, repeat_removals
from pipeline.balance.embeddings import EmbeddingFiles, open_embeddings
from pipeline.balance.facts import PairTables, open_facts
from pipeline.balance.filters import block, filter_pairs, forest_of_the_rest
from pipeline.balance.report import BalanceReport, LeftOut, balance_report
from pipeline.balance.rules.base import Problem
from pipeline.balance.rules.registry import RULES
from pipeline.balance.threshold import STEPS, check_choice, reach_of, sweep, threshold_for_removal
from pipeline.core import query, schema
from pipeline.core.errors import ConfigError
from pipeline.core.query import QueryConfig

TABLES = ("balance_groups", "removed_pairs", "blocked_pairs", "filtered_pairs")


def semantic_balance(
    embeddings: Path | Sequence[Path],
    forest: Path,
    output: Path,
    *,
    id_column: str = "sample_id",
    threshold: float | None = None,
    target_removal: float | None = None,
    max_distance_to_center: float | None = None,
    rule: Literal["connected_components", "bounded", "semdedup", "random"] = "connected_components",
    keep_by: Sequence[str] = (),
    keep_per_group: int = 1,
    captions: Literal["own", "group"] = "own",
    where: str | None = None,
    blocklist: Sequence[Path | str] = (),
    keep_list: Sequence[Path | str] = (),
    tables: PairTables | None = None,
    cells: int = 16,
    cell_iterations: int = 100,
    seed: int = 0,
    query_config: QueryConfig | None = None,
) -> BalanceReport:
    """Write ``balance_groups``, ``removed_pairs``, ``blocked_pairs`` and ``filtered_pairs`` as Parquet files into the
    folder ``output``; with ``tables`` also ``balanced_pairs``.

    By the default rule a group is a connected component of the forest at the threshold; its center is the member
    nearest to the mean of its members, ties going to the smallest ``image_id``; the center is kept. By rule ``bounded``
    components are cut until no removed image is farther than ``max_distance_to_center``, or else the threshold, from
    the one that is kept. Give either ``threshold`` or ``target_removal``. DuckDB works within
    ``query_config.memory_limit`` and spills to a folder under ``output``; beside it, a few numbers are held per image
    that has a neighbor.

    Args:
        embeddings: Parquet files, or a folder of them, with ``image_id`` and ``image_embedding`` (unit vectors);
            similarities need a ``text_embedding`` beside it.
        forest: the file that :func:`pipeline.neighbors.near_duplicate_forest` has written for them.
        output: folder, made if need be.
        id_column: column of the id, a 64-bit integer; the tables that are written call it so too.
        threshold: Euclidean distance in [0, 2) up to which images are near-duplicates.
        target_removal: share of the images to remove, in [0, 1), for which the threshold is solved.
        max_distance_to_center: members farther than this from the image that stands for them are released; none means
            no bound. Rule ``bounded`` cuts groups by it instead, and takes the threshold for none.
        keep_by: terms of ``ORDER BY`` by which the first of a group stays; none means the center.
        keep_per_group: how many of a group stay.
        captions: whether captions of removed images are given to the one that stands for them; needs ``tables``.
        where: DuckDB expression that must be true for what is used, over the other columns of the files of embeddings,
            or over ``tables``.
        rule: which images stand for which; ``cells``, ``cell_iterations`` and ``seed`` are read by some of the rules,
            as :class:`BalanceConfig` says.
        blocklist: files of ids, URLs, hosts or hashes (see :func:`pipeline.blocklists.blocked_rows`); their images are
            counted and left out of everything, before any share is taken.
        keep_list: files of ``uid`` (see :func:`pipeline.blocklists.unlisted_rows`); other pairs are filtered.
        tables: what is known of images and pairs.
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
        keep_by=list(keep_by),
        keep_per_group=keep_per_group,
        captions=captions,
        where=where,
        blocklist=[str(path) for path in blocklist],
        keep_list=[str(path) for path in keep_list],
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
        found = open_embeddings(connection, embeddings, id_column)
        problem, left_out = _open(connection, Path(scratch), found, forest=forest, config=config, tables=tables)
        chosen_rule = RULES[rule]()
        chosen_rule.removals(problem)
        if keep_per_group > 1:
            repeat_removals(connection, keep_per_group)
        samples = problem.images
        curve = sweep(connection, samples=samples, max_distance=problem.reach).to_arrow_table().to_pylist()
        if threshold is None:
            assert target_removal is not None
            threshold = threshold_for_removal(
                connection, target_removal, samples=samples, reach=problem.reach, also=_also_possible(config)
            )
        label_components(connection, threshold)
        _write_centers(problem, chosen_rule.groups(problem, threshold))
        if keep_by:
            elect(problem, keep_by)
        groups = _write_tables(problem, output, tables)
        return balance_report(
            connection,
            groups,
            rule=rule,
            threshold=threshold,
            left_out=left_out,
            sweep=curve,
        )


def threshold_sweep(
    forest: Path, samples: int, query_config: QueryConfig, *, max_distance: float, steps: int = STEPS
) -> pa.Table:
    """``threshold, removed, kept, removal_rate`` at ``steps`` + 1 thresholds from 0 to ``max_distance``."""
    with query.connect(query_config, scratch=forest.parent.parent / ".tmp") as connection:
        query.view(connection, "removals", [forest])
        return sweep(connection, samples=samples, max_distance=max_distance, steps=steps).to_arrow_table()


def _also_possible(config: BalanceConfig) -> str:
    """What removes more beside a larger forest."""
    limit = config.max_distance_to_center
    bounded = config.rule == "bounded" and limit is not None
    return f", or allow a larger max_distance_to_center than {limit:g}" if bounded else ""


def _checked(**values: Any) -> BalanceConfig:
    try:
        return BalanceConfig.model_validate(values)
    except ValueError as error:
        raise ConfigError(f"balance: {error}") from error


def _open(
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    embeddings: EmbeddingFiles,
    *,
    forest: Path,
    config: BalanceConfig,
    tables: PairTables | None,
) -> tuple[Problem, LeftOut]:
    """All relations that a rule sees, and what is not among them."""
    open_facts(connection, embeddings, tables)
    blocked = block(connection, config.blocklist)
    filter_pairs(connection, config.where, tables.leaks if tables else (), config.keep_list)
    left_out = LeftOut.of(connection, blocked)
    connection.execute(
        "CREATE TEMP VIEW embedded AS SELECT image_id FROM embeddings "
        "ANTI JOIN blocked USING (image_id) ANTI JOIN filtered_images USING (image_id)"
    )
    problem = Problem(
        connection=connection,
        embeddings=embeddings,
        images=embeddings.rows - left_out.images,
        scratch=scratch,
        reach=reach_of(forest),
        config=config,
    )
    if left_out.filtered_images:
        forest = forest_of_the_rest(problem, forest)
    open_forest(connection, forest, blocked=blocked.blocked)
    connection.execute(query.sql("pipeline.balance", "random_order"))
    return problem, left_out


def _write_centers(problem: Problem, batches: Any) -> None:
    """Through a file, not through memory: there may be as many rows as images."""
    path = problem.scratch / "centers.parquet"
    with pq.ParquetWriter(path, CENTERS) as writer:
        for batch in batches:
            writer.write_batch(batch)
    query.view(problem.connection, "centers", [path])


def _write_tables(problem: Problem, output: Path, tables: PairTables | None) -> Path:
    """Returns the file of ``balance_groups`` in which the id is called ``image_id``."""
    config, connection = problem.config, problem.connection
    # Rule `bounded` has cut groups by it already.
    limit = None if config.rule == "bounded" else config.max_distance_to_center
    file = problem.scratch / "balance_groups.parquet"
    limits = {"max_distance_to_center": math.inf if limit is None else limit}
    kept = kept_members(config.keep_per_group, ordered=bool(config.keep_by))
    text = query.sql("pipeline.balance", "balance_groups").format(**kept)
    query.write(connection, text, limits, file, schema.BALANCE_GROUPS)
    groups = {"groups": [str(file)]}
    everything = "FROM read_parquet($groups, hive_partitioning = false)"
    _write(problem, output, schema.BALANCE_GROUPS, groups, balance_groups=everything)
    _write(problem, output, schema.REMOVED_PAIRS, groups, removed_pairs=query.sql("pipeline.balance", "removed_pairs"))
    _write(problem, output, schema.BLOCKED_PAIRS, {}, blocked_pairs=query.sql("pipeline.balance", "blocked_pairs"))
    _write(problem, output, schema.FILTERED_PAIRS, {}, filtered_pairs=query.sql("pipeline.balance", "filtered_pairs"))
    if tables is not None:
        moved = config.captions == "group"
        if moved:
            connection.execute(query.sql("pipeline.balance", "moved_captions"), groups)
        text = query.sql("pipeline.balance", "balanced_pairs").format(moved=" UNION ALL FROM moved" if moved else "")
        _write(problem, output, schema.BALANCED_PAIRS, groups, balanced_pairs=text)
    return file


def _write(problem: Problem, output: Path, table_schema: pa.Schema, parameters: dict[str, Any], **tables: str) -> None:
    """A table by its name and query, under its ids' own name: a folder of embeddings has one id, not one of an image
    and one of a pair."""
    ((table, text),) = tables.items()
    id_column = problem.embeddings.id_column
    if id_column != "image_id":
        names = [name for name in table_schema.names if name != "sample_id"]
        renamed = {name: name.replace("image_id", id_column) for name in names}
        table_schema = pa.schema([table_schema.field(name).with_name(renamed[name]) for name in names])
        chosen = ", ".join(f"{query.identifier(name)} AS {query.identifier(renamed[name])}" for name in names)
        text = f"SELECT {chosen} FROM ({text}\n)"
    query.write(problem.connection, text, parameters, output / f"{table}.parquet", table_schema)
