"""Where tables live, and how a stage knows what it has already done.

A *root* is a folder with one subfolder per table. A *stage* makes one or several tables, shard by shard. The files
of a shard are written under a temporary name, moved into place, and then recorded in a *mark*, last. A mark carries

- ``fingerprint``: a hash of what made the shard (code version, config, inputs),
- ``digest``: a hash of what came out (the bytes of its Parquet files),
- the size of each file, so that a truncated or deleted one is noticed.

Whether the root is a folder or an object store is the matter of :mod:`pipeline.storage.protocol` alone.

A shard is done when its mark carries the expected fingerprint and its files are all there. A stage is complete when a
mark named ``complete`` says so; later stages take the digest of that mark as their input, so that a change travels
exactly as far as it changes something.
"""

import contextlib
import copy
import dataclasses
import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.disk import storage_errors
from pipeline.core.files import fingerprint_of
from pipeline.storage.catalog import follow_move, write_catalog
from pipeline.storage.completion import (
    COMPLETE,
    Mark,
    complete_mark,
    damaged,
    digest_of,
    mark_name,
    newer_version,
    read_marks,
    rows_by_table,
    shard_of,
    sum_stats,
)
from pipeline.storage.damage import mended_next_time
from pipeline.storage.purged import refuse_half_purged
from pipeline.storage.result import StageResult
from pipeline.storage.roots import storage_of


class Output:
    """The files of one shard while they are written; see :meth:`Stage.output`."""

    def __init__(self, shard: str, temporary: Path):
        self.shard, self._temporary = shard, temporary
        self._names: list[str] = []
        self.rows = 0
        self.stats: dict[str, Any] = {}
        self.before_purge: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """A temporary path to write; ``name`` is where it will lie under the root, e.g. ``images/00000.tar``."""
        path = self._temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name not in self._names:
            self._names.append(name)
        return path

    def names(self) -> list[str]:
        return list(self._names)

    def unpurged(self) -> dict[Path, str]:
        """Digests in place of those of files that have less in them than the stage would write, since it was purged."""
        return {self.path(name): digest for name, digest in self.before_purge.items()}


