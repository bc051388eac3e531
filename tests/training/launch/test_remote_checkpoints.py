"""Checkpoints of a run whose root is an object store, while the store is away for a moment."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.core.errors import StorageError
from training.job.checkpoints import MARK
from training.job.training_job import TrainingJob
from training.launch.remote_checkpoints import _Keeper


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
