"""Checkpoints of a run whose root is an object store: sent there as they are made, brought back to where it goes on."""

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core.errors import StorageError
from pipeline.storage.protocol import Storage
from pipeline.storage.roots import storage_of
from training.job.checkpoints import MARK, NAME
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
        """Copy the newest whole checkpoint of the store here, if it is newer than those that are here."""
        there = self._steps(self._storage.below(self._folder))
        if max(there, default=0) <= max(self._here(), default=0):
            return
        tag = there[max(there)]
        names = [name for name in self._storage.below(f"{self._folder}/{tag}") if not name.endswith(MARK)]
        if self._storage.sizes([self._metrics]):
            names.append(self._metrics)
        self._storage.fetch(names)
        # Last: it says that the checkpoint is whole.
        self._storage.fetch([f"{self._folder}/{tag}/{MARK}"])
        self._sent.add(tag)
        log.info("%s: checkpoint %s copied from %s", self._job.name, tag, self._storage.uri(self._folder))

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
