"""Stage ``balance``: from a root's embeddings and forest to its balanced pairs."""

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.balance.blocklist import blocklist_digests
from pipeline.balance.config import BalanceConfig
from pipeline.balance.semantic_balance import TABLES, semantic_balance
from pipeline.core.query import QueryConfig
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage

# Of columns and statistics, since version 3.
_RENAMED = {
    "distance_to_centre": "distance_to_center",
    "max_distance_to_centre": "max_distance_to_center",
}


def _rename_columns(source: Path, target: Path) -> None:
    table = pq.read_table(source)
    names = [_RENAMED.get(name, name) for name in table.column_names]
    pq.write_table(table.rename_columns(names), target, compression="zstd")


def balance_pairs(root: Path, config: BalanceConfig, query_config: QueryConfig) -> StageResult:
    """Stage ``balance``: ``balance_groups``, ``removed_pairs``, ``blocked_pairs`` and ``balanced_pairs``."""
    embeddings = read_result(root, "teacher_embeddings")
    forest = read_result(root, "near_duplicates")
    images = read_result(root, "images")
    inputs = {"balance": [embeddings.digest, forest.digest, images.digest]}
    content = {**config.content(), "blocklist": blocklist_digests(config.blocklist)}
    stage = Stage(root, "balance", version=3, config=content, inputs=inputs)
    stage.take_over(Stage(root, "balance", version=2, config=content, inputs=inputs), _rename_columns, _RENAMED)

    def write(output: Output) -> None:
        folder = root / ".tmp" / "balance" / "tables"
        options = config.model_dump()
        if config.target_removal is not None:
            options["threshold"] = None
        report = semantic_balance(
            embeddings.parquet("teacher_embeddings"),
            forest.parquet("near_duplicates")[0],
            folder,
            images=images.parquet("images"),
            query_config=query_config,
            **options,
        )
        for table in (*TABLES, "balanced_pairs"):
            (folder / f"{table}.parquet").replace(output.path(f"{table}/{table}.parquet"))
        output.rows, output.stats = report.samples, dataclasses.asdict(report)

    return stage.each(write)
