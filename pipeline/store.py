"""Where tables live, and how a stage knows what it has already done.

A *root* is a folder with one subfolder per table. A *stage* makes one or several tables, shard by shard. The files
of a shard are written under a temporary name, moved into place, and then recorded in a *mark*, last. A mark carries

- ``fingerprint``: a hash of what made the shard (code version, config, inputs),
- ``digest``: a hash of what came out (the bytes of its Parquet files),
- the size of each file, so that a truncated or deleted one is noticed.

A shard is done when its mark carries the expected fingerprint and its files are all there. A stage is complete when a
mark named ``complete`` says so; later stages take the digest of that mark as their input, so that a change travels
exactly as far as it changes something.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.catalog import write_catalog
from pipeline.errors import MissingInputError, StorageError
from pipeline.files import file_digest, fingerprint_of, write_text_atomically

log = logging.getLogger(__name__)

_COMPLETE = "complete"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """The record that a shard, or a whole stage, is done. ``seconds``: of writing the shard; of the run that completed
    the stage, without those that were killed before."""

    fingerprint: str
    digest: str
    rows: int
    files: dict[str, int]
    seconds: float
    stats: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage has made, and how much of it was made by this call (``computed`` of ``shards``)."""

    name: str
    fingerprint: str
    digest: str
    rows: int
    bytes: int
    seconds: float
    shards: int
    computed: int
    stats: dict[str, Any]
    files: tuple[Path, ...]

    def parquet(self, table: str) -> list[Path]:
        """The Parquet files of one table of this stage, in the order of their names."""
        return sorted(path for path in self.files if path.parent.name == table and path.suffix == ".parquet")


class Output:
    """The files of one shard while they are written; see :meth:`Stage.output`."""

    def __init__(self, temporary: Path):
        self._temporary = temporary
        self._names: list[str] = []
        self.rows = 0
        self.stats: dict[str, Any] = {}

    def path(self, name: str) -> Path:
        """A temporary path to write; ``name`` is where it will lie under the root, e.g. ``images/00000.tar``."""
        path = self._temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name not in self._names:
            self._names.append(name)
        return path

    def names(self) -> list[str]:
        return list(self._names)


class Stage:
    """One stage under a root: which of its shards are to do, and the safe way to write one.

    ``version`` is raised whenever the stage's code makes different data from the same input. ``config`` holds what
    decides the content, not how fast it is made. ``inputs`` gives, for every shard that the stage must have, a digest
    of what that shard is made from.
    """

    def __init__(self, root: Path, name: str, *, version: int, config: Any, inputs: Mapping[str, Any]):
        self.root, self.name = Path(root), name
        self._marks = self.root / ".marks" / name
        self._inputs = dict(inputs)
        self._base = fingerprint_of(name, version, config)
        self.fingerprint = fingerprint_of(self._base, sorted(self._inputs.items()))
        self._computed = 0
        self._started = time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Hold the stage's lock, so that two runs on one root take turns; storage faults become typed errors."""
        with _storage_errors(self.root):
            self._marks.mkdir(parents=True, exist_ok=True)
            lock = (self._marks / "lock").open("a+")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                if lock.read() == str(os.getppid()):
                    # A spawned worker imports the main script again; without a guard it would wait for its own parent.
                    raise RuntimeError("put the script's calls under: if __name__ == '__main__':") from None
                log.info("%s: another run is at work on this stage, waiting for it", self.name)
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            self._started = time.monotonic()
            with _storage_errors(self.root):
                shutil.rmtree(self._temporary(), ignore_errors=True)
                yield
                shutil.rmtree(self._temporary(), ignore_errors=True)

    def pending(self) -> list[str]:
        """The shards whose mark is missing, made from something else, or whose files were lost or cut."""
        return [shard for shard in self._inputs if not self._is_done(shard)]

    def is_complete(self) -> bool:
        """Whether there is nothing to do; asks the marks and the file sizes, reads no data."""
        mark = _read_mark(self._marks / f"{_COMPLETE}.json")
        return mark is not None and mark.fingerprint == self.fingerprint and not _damaged(self.root, mark)

    @contextlib.contextmanager
    def output(self, shard: str) -> Iterator[Output]:
        """Write one shard: nothing of it appears under the root until the block has ended without an error."""
        started = time.monotonic()
        temporary = self._temporary() / shard
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        output = Output(temporary)
        yield output
        mark = Mark(
            fingerprint=self._shard_fingerprint(shard),
            digest=fingerprint_of([file_digest(output.path(name)) for name in output.names() if _is_table(name)]),
            rows=output.rows,
            files={name: output.path(name).stat().st_size for name in output.names()},
            seconds=round(time.monotonic() - started, 3),
            stats=output.stats,
        )
        previous = _read_mark(self._marks / f"{shard}.json")
        self._forget(_COMPLETE)
        self._forget(shard)
        for name in set(previous.files if previous else ()) - set(mark.files):
            (self.root / name).unlink(missing_ok=True)
        for name in output.names():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            output.path(name).replace(self.root / name)
        self._write_mark(shard, mark)
        shutil.rmtree(temporary, ignore_errors=True)
        self._computed += 1

    def finish(self, stats: Mapping[str, Any] | None = None) -> StageResult:
        """Remove what no longer belongs, write the mark ``complete`` and the catalogue; returns :meth:`result`.

        Without ``stats`` those of a single shard are taken as they are, those of several summed where they are numbers.
        """
        marks = {shard: self._require_mark(shard) for shard in self._inputs}
        files = {name: size for mark in marks.values() for name, size in mark.files.items()}
        for path in self._marks.glob("*.json"):
            if path.stem not in marks and path.stem != _COMPLETE:
                self._remove_shard(path, keep=files)
        whole = Mark(
            fingerprint=self.fingerprint,
            digest=fingerprint_of([[shard, mark.digest] for shard, mark in sorted(marks.items())]),
            rows=sum(mark.rows for mark in marks.values()),
            files=files,
            # Not the sum over shards: what is made before a shard's files are moved into place is not in theirs.
            seconds=round(time.monotonic() - self._started, 3),
            stats=dict(stats) if stats is not None else _sum_stats(list(marks.values())),
        )
        self._write_mark(_COMPLETE, whole)
        write_catalog(self.root)
        return self.result()

    def result(self) -> StageResult:
        """What the completed stage holds."""
        return read_result(self.root, self.name, computed=self._computed)

    def shard_digests(self) -> dict[str, str]:
        """The digest of every shard that is done, for a later stage that works shard by shard."""
        return {shard: self._require_mark(shard).digest for shard in self._inputs}

    def _temporary(self) -> Path:
        return self.root / ".tmp" / self.name

    def _shard_fingerprint(self, shard: str) -> str:
        return fingerprint_of(self._base, shard, self._inputs[shard])

    def _is_done(self, shard: str) -> bool:
        mark = _read_mark(self._marks / f"{shard}.json")
        return mark is not None and mark.fingerprint == self._shard_fingerprint(shard) and not _damaged(self.root, mark)

    def _require_mark(self, shard: str) -> Mark:
        mark = _read_mark(self._marks / f"{shard}.json")
        assert mark is not None, f"{self.name}: shard {shard} was never written"
        return mark

    def _forget(self, shard: str) -> None:
        (self._marks / f"{shard}.json").unlink(missing_ok=True)

    def _write_mark(self, shard: str, mark: Mark) -> None:
        write_text_atomically(self._marks / f"{shard}.json", json.dumps(dataclasses.asdict(mark), indent=1))

    def _remove_shard(self, mark_path: Path, *, keep: Mapping[str, int]) -> None:
        mark = _read_mark(mark_path)
        mark_path.unlink()
        for name in mark.files if mark else ():
            if name not in keep:
                (self.root / name).unlink(missing_ok=True)


