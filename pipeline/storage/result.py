"""What a completed stage left, for those that read it."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.core.errors import MissingInputError, ShardError
from pipeline.core.files import file_digest
from pipeline.storage.completion import (
    Mark,
    complete_mark,
    damaged,
    digest_of,
    is_table,
    read_marks,
)
from pipeline.storage.purged import refuse_half_purged
from pipeline.storage.roots import storage_of

# Versions of stages before these had one id for image and caption.
_FIRST_READABLE = {
    "images": 3,
    "teacher_embeddings": 3,
    "balance": 4,
    "clusters": 2,
    "training_shards": 2,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage has made, and how much of it was made by this call (``computed`` of ``shards``).

    ``shard_digests``: the digest of every shard, for a stage that works shard by shard on this one.
    """

    root: Path
    name: str
    fingerprint: str
    digest: str
    rows: int
    bytes: int
    seconds: float
    shards: int
    computed: int
    stats: dict[str, Any]
    tables: dict[str, int]
    sizes: dict[str, int]
    shard_digests: dict[str, str]
    before_purge: dict[str, str]

    @classmethod
    def of(cls, root: Path, name: str, mark: Mark, *, computed: int) -> "StageResult":
        """The result that the mark of a whole stage speaks of."""
        return cls(
            root=Path(root),
            name=name,
            fingerprint=mark.fingerprint,
            digest=mark.digest,
            rows=mark.rows,
            bytes=sum(mark.files.values()),
            seconds=mark.seconds,
            shards=len(mark.shards),
            computed=computed,
            stats=mark.stats,
            tables=mark.tables,
            sizes=mark.files,
            shard_digests=mark.shards,
            before_purge=mark.before_purge,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.root / name for name in self.sizes)

    def parquet(self, table: str) -> list[Path]:
        """The Parquet files of one table of this stage, in the order of their names, there to be read."""
        paths = self.paths(table)
        storage_of(self.root).fetch(self._names(paths))
        return paths

    def verified(self, table: str) -> list[Path]:
        """The same after :meth:`check`, for readers that look at no checksum, as DuckDB."""
        self.check()
        return self.parquet(table)

    def check(self) -> None:
        """Compare the bytes of all shards with the digests that they were completed with; tars are left out.

        Raises :class:`ShardError` that names a file of the first shard that is another.
        """
        marks = list(self.shard_marks().values())
        storage_of(self.root).fetch(name for mark in marks for name in mark.files if is_table(name))
        with ThreadPoolExecutor() as pool:
            digests = pool.map(lambda mark: digest_of(self.root / name for name in mark.files), marks)
            for mark, digest in zip(marks, digests):
                if digest != (mark.files_digest or mark.digest):
                    names = [name for name in mark.files if is_table(name)]
                    also = f" (or {', '.join(names[1:])})" if names[1:] else ""
                    raise ShardError(
                        f"{self.root / names[0]}{also}: damaged, its bytes are not those that were written",
                        damaged=self.root / names[0],
                    )

    def paths(self, table: str) -> list[Path]:
        """The same, whether there are local copies of them or not."""
        return sorted(path for path in self.files if path.parent.name == table and path.suffix == ".parquet")

    def file_digests(self, table: str) -> dict[str, str]:
        """Of each file of a table, by its stem, a digest for those that make something of it: of its bytes, or of what
        these were before images were purged from it."""
        paths = self.parquet(table)
        known = [self.before_purge.get(name) for name in self._names(paths)]
        return {path.stem: before or file_digest(path) for path, before in zip(paths, known)}

    def folder(self, name: str) -> Path:
        """A folder under the root with all files that this stage has in it and below it, and no others."""
        below = [path for path in self.files if path.is_relative_to(self.root / name)]
        storage_of(self.root).fetch(self._names(below), only=True)
        return self.root / name

    @contextlib.contextmanager
    def borrowed(self, ending: str) -> Iterator[None]:
        """While the block lasts, all files of this ending are there to be read."""
        with storage_of(self.root).borrowed(self._names(path for path in self.files if path.name.endswith(ending))):
            yield

    def shard_marks(self) -> dict[str, Mark]:
        """The mark of every shard."""
        return read_marks(storage_of(self.root), self.name, self.shard_digests)

    def _names(self, paths: Iterable[Path]) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in paths]


def read_result(root: Path, name: str) -> StageResult:
    """The result of a completed stage; :class:`MissingInputError` if it is not complete or its files are damaged."""
    storage = storage_of(Path(root))
    mark = complete_mark(storage, name)
    place = storage.uri("").rstrip("/") if storage.remote else root
    if mark is None:
        raise MissingInputError(f"stage '{name}' is not complete under {place}; run it first")
    if mark.version < _FIRST_READABLE.get(name, 0):
        raise MissingInputError(
            f"stage '{name}' under {place} was completed by an earlier version, whose tables have other keys; "
            "run the stage again"
        )
    lost = damaged(mark, storage.sizes(mark.files))
    if lost:
        refuse_half_purged(storage)
        raise MissingInputError(
            f"stage '{name}' under {place}: {lost[0]} is missing or does not have the {mark.files[lost[0]]} "
            f"bytes that were written ({len(lost)} such files); run the stage again to mend it"
        )
    return StageResult.of(root, name, mark, computed=0)
