"""Read everything under a root once, and say what is no longer what was written."""

import dataclasses
import logging
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.core import parquet
from pipeline.core.errors import ConfigError, ShardError
from pipeline.core.progress import Progress
from pipeline.core.tars import Place, TarReader, read_index
from pipeline.storage.completion import COMPLETE, Mark, damaged, digest_of, is_table, mark_name, read_marks
from pipeline.storage.damage import forget_shard, shards_with_marks, stages_with_marks
from pipeline.storage.protocol import Storage
from pipeline.storage.roots import storage_of

log = logging.getLogger(__name__)

_NOT_AS_WRITTEN = "this or another table of its shard is not as it was written"
# The one stage and version whose marks may have no digest of the files that there are now.
_REWRITTEN = ("balance", 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damage:
    """A file, or mark, that is missing or damaged, and the shard that has to be made anew for it."""

    stage: str
    shard: str
    file: str
    fault: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
    """What was read, and what is wrong with it. ``unknown``: files that can be read, but that nothing is known of to
    compare them with, because an earlier version rewrote them and kept the digest of what they were before."""

    shards: int
    files: int
    bytes: int
    damage: list[Damage]
    unknown: list[str]


def verify_root(root: Path) -> Verified:
    """Compare everything that is marked as complete with its marks: sizes, digests of tables, checksums in tars.

    Raises :class:`ConfigError` for a folder in which no stage has left a mark.
    """
    storage = storage_of(root)
    found: list[Damage] = []
    unknown: list[str] = []
    marks: list[tuple[str, str, Mark]] = []
    for stage in stages_with_marks(storage):
        names = shards_with_marks(storage, stage)
        readable = read_marks(storage, stage, names)
        found += [
            Damage(stage=stage, shard=shard, file=mark_name(stage, shard), fault="an unreadable completion mark")
            for shard in names
            if shard not in readable
        ]
        marks += [(stage, shard, mark) for shard, mark in sorted(readable.items()) if shard != COMPLETE]
    if not marks and not found:
        raise ConfigError(f"{storage.uri('')}: no root in which a stage was completed")
    total = sum(sum(mark.files.values()) for _, _, mark in marks)
    with Progress(log, "verify", total=total, unit="bytes") as progress:
        for stage, shard, mark in marks:
            faults = _faults(storage, stage, mark)
            if faults is None:
                unknown += sorted(mark.files)
            else:
                found += [Damage(stage=stage, shard=shard, file=name, fault=fault) for name, fault in faults.items()]
            progress.add(sum(mark.files.values()))
    files = sum(len(mark.files) for _, _, mark in marks)
    return Verified(shards=len(marks), files=files, bytes=total, damage=found, unknown=unknown)


def forget_damaged(root: Path, damage: Iterable[Damage]) -> int:
    """Remove the completion marks of shards that are damaged, so that the next run makes them; returns their number."""
    shards = {(item.stage, item.shard) for item in damage}
    for stage, shard in sorted(shards):
        forget_shard(storage_of(root), stage, shard)
    return len(shards)


def _faults(storage: Storage, stage: str, mark: Mark) -> dict[str, str] | None:
    """What is wrong with the files of a shard, by name; nothing at all if they can be compared with nothing."""
    sizes = storage.sizes(mark.files)
    lost = {
        name: f"{sizes[name]:,} bytes, {mark.files[name]:,} were written" if name in sizes else "missing"
        for name in damaged(mark, sizes)
    }
    if lost:
        return lost
    with storage.borrowed(mark.files):
        paths = {name: storage.root / name for name in mark.files}
        tables = {name: path for name, path in paths.items() if is_table(name)}
        found = _changed_tables(tables, mark.files_digest or mark.digest)
        if list(found.values()) == [_NOT_AS_WRITTEN] and _may_be_rewritten(stage, mark, tables.values()):
            return None
        for name, path in paths.items():
            if path.suffix == ".tar":
                fault = _tar_fault(path, paths.values())
                found |= {name: fault} if fault else {}
    return found


def _changed_tables(paths: dict[str, Path], digest: str) -> dict[str, str]:
    """Tables that are not those that were written. The digest is of all; which it is, checksums of pages may tell."""
    if digest_of(paths.values()) == digest:
        return {}
    faults = {name: parquet.fault_of(path) for name, path in paths.items() if path.suffix == ".parquet"}
    found = {name: fault for name, fault in faults.items() if fault}
    return found or dict.fromkeys(list(paths)[:1], _NOT_AS_WRITTEN)


def _may_be_rewritten(stage: str, mark: Mark, tables: Iterable[Path]) -> bool:
    """Whether a digest may be that of what the tables were before an earlier version gave their columns other names.

    Nothing in the mark says so, but that version wrote no checksums of pages, which have been written ever since.
    """
    return (stage, mark.version) == _REWRITTEN and not mark.files_digest and not any(map(parquet.has_checksums, tables))


def _tar_fault(tar: Path, beside: Iterable[Path]) -> str | None:
    """The first fault of a tar; samples are compared with the index beside it, if there is one that can be read."""
    try:
        rows = next((rows for path in beside if path.stem == tar.stem and (rows := _index_rows(path))), None)
        if rows is None:
            # Nothing says what its samples were; headers sum themselves.
            with tarfile.open(tar) as members:
                members.getmembers()
            return None
        reader = TarReader(tar)
        for row in rows:
            reader.sample(*Place.of(row))
    except (OSError, ValueError, tarfile.TarError, ShardError) as error:
        return str(error)
    return None


def _index_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the index of a tar; none for another file."""
    if path.suffix != ".parquet":
        return []
    try:
        with parquet.reading(path):
            is_index = "offset" in pq.read_schema(path).names
        return read_index(path).to_pylist() if is_index else []
    except ShardError:
        # Told of as a table that is damaged.
        return []
