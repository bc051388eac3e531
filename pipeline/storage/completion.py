"""Marks: the small JSON records, written last, that a shard or a whole stage is done."""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.core.errors import StorageError
from pipeline.core.files import file_digest, fingerprint_of
from pipeline.storage.protocol import Storage

log = logging.getLogger(__name__)

COMPLETE = "complete"
"""The name of the mark of a whole stage, among those of its shards."""

REMEMBERED = ".marks/page"
"""What was drawn and compared, kept beside the marks of stages; it is none."""

REPORT = "report.html"
"""What the last job has written for people, with pictures and captions; no stage made it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """The record that a shard, or a whole stage, is done. ``seconds``: of writing the shard; of the run that completed
    the stage, without those that were killed before. ``tables``: rows of each table; ``shards``: for a whole stage, the
    digest of each of its shards; ``version``: that of the stage, 0 in marks of earlier versions of this project;
    ``files_digest``: that of the files where ``digest`` is of what they were before their tables were rewritten;
    ``before_purge``: digests that single files had before images were purged from them: what was made from them is
    still what would be made."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    fingerprint: str
    digest: str
    rows: int
    files: dict[str, int]
    seconds: float
    stats: dict[str, Any]
    tables: dict[str, int] = dataclasses.field(default_factory=dict)
    shards: dict[str, str] = dataclasses.field(default_factory=dict)
    version: int = 0
    files_digest: str = ""
    before_purge: dict[str, str] = dataclasses.field(default_factory=dict)


def mark_name(stage: str, shard: str) -> str:
    """Where a mark lies under the root."""
    return f".marks/{stage}/{shard}.json"


def shard_of(mark_name: str) -> str:
    """The shard that a mark of this name is of."""
    return PurePosixPath(mark_name).stem


def read_marks(storage: Storage, stage: str, shards: Iterable[str]) -> dict[str, Mark]:
    """The marks that are there, by shard.

    One that cannot be read, as a crash may leave it, counts as missing: to make a shard again is always safe. Raises
    :class:`StorageError` for one with fields that only a newer version knows, whose work must not be replaced.
    """
    texts = storage.texts(mark_name(stage, shard) for shard in shards)
    marks = {shard_of(name): _parse(text, storage.uri(name)) for name, text in texts.items()}
    return {shard: mark for shard, mark in marks.items() if mark is not None}


def newer_version(where: str, what: str) -> StorageError:
    """The error for a mark that a newer version of this project has written."""
    return StorageError(
        f"{where}: written by a newer version of this project ({what}); use that version, or another root"
    )


def _parse(text: str, where: str) -> Mark | None:
    try:
        return _reader().validate_json(text)
    except ValidationError as error:
        faults = {str(fault["loc"][0]): fault["type"] for fault in error.errors() if fault["loc"]}
        unknown = [name for name, kind in faults.items() if kind == "unexpected_keyword_argument"]
        # A damaged name of a field is unknown too, but then the field is missing.
        if unknown and "missing" not in faults.values():
            raise newer_version(where, f"fields {', '.join(unknown)}") from error
        log.warning("%s: an unreadable completion mark, which counts as missing; what it was of is made again", where)
        return None


@functools.cache
def _reader() -> TypeAdapter[Mark]:
    return TypeAdapter(Mark)


def complete_mark(storage: Storage, stage: str) -> Mark | None:
    """The mark of a whole stage. One that does not name its shards, as earlier versions wrote it, is written again."""
    mark = read_marks(storage, stage, [COMPLETE]).get(COMPLETE)
    return mark if mark and mark.shards else None


def rows_by_table(paths: Iterable[Path]) -> dict[str, int]:
    """Rows of the Parquet files, added up by the folder that they lie in."""
    rows = Counter[str]()
    for path in paths:
        if path.suffix == ".parquet":
            rows[path.parent.name] += pq.read_metadata(path).num_rows
    return dict(rows)


def is_table(name: str) -> bool:
    """Whether a file's bytes enter the digest: those of a tar hold times, so its index speaks for it."""
    return name.endswith((".parquet", ".json", ".safetensors"))


def digest_of(paths: Iterable[Path], *, instead: Mapping[Path, str] | None = None) -> str:
    """The digest of a shard that is made of these files; ``instead``: digests of files that stand for their own."""
    known = instead or {}
    return fingerprint_of([known.get(path) or file_digest(path) for path in paths if is_table(path.name)])


def damaged(mark: Mark, sizes: Mapping[str, int]) -> list[str]:
    """The mark's files that are missing or have another size."""
    return [name for name, expected in mark.files.items() if sizes.get(name) != expected]


def sum_stats(marks: list[Mark]) -> dict[str, Any]:
    """Statistics of one shard as they are, of several summed where they are numbers."""
    if len(marks) == 1:
        return marks[0].stats
    total: dict[str, Any] = {}
    for mark in marks:
        for key, value in mark.stats.items():
            if isinstance(value, int | float):
                total[key] = total.get(key, 0) + value
    return total