class Stage:
    """One stage under a root: which of its shards are to do, and the safe way to write one.

    ``version`` is raised whenever the stage's code makes different data from the same input. ``config`` holds what
    decides the content, not how fast it is made. ``inputs`` gives, for every shard that the stage must have, a digest
    of what that shard is made from. ``keep`` is given the marks of shards that were made for other inputs, and names
    those whose files stay when the stage is finished, though they are none of it; by default all go.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        version: int,
        config: Any,
        inputs: Mapping[str, Any],
        keep: Callable[[dict[str, Mark]], Iterable[str]] | None = None,
    ):
        self.root, self.name, self._keep = Path(root), name, keep
        self._storage = storage_of(self.root)
        self._inputs = dict(inputs)
        self._base, self._version = fingerprint_of(name, version, config), version
        self.fingerprint = fingerprint_of(self._base, sorted(self._inputs.items()))
        self._computed = set[str]()
        self._started = time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Hold the stage's lock, so that two runs on one root take turns; storage faults become typed errors.

        Where an error blames a damaged file under the root, the next run makes that file anew.
        """
        with storage_errors(f"root {self.root}"), self._storage.locked(self.name):
            self._started = time.monotonic()
            refuse_half_purged(self._storage)
            shutil.rmtree(self._temporary(), ignore_errors=True)
            with mended_next_time(self.root):
                yield
            shutil.rmtree(self._temporary(), ignore_errors=True)

    def each(self, write: Callable[["Output"], None]) -> StageResult:
        """The whole walk of a stage that is worked on here: ``write`` fills the output of every shard that is to do."""

        def work(pending: list[str]) -> None:
            for shard in pending:
                with self.output(shard) as output:
                    write(output)

        return self.run(work)

    def run(
        self, work: Callable[[list[str]], Mapping[str, Any] | None], *, even_if_complete: bool = False
    ) -> StageResult:
        """The whole walk of a stage whose shards are made together: ``work`` makes those that are to do, each through
        :meth:`output`, and returns what :meth:`finish` takes. It is not called for a stage that is complete."""
        mark = None if even_if_complete else self._complete_mark()
        if mark is not None:
            follow_move(self.root)
            return self._result(mark)
        with self.running():
            return self.finish(work(self.pending()))

    def pending(self) -> list[str]:
        """The shards whose mark is missing, made from something else, or whose files were lost or cut.

        Raises :class:`StorageError` if a newer version of the stage has made some: it would not know them again.
        """
        marks = self._marks([*self._inputs, COMPLETE])
        for shard, mark in marks.items():
            if mark.version > self._version:
                made_by = f"version {mark.version} of stage {self.name}, this is {self._version}"
                raise newer_version(self._storage.uri(self._mark_name(shard)), made_by)
        sizes = self._storage.sizes(name for mark in marks.values() for name in mark.files)
        return [
            shard
            for shard in self._inputs
            if shard not in marks
            or marks[shard].fingerprint != self._shard_fingerprint(shard)
            or damaged(marks[shard], sizes)
        ]

    def is_complete(self) -> bool:
        """Whether there is nothing to do; asks the mark and the file sizes, reads no data."""
        return self._complete_mark() is not None

    def attach(self) -> None:
        """Make the root usable on a machine that this stage was sent to, pickled."""
        self._storage.attach()

    @contextlib.contextmanager
    def output(self, shard: str) -> Iterator[Output]:
        """Write one shard: nothing of it appears under the root until the block has ended without an error."""
        started = time.monotonic()
        # Of this attempt alone: a worker that a cluster has lost sight of may be at the same shard.
        temporary = self._temporary() / f"{shard}-{uuid.uuid4().hex[:8]}"
        temporary.mkdir(parents=True)
        output = Output(shard, temporary)
        yield output
        mark = Mark(
            fingerprint=self._shard_fingerprint(shard),
            digest=digest_of((output.path(name) for name in output.names()), instead=output.unpurged()),
            files_digest=digest_of(output.path(name) for name in output.names()) if output.before_purge else "",
            rows=output.rows,
            files={name: output.path(name).stat().st_size for name in output.names()},
            seconds=round(time.monotonic() - started, 3),
            stats=output.stats,
            tables=rows_by_table(output.path(name) for name in output.names()),
            version=self._version,
            before_purge=output.before_purge,
        )
        self._storage.check_lock(self.name)
        previous = self._marks([shard]).get(shard)
        self._storage.remove([self._mark_name(COMPLETE), self._mark_name(shard)])
        self._storage.remove(set(previous.files if previous else ()) - set(mark.files))
        self._storage.publish({name: output.path(name) for name in output.names()})
        self._write_mark(shard, mark)
        shutil.rmtree(temporary, ignore_errors=True)
        self._computed.add(shard)

    def only(self, shard: str) -> "Stage":
        """This stage as a worker elsewhere needs it to write one shard: small, and ready to be pickled."""
        part = copy.copy(self)
        part._inputs, part._computed = {shard: self._inputs[shard]}, set()
        return part

    def done_elsewhere(self, shard: str) -> None:
        """Count a shard that :meth:`output` has written in another process."""
        self._computed.add(shard)

    def finish(self, stats: Mapping[str, Any] | None = None) -> StageResult:
        """Remove what no longer belongs, write the mark ``complete`` and the catalog; returns what there is.

        Without ``stats`` those of a single shard are taken as they are, those of several summed where they are numbers.
        """
        names = {shard_of(name): name for name in self._storage.names(f".marks/{self.name}", ".json")}
        found = self._marks(set(names) - {COMPLETE})
        marks = {shard: found[shard] for shard in self._inputs}
        files = {name: size for mark in marks.values() for name, size in mark.files.items()}
        others = {shard: mark for shard, mark in found.items() if shard not in marks}
        for shard in others.keys() - set(self._keep(others) if self._keep else ()):
            self._storage.remove([names[shard], *(name for name in others[shard].files if name not in files)])
        tables = Counter[str]()
        for mark in marks.values():
            tables.update(mark.tables)
        whole = Mark(
            fingerprint=self.fingerprint,
            digest=fingerprint_of([[shard, mark.digest] for shard, mark in sorted(marks.items())]),
            rows=sum(mark.rows for mark in marks.values()),
            files=files,
            # Not the sum over shards: what is made before a shard's files are moved into place is not in theirs.
            seconds=round(time.monotonic() - self._started, 3),
            stats=dict(stats) if stats is not None else sum_stats(list(marks.values())),
            tables=dict(tables),
            shards={shard: mark.digest for shard, mark in sorted(marks.items())},
            version=self._version,
            before_purge={name: digest for mark in marks.values() for name, digest in mark.before_purge.items()},
        )
        self._write_mark(COMPLETE, whole)
        write_catalog(self.root)
        return self._result(whole)

    def _complete_mark(self) -> Mark | None:
        """The mark of the whole stage, if it was made from what the stage is made from now and its files are there."""
        mark = complete_mark(self._storage, self.name)
        if mark is None or mark.fingerprint != self.fingerprint or damaged(mark, self._storage.sizes(mark.files)):
            return None
        return mark

    def _result(self, mark: Mark) -> StageResult:
        return StageResult.of(self.root, self.name, mark, computed=len(self._computed))

    def _temporary(self) -> Path:
        return self.root / ".tmp" / self.name

    def _shard_fingerprint(self, shard: str) -> str:
        return fingerprint_of(self._base, shard, self._inputs[shard])

    def _mark_name(self, shard: str) -> str:
        return mark_name(self.name, shard)

    def _marks(self, shards: Iterable[str]) -> dict[str, Mark]:
        return read_marks(self._storage, self.name, shards)

    def _write_mark(self, shard: str, mark: Mark) -> None:
        self._storage.write_text(self._mark_name(shard), json.dumps(dataclasses.asdict(mark), indent=1))