def read_result(root: Path, name: str, *, computed: int = 0) -> StageResult:
    """The result of a completed stage; :class:`MissingInputError` if it is not complete or its files are damaged."""
    marks = Path(root) / ".marks" / name
    mark = _read_mark(marks / f"{_COMPLETE}.json")
    if mark is None:
        raise MissingInputError(f"stage '{name}' is not complete under {root}; run it first")
    damaged = _damaged(Path(root), mark)
    if damaged:
        raise MissingInputError(
            f"stage '{name}' under {root}: {damaged[0]} is missing or does not have the {mark.files[damaged[0]]} bytes "
            f"that were written ({len(damaged)} such files); run the stage again to mend it"
        )
    return StageResult(
        name=name,
        fingerprint=mark.fingerprint,
        digest=mark.digest,
        rows=mark.rows,
        bytes=sum(mark.files.values()),
        seconds=mark.seconds,
        shards=sum(1 for path in marks.glob("*.json") if path.stem != _COMPLETE),
        computed=computed,
        stats=mark.stats,
        files=tuple(Path(root) / file for file in mark.files),
    )


def shard_digests(root: Path, name: str) -> dict[str, str]:
    """The digest of every shard of a completed stage, by shard name."""
    read_result(root, name)
    marks = {path.stem: _read_mark(path) for path in sorted((Path(root) / ".marks" / name).glob("*.json"))}
    return {shard: mark.digest for shard, mark in marks.items() if mark is not None and shard != _COMPLETE}


def _is_table(name: str) -> bool:
    return name.endswith((".parquet", ".json", ".safetensors"))


def _read_mark(path: Path) -> Mark | None:
    try:
        return Mark(**json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _damaged(root: Path, mark: Mark) -> list[str]:
    def size(name: str) -> int:
        try:
            return (root / name).stat().st_size
        except FileNotFoundError:
            return -1

    return [name for name, expected in mark.files.items() if size(name) != expected]


def _sum_stats(marks: list[Mark]) -> dict[str, Any]:
    if len(marks) == 1:
        return marks[0].stats
    total: dict[str, Any] = {}
    for mark in marks:
        for key, value in mark.stats.items():
            if isinstance(value, int | float):
                total[key] = total.get(key, 0) + value
    return total


@contextlib.contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageError(
                f"no space left under {root}; free some and run again, finished shards are kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            raise StorageError(f"root {root} cannot be written: {error}") from error
        raise
