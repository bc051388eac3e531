"""Files that are no longer what was written: whose they are, and that the next run makes them anew."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.core.files import file_digest
from pipeline.storage.completion import COMPLETE, REMEMBERED, mark_name, read_marks, shard_of
from pipeline.storage.protocol import Storage
from pipeline.storage.roots import storage_of

log = logging.getLogger(__name__)


@contextlib.contextmanager
def mended_next_time(root: Path) -> Iterator[None]:
    """An error that blames a file under the root takes away the completion mark that speaks of it, and says so."""
    try:
        yield
    except PipelineError as error:
        told = forget(root, error.damaged) if error.damaged else None
        if told is None:
            raise
        raise type(error)(f"{error}; {told}") from error


def forget(root: Path, path: Path) -> str | None:
    """Let the shard that a damaged file belongs to count as not made; returns what the next run does, in words.

    Nothing is done about a file that no stage of the root has made.
    """
    storage = storage_of(root)
    try:
        name = path.resolve().relative_to(storage.root.resolve()).as_posix()
    except ValueError:
        return None
    if storage.remote and _only_the_copy(storage, name):
        return "it was copied anew from the store: run again"
    for stage in stages_with_marks(storage):
        for shard, mark in read_marks(storage, stage, shards_with_marks(storage, stage)).items():
            if shard != COMPLETE and name in mark.files:
                forget_shard(storage, stage, shard)
                return f"run again: shard {shard} of stage {stage} is made anew"
    return None


def forget_shard(storage: Storage, stage: str, shard: str) -> None:
    """Remove the marks that say that a shard, and so its stage, is done."""
    log.info("%s: shard %s is no longer marked as complete", stage, shard)
    storage.remove([mark_name(stage, COMPLETE), mark_name(stage, shard)])


def stages_with_marks(storage: Storage) -> list[str]:
    """Stages that have left a mark."""
    return [name for name in storage.folders(".marks") if f".marks/{name}" != REMEMBERED]


def shards_with_marks(storage: Storage, stage: str) -> list[str]:
    """Shards of a stage that a mark speaks of, whether it can be read or not, and the one of the whole stage."""
    return [shard_of(name) for name in storage.names(f".marks/{stage}", ".json")]


def _only_the_copy(storage: Storage, name: str) -> bool:
    """Whether the store's object is another than the local copy, which it then replaces."""
    path = storage.root / name
    if not path.exists() or not storage.sizes([name]):
        return False
    before = file_digest(path)
    path.unlink()
    storage.fetch([name])
    return file_digest(path) != before
