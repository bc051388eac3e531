"""Checkpoints of a run whose root is an object store: while it is away for a moment, and with damage in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import StorageError
from pipeline.storage.roots import open_root, storage_of
from tests import s3 as s3_server
from tests.training.job.test_checkpoints import Engine
from training.engine.engine_state import STATE_FILE
from training.job.checkpoints import MARK, Checkpoints
from training.job.training_job import TrainingJob
from training.launch.remote_checkpoints import _Keeper, kept_elsewhere


class Store:
    """Names of what was sent; away as often as it is told."""

    def __init__(self, root: Path):
        self.root, self.names, self.away = root, set[str](), 0

    def _reach(self) -> None:
        if self.away:
            self.away -= 1
            raise StorageError("the store does not answer")

    def below(self, folder: str) -> list[str]:
        self._reach()
        return sorted(name for name in self.names if name.startswith(f"{folder}/"))

    def upload(self, names: Iterable[str]) -> None:
        self._reach()
        self.names |= set(names)

    def remove(self, names: Iterable[str]) -> None:
        self._reach()
        self.names -= set(names)


def test_an_outage_costs_no_checkpoint_that_can_be_sent_later(tmp_path: Path, job: TrainingJob) -> None:
    job = job.model_copy(update={"output": tmp_path / "runs/student"})
    store: Any = Store(tmp_path)
    keeper = _Keeper(store, job)

    def save(step: int) -> None:
        folder = job.checkpoints / f"step-{step}"
        folder.mkdir(parents=True)
        for name in ("state.safetensors", MARK):
            (folder / name).write_text(str(step))

    def there() -> set[str]:
        return {name.split("/")[-2] for name in store.names if name.endswith(MARK)}

    save(3)
    store.away = 1
    keeper.send()
    assert there() == set()
    keeper.send()
    assert there() == {"step-3"}
    save(6)
    for path in (job.checkpoints / "step-3").iterdir():
        path.unlink()
    keeper.send()
    assert there() == {"step-6"}
    # Away when the old ones are looked for.
    save(9)
    keeper.send()
    store.away = 1
    keeper.send()
    assert there() == {"step-6", "step-9"}


def _on(machine: str, s3: s3_server.Store, job: TrainingJob) -> tuple[Path, TrainingJob, Checkpoints]:
    """A machine's folder for its root in the store, and the job and its checkpoints as that machine has them."""
    root = open_root(s3.url, s3.machine(machine))
    job = job.model_copy(update={"output": root.resolve() / "runs" / "student"})
    job.output.mkdir(parents=True, exist_ok=True)
    return root, job, Checkpoints(job.checkpoints, fingerprint=job.fingerprint(), keep=3)


def _save(job: TrainingJob, checkpoints: Checkpoints, *steps: int) -> None:
    engine = Engine()
    job.metrics_file.write_text("")
    for engine.step in steps:
        assert checkpoints.save(engine, engine.step)


def _flip(s3: s3_server.Store, step: int, name: str = STATE_FILE) -> None:
    path = f"runs/student/checkpoints/step-{step}/{name}"
    content = bytearray(s3.read(path))
    content[-10] ^= 4
    s3.write(path, bytes(content))


@pytest.mark.parametrize(
    ("damaged", "left"), [((), 9), ((9,), 6), ((9, 6), 3), ((9, 6, 3), 0)], ids=["none", "newest", "two", "all"]
)
def test_the_newest_undamaged_one_of_the_store_is_gone_on_from(
    s3: s3_server.Store, job: TrainingJob, damaged: tuple[int, ...], left: int
) -> None:
    root, first, checkpoints = _on("first", s3, job)
    _save(first, checkpoints, 3, 6, 9)
    _Keeper(storage_of(root), first).send()
    for step in damaged:
        _flip(s3, step)
    root, second, checkpoints = _on("second", s3, job)
    with kept_elsewhere(root, second):
        kept = {f"step-{left}"} if left else set()
        assert {path.name for path in second.checkpoints.iterdir()} == {
            f"damaged-step-{step}" for step in damaged
        } | kept
        assert checkpoints.newest_undamaged() == left
        engine = Engine()
        if left:
            checkpoints.load(engine, left)
        assert engine.step == left


def test_a_damaged_one_here_is_taken_from_the_store(s3: s3_server.Store, job: TrainingJob) -> None:
    root, here, checkpoints = _on("first", s3, job)
    _save(here, checkpoints, 3, 6)
    keeper = _Keeper(storage_of(root), here)
    keeper.send()
    (here.checkpoints / "step-6" / STATE_FILE).write_bytes(b"")
    _Keeper(storage_of(root), here).bring()
    assert checkpoints.newest_undamaged() == 6


def test_a_mark_that_cannot_be_read_is_damage_and_one_of_another_job_is_not_copied(
    s3: s3_server.Store, job: TrainingJob
) -> None:
    root, first, checkpoints = _on("first", s3, job)
    _save(first, checkpoints, 3, 6)
    _save(first, Checkpoints(first.checkpoints, fingerprint="another", keep=9), 12)
    _save(first, checkpoints, 3)
    keeper = _Keeper(storage_of(root), first)
    keeper.send()
    s3.write(f"runs/student/checkpoints/step-6/{MARK}", b"{")
    root, second, checkpoints = _on("second", s3, job)
    _Keeper(storage_of(root), second).bring()
    assert {path.name for path in second.checkpoints.iterdir()} == {"damaged-step-6", "step-3"}
