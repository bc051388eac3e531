"""Stage ``near_duplicates``: the forest over a root's image embeddings, extended where shards were added."""

import dataclasses
import logging
from pathlib import Path

from pipeline.compute.map import ComputeConfig
from pipeline.core.errors import MissingInputError
from pipeline.neighbors.config import NeighborsConfig
from pipeline.neighbors.search import near_duplicate_forest
from pipeline.neighbors.workspace import BaseForest
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Output, Stage

log = logging.getLogger(__name__)


# 3: of image ids.
_STAGE_VERSION = 3


_FOREST = "near_duplicates/forest.parquet"


# Which shards of embeddings the forest was made from, with their digests. Not JSON: it is no content of the table.
_COVERED = "near_duplicates/covered.tsv"


def build_forest(root: Path, config: NeighborsConfig, compute: ComputeConfig) -> StageResult:
    """Stage ``near_duplicates``: the forest over the teacher's image embeddings.

    Where the stage is complete and shards were added since, only pairs with an image of theirs are searched.
    """
    embeddings = read_result(root, "teacher_embeddings")
    stage = Stage(
        root, "near_duplicates", version=_STAGE_VERSION, config=config.content(), inputs={"forest": embeddings.digest}
    )

    def write(output: Output) -> None:
        covered = embeddings.shard_digests
        report = near_duplicate_forest(
            embeddings.parquet("teacher_embeddings"),
            output.path(_FOREST),
            max_distance=config.max_distance,
            id_column="image_id",
            prefix=config.prefix,
            precision=config.precision,
            device=config.device,
            tile_rows=config.tile_rows,
            memory_limit=config.memory_limit,
            compute=compute,
            # Not in the temporary folder of the output, which a new run clears.
            work=root / ".near_duplicates",
            base=_base(root, config, covered),
        )
        output.path(_COVERED).write_text("".join(f"{name}\t{digest}\n" for name, digest in covered.items()))
        output.rows, output.stats = report.edges, {**dataclasses.asdict(report), "version": _STAGE_VERSION}

    return stage.each(write)


def _base(root: Path, config: NeighborsConfig, now: dict[str, str]) -> BaseForest | None:
    """The forest of an earlier run, if it was made like this one from shards that are all still there."""
    try:
        earlier = read_result(root, "near_duplicates")
    except MissingInputError:
        return None
    if earlier.stats.get("version") != _STAGE_VERSION or earlier.stats["max_distance"] != config.max_distance:
        return None
    storage_of(root).fetch([_COVERED, _FOREST])
    covered = dict(line.split("\t") for line in (root / _COVERED).read_text().splitlines())
    if not covered.items() <= now.items():
        return None
    log.info("near_duplicates: %d of %d shards are covered by the forest that is there", len(covered), len(now))
    folder = root / "teacher_embeddings"
    return BaseForest(forest=root / _FOREST, embeddings=tuple(folder / f"{name}.parquet" for name in sorted(covered)))
