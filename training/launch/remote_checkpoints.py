"""Checkpoints of a run whose root is an object store: sent there as they are made, brought back to where it goes on."""

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core.errors import StorageError
from pipeline.storage.protocol import Storage
from pipeline.storage.roots import storage_of
from training.job.checkpoints import MARK, NAME, Checkpoints, parse_mark
from training.job.training_job import TrainingJob

log = logging.getLogger(__name__)

_LOOK_S = 5.0


@contextlib.contextmanager
def kept_elsewhere(root: Path, job: TrainingJob) -> Iterator[None]:
    """While the block trains ``job``, keep its checkpoints in the store too, and begin with the newest that is there.

    For a root that is a folder there is nothing to do. A store that cannot be reached while the run goes on costs
    checkpoints, not the run; before that it is an error, since the run could go on from the wrong step.
    """
    storage = storage_of(root)
    if not storage.remote:
        yield
        return
    keeper = _Keeper(storage, job)
    keeper.bring()
    stop = threading.Event()
    thread = threading.Thread(target=keeper.watch, args=(stop,), daemon=True, name="checkpoints")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        keeper.send()


def forget_elsewhere(root: Path, job: TrainingJob) -> None:
    """Remove what was kept of a run that has ended well."""
    storage = storage_of(root)
    if storage.remote:
        storage.remove(storage.below(job.output.relative_to(root.resolve()).as_posix()))


class _Keeper:
    def __init__(self, storage: Storage, job: TrainingJob):
        self._storage, self._job = storage, job
        root = storage.root.resolve()
        self._folder = job.checkpoints.relative_to(root).as_posix()
        self._metrics = job.metrics_file.relative_to(root).as_posix()
        self._sent = set[str]()

    def bring(self) -> None:
        """Copy the newest undamaged checkpoint of the store here, if it is newer than those that are here.

        One that is damaged, here or there, is set aside here, and the one before it is taken.
        """
        there = self._steps(self._storage.below(self._folder))
        if not there:
            return
        fingerprint, keep = self._job.fingerprint(), self._job.student.keep_checkpoints
        checkpoints = Checkpoints(self._job.checkpoints, fingerprint=fingerprint, keep=keep)
        here, damaged = checkpoints.complete(), False
        for step in sorted({*there, *here}, reverse=True):
            if step in here and checkpoints.is_undamaged(step):
                return
            if step in there and self._is_of(there[step], fingerprint):
                self._fetch(there[step])
                if checkpoints.is_undamaged(step):
                    self._sent.add(there[step])
                    log.info("%s: %s copied from %s", self._job.name, there[step], self._storage.uri(self._folder))
                    return
                damaged = True
        if damaged:
            where = self._storage.uri(self._folder)
            log.error("%s: no undamaged checkpoint is left in %s: training starts anew", self._job.name, where)

    def _is_of(self, tag: str, fingerprint: str) -> bool:
        """Whether a checkpoint of the store may be this job's: one of another job is not copied to be left unused."""
        name = f"{self._folder}/{tag}/{MARK}"
        mark = parse_mark(self._storage.texts([name]).get(name, ""))
        return not mark or mark["fingerprint"] == fingerprint

    def _fetch(self, tag: str) -> None:
        names = [name for name in self._storage.below(f"{self._folder}/{tag}") if not name.endswith(MARK)]
        if self._storage.sizes([self._metrics]):
            names.append(self._metrics)
        self._storage.fetch(names)
        # Last: it says that the checkpoint is whole.
        self._storage.fetch([f"{self._folder}/{tag}/{MARK}"])

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(_LOOK_S):
            self.send()

    def send(self) -> None:
        """Send whole checkpoints that are not there yet, and remove there what is no longer kept here."""
        here = self._here()
        for step in sorted(here):
            if here[step] not in self._sent:
                self._send(here[step])
        if here and set(here.values()) <= self._sent:
            try:
                self._remove_all_but(set(here.values()))
            except StorageError as error:
                log.warning("%s: older checkpoints could not be removed: %s", self._job.name, error)

    def _remove_all_but(self, tags: set[str]) -> None:
        depth = self._folder.count("/") + 1
        stale = [name for name in self._storage.below(self._folder) if name.split("/")[depth] not in tags]
        self._storage.remove(sorted(stale, key=lambda name: not name.endswith(MARK)))

    def _send(self, tag: str) -> None:
        files = [path for path in (self._job.checkpoints / tag).rglob("*") if path.is_file() and path.name != MARK]
        root = self._storage.root.resolve()
        try:
            self._storage.upload(path.relative_to(root).as_posix() for path in [*files, self._job.metrics_file])
            self._storage.upload([f"{self._folder}/{tag}/{MARK}"])
        except FileNotFoundError:
            # Pruned meanwhile: there is a newer one.
            return
        except StorageError as error:
            log.warning("%s: checkpoint %s could not be sent: %s", self._job.name, tag, error)
            return
        self._sent.add(tag)

    def _here(self) -> dict[int, str]:
        root = self._storage.root.resolve()
        marks = self._job.checkpoints.glob(f"*/{MARK}")
        return self._steps(path.relative_to(root).as_posix() for path in marks)

    @staticmethod
    def _steps(names: Iterable[str]) -> dict[int, str]:
        """Whole checkpoints by step: those whose mark is among the names."""
        tags = [name.split("/")[-2] for name in names if name.endswith(f"/{MARK}")]
        # One that was set aside as damaged has another name.
        return {int(found[1]): tag for tag in tags if (found := NAME.fullmatch(tag))}
