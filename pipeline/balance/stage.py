"""Stage ``balance``: from a root's embeddings and forest to its balanced pairs."""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.balance.config import BalanceConfig, DecontaminateConfig
from pipeline.balance.facts import PairTables
from pipeline.balance.report import BalanceReport
from pipeline.balance.semantic_balance import TABLES, semantic_balance
from pipeline.balance.threshold import OutOfReachError
from pipeline.blocklists import blocklist_digests, keep_list_digests
from pipeline.core.errors import ConfigError, MissingInputError
from pipeline.core.query import QueryConfig
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage


def balance_pairs(root: Path, config: BalanceConfig, query_config: QueryConfig) -> StageResult:
    """Stage ``balance``: ``balance_groups``, ``removed_pairs``, ``blocked_pairs``, ``filtered_pairs`` and
    ``balanced_pairs``."""
    names = ("source_pairs", "images", "teacher_embeddings", "near_duplicates")
    source, images, embeddings, forest = results = [read_result(root, name) for name in names]
    content = {**config.content(), "blocklist": blocklist_digests(config.blocklist)}
    if config.keep_list:
        content["keep_list"] = keep_list_digests(config.keep_list)
    # Scores are asked for by these alone.
    scored = [read_result(root, "scores")] if config.where is not None or config.keep_by else []
    leaks = [_leaks(root, config.decontaminate)] if config.decontaminate.datasets else []
    inputs = {"balance": [result.digest for result in (*results, *scored, *leaks)]}
    stage = Stage(root, "balance", version=4, config=content, inputs=inputs)

    def write(output: Output) -> None:
        folder = root / ".tmp" / "balance" / "tables"
        options = config.model_dump(exclude={"decontaminate"})
        if config.removal is not None:
            options |= {"threshold": None, "target_removal": config.removal}
        report = _balance(
            config,
            embeddings.verified("teacher_embeddings"),
            forest.verified("near_duplicates")[0],
            folder,
            id_column="image_id",
            tables=PairTables(
                images=images.verified("images"),
                pairs=source.verified("source_pairs"),
                captions=embeddings.parquet("caption_embeddings"),
                attributes=source.parquet("source_attributes"),
                scores=[path for result in scored for path in result.verified("scores")],
                leaks=[path for result in leaks for path in result.verified("evaluation_leaks")],
            ),
            query_config=query_config,
            **options,
        )
        for table in (*TABLES, "balanced_pairs"):
            (folder / f"{table}.parquet").replace(output.path(f"{table}/{table}.parquet"))
        output.rows, output.stats = report.samples, dataclasses.asdict(report)

    return stage.each(write)


def _leaks(root: Path, config: DecontaminateConfig) -> StageResult:
    """The result of the stage ``evaluation_leaks``, refused if it was asked for something else."""
    found = read_result(root, "evaluation_leaks")
    names = sorted(Path(name).resolve().name for name in config.datasets)
    if (found.stats.get("datasets"), found.stats.get("threshold")) != (names, config.threshold):
        raise MissingInputError(
            f"stage 'evaluation_leaks' under {root} has looked at {found.stats.get('datasets', [])} within "
            f"{found.stats.get('threshold')}, but balance.decontaminate asks for {names} within {config.threshold}; "
            "run it again"
        )
    return found


def _balance(config: BalanceConfig, *args: Any, **options: Any) -> BalanceReport:
    """:func:`semantic_balance`, whose share to remove need not be one that the user has asked for."""
    try:
        return semantic_balance(*args, **options)
    except OutOfReachError as error:
        if config.target_removal is not None:
            raise ConfigError(str(error)) from error
        raise ConfigError(
            "neither balance.threshold nor balance.target_removal is given, so the share that the paper removed was "
            f"asked for: {error}. Other data may have fewer near-duplicates: give a balance.threshold, such as "
            "`clip-cid advise` proposes"
        ) from error
