"""Which tables a root has now, finished or not, and the relations of DuckDB over them."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb

from pipeline.core import query
from pipeline.core.errors import MissingInputError
from pipeline.core.query import QueryConfig
from pipeline.storage.completion import COMPLETE, complete_mark, damaged, read_marks
from pipeline.storage.damage import shards_with_marks
from pipeline.storage.result import read_result
from pipeline.storage.roots import storage_of

STAGES = {
    "source_pairs": ("source_pairs",),
    "images": ("images", "index"),
    "teacher_embeddings": ("teacher_embeddings", "caption_embeddings"),
    "near_duplicates": ("near_duplicates",),
    "balance": ("balance_groups", "filtered_pairs", "blocked_pairs"),
    "evaluation_leaks": ("evaluation_leaks",),
    "clusters": ("cluster_assignments",),
    "cluster_accuracy": ("cluster_accuracy",),
}
"""Tables that are shown, by the stage that makes them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """``files``: of each table that has any. ``stats``: of each stage that is complete. ``notes``: a line for each
    stage of which only a part is there, or whose files cannot be used."""

    files: dict[str, list[Path]]
    stats: dict[str, dict[str, Any]]
    notes: list[str]

    def __contains__(self, name: str) -> bool:
        return name in self.files


def find_tables(root: Path) -> Tables:
    """What is there now. Of a stage that is under way, the shards that are done."""
    files: dict[str, list[Path]] = {}
    stats: dict[str, dict[str, Any]] = {}
    notes = []
    for stage, names in STAGES.items():
        try:
            result = read_result(root, stage)
        except MissingInputError as error:
            if complete_mark(storage_of(root), stage) is not None:
                notes.append(str(error))
                continue
            found, shards = _part(root, stage)
            if shards:
                notes.append(f"Stage {stage} is not complete: what its {shards:,} finished shards hold is shown.")
        else:
            stats[stage] = result.stats
            found = {name: result.parquet(name) for name in names}
        files |= {name: found[name] for name in names if found.get(name)}
    return Tables(files=files, stats=stats, notes=notes)


def _part(root: Path, stage: str) -> tuple[dict[str, list[Path]], int]:
    """Files by table of the shards whose files are all there, and how many shards these are."""
    storage = storage_of(root)
    marks = read_marks(storage, stage, set(shards_with_marks(storage, stage)) - {COMPLETE, "lock"})
    sizes = storage.sizes(name for mark in marks.values() for name in mark.files)
    whole = [mark for mark in marks.values() if not damaged(mark, sizes)]
    found: dict[str, list[Path]] = {}
    for name in sorted(name for mark in whole for name in mark.files if name.endswith(".parquet")):
        storage.fetch([name])
        found.setdefault(PurePosixPath(name).parent.name, []).append(root / name)
    return found, len(whole)


def signature(root: Path) -> str:
    """Another one as soon as a stage has been completed, begun anew, or has finished a shard."""
    storage = storage_of(root)
    marks = {stage: shards_with_marks(storage, stage) for stage in STAGES}
    whole = storage.texts(f".marks/{stage}/{COMPLETE}.json" for stage in STAGES)
    return repr((sorted(marks.items()), sorted(whole.items())))


@contextlib.contextmanager
def relations(tables: Tables, config: QueryConfig) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in which each table is a relation of its name. It spills outside the root, which is only read."""
    with (
        tempfile.TemporaryDirectory(prefix="explore-") as scratch,
        query.connect(config, scratch=Path(scratch)) as connection,
    ):
        for name, paths in tables.files.items():
            query.view(connection, name, paths)
        yield connection
