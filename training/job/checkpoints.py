"""Checkpoints of a run: complete or not there, the newest few kept, only resumed by the job that wrote them."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.errors import StorageError
from pipeline.core.files import write_text_atomically

log = logging.getLogger(__name__)

MARK = "complete.json"
_NAME = re.compile(r"step-(\d+)")


class CheckpointingEngine(Protocol):
    """What checkpoints need of an engine; all ranks call all of it together."""

    rank: int

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def gather(self, value: Any) -> list[Any]: ...

    def barrier(self) -> None: ...


class Checkpoints:
    """Checkpoints ``step-<n>`` in a folder. A mark, written last, says that one is whole.

    ``fingerprint``: of the job; those of another job are left unused and removed at the next save.
    """

    def __init__(self, folder: Path, *, fingerprint: str, keep: int):
        self._folder, self._fingerprint, self._keep = folder, fingerprint, keep

    def newest(self) -> int:
        """The step of the newest complete checkpoint of this job; 0 if there is none."""
        return max(self._complete(), default=0)

    def load(self, engine: CheckpointingEngine, step: int) -> None:
        """Bring the engine to the state after ``step``."""
        engine.load(self._folder / _tag(step))

    def save(self, engine: CheckpointingEngine, step: int) -> bool:
        """Save the state after ``step`` on all ranks, mark it, prune older ones; the step of a whole one is skipped.

        A checkpoint that does not fit on the disk is removed again and reported, those before it stay, and the run goes
        on: it may find room the next time. Returns whether there is a checkpoint of this step.
        """
        if step in self._complete():
            return True
        if engine.rank == 0:
            # What an interrupted save left behind under this name must not mix with this one.
            shutil.rmtree(self._folder / _tag(step), ignore_errors=True)
        engine.barrier()
        failure = None
        try:
            engine.save(self._folder / _tag(step))
            if engine.rank == 0:
                mark = json.dumps({"step": step, "fingerprint": self._fingerprint})
                write_text_atomically(self._folder / _tag(step) / MARK, mark)
        except (OSError, StorageError) as error:
            failure = str(error)
        # No rank may go on alone: all hear of it.
        failures = [text for text in engine.gather(failure) if text]
        if engine.rank == 0:
            if failures:
                shutil.rmtree(self._folder / _tag(step), ignore_errors=True)
                log.error(
                    f"no checkpoint after step {step}: {failures[0]}; the newest is that after step {self.newest()}, "
                    "training goes on"
                )
            else:
                self._prune()
        engine.barrier()
        return not failures

    def _complete(self) -> list[int]:
        steps = []
        for path in self._folder.glob(f"step-*/{MARK}"):
            content: dict[str, Any] = json.loads(path.read_text())
            if content["fingerprint"] == self._fingerprint:
                steps.append(int(content["step"]))
        return sorted(steps)

    def _prune(self) -> None:
        kept = {_tag(step) for step in self._complete()[-self._keep :]}
        for path in self._folder.glob("step-*"):
            if _NAME.fullmatch(path.name) and path.name not in kept:
                # The mark goes first: a removal that is cut short must not look like a whole checkpoint.
                (path / MARK).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)


def _tag(step: int) -> str:
    return f"step-{step}"
