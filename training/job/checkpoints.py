"""Checkpoints of a run: complete or not there, the newest few kept, only resumed by the job that wrote them.

One that was damaged since it was written is set aside under another name, and the one before it is resumed from.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.errors import StorageError
from pipeline.core.files import file_checksum, sync, write_text_atomically

log = logging.getLogger(__name__)

MARK = "complete.json"
NAME = re.compile(r"step-(\d+)")
_ASIDE = "damaged-"


class CheckpointingEngine(Protocol):
    """What checkpoints need of an engine; all ranks call all of it together."""

    rank: int

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def gather(self, value: Any) -> list[Any]: ...

    def barrier(self) -> None: ...


class Checkpoints:
    """Checkpoints ``step-<n>`` in a folder. A mark, written last, says that one is whole, and what its files sum to.

    ``fingerprint``: of the job; those of another job are left unused and removed at the next save.
    """

    def __init__(self, folder: Path, *, fingerprint: str, keep: int):
        self._folder, self._fingerprint, self._keep = folder, fingerprint, keep

    def newest(self) -> int:
        """The step of the newest complete checkpoint of this job; 0 if there is none."""
        return max(self.complete(), default=0)

    def newest_undamaged(self) -> int:
        """The same, after every file of it was read; those that were damaged since they were written are set aside."""
        damaged = 0
        for path in sorted(self._folder.glob("step-*"), key=_step_of, reverse=True):
            mark = _read_mark(path)
            if mark is None or (mark and mark["fingerprint"] != self._fingerprint):
                continue
            if self.is_undamaged(_step_of(path)):
                return _step_of(path)
            damaged += 1
        if damaged:
            log.error(f"no undamaged checkpoint is left in {self._folder}: training starts anew")
        return 0

    def is_undamaged(self, step: int) -> bool:
        """Read every file of a checkpoint, which is set aside if it is not as it was written."""
        path = self._folder / _tag(step)
        fault = _fault_of(path, _read_mark(path) or {})
        if fault is None:
            return True
        aside = path.with_name(f"{_ASIDE}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        log.error(f"checkpoint {path} is damaged, {fault}; it is set aside as {aside.name}")
        return False

    def load(self, engine: CheckpointingEngine, step: int) -> None:
        """Bring the engine to the state after ``step``."""
        engine.load(self._folder / _tag(step))

    def save(self, engine: CheckpointingEngine, step: int) -> bool:
        """Save the state after ``step`` on all ranks, mark it, prune older ones; the step of a whole one is skipped.

        A checkpoint that does not fit on the disk is removed again and reported, those before it stay, and the run goes
        on: it may find room the next time. Returns whether there is a checkpoint of this step.
        """
        if step in self.complete():
            return True
        if engine.rank == 0:
            # What an interrupted save left behind under this name must not mix with this one.
            shutil.rmtree(self._folder / _tag(step), ignore_errors=True)
        engine.barrier()
        failure = None
        try:
            engine.save(self._folder / _tag(step))
        except (OSError, StorageError) as error:
            failure = str(error)
        # No rank may go on alone: all hear of it, and what each of them has written is there before the mark.
        failure = next((text for text in engine.gather(failure) if text), None)
        if engine.rank == 0:
            failure = failure or self._mark(step)
            if failure:
                shutil.rmtree(self._folder / _tag(step), ignore_errors=True)
                log.error(
                    f"no checkpoint after step {step}: {failure}; the newest is that after step {self.newest()}, "
                    "training goes on"
                )
            else:
                self._prune()
        return engine.gather(failure)[0] is None

    def _mark(self, step: int) -> str | None:
        """Mark a checkpoint as whole, once it is on the disk; returns why it could not be done."""
        folder = self._folder / _tag(step)
        try:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            for path in (*files, self._folder):
                sync(path)
            sums = {path.relative_to(folder).as_posix(): file_checksum(path) for path in files}
            mark = {"step": step, "fingerprint": self._fingerprint, "crc32": sums}
            write_text_atomically(folder / MARK, json.dumps(mark))
        except OSError as error:
            return str(error)
        return None

    def complete(self) -> list[int]:
        """The steps of the complete checkpoints of this job, in order."""
        marks = {_step_of(path): _read_mark(path) for path in self._folder.glob("step-*")}
        return sorted(step for step, mark in marks.items() if mark and mark["fingerprint"] == self._fingerprint)

    def _prune(self) -> None:
        kept = {_tag(step) for step in self.complete()[-self._keep :]}
        for path in self._folder.glob("step-*"):
            if _step_of(path) and path.name not in kept:
                # The mark goes first: a removal that is cut short must not look like a whole checkpoint.
                (path / MARK).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)


def _tag(step: int) -> str:
    return f"step-{step}"


def _step_of(folder: Path) -> int:
    """0 for a folder that only looks like a checkpoint."""
    found = NAME.fullmatch(folder.name)
    return int(found[1]) if found else 0


def _read_mark(folder: Path) -> dict[str, Any] | None:
    """The mark of a checkpoint; an empty one if it cannot be read, none if there is none."""
    try:
        return parse_mark((folder / MARK).read_text(errors="replace"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_mark(text: str) -> dict[str, Any]:
    """The content of a mark; nothing if it cannot be read."""
    try:
        content = json.loads(text)
        return dict(content) if {"step", "fingerprint"} <= set(content) else {}
    except (ValueError, TypeError):
        return {}


def _fault_of(folder: Path, mark: dict[str, Any]) -> str | None:
    """What is wrong with the files of a checkpoint, if something is."""
    if not mark:
        return f"its {MARK} cannot be read"
    if "crc32" not in mark:
        return _fault_without_sums(folder)
    try:
        bad = [name for name, expected in mark["crc32"].items() if file_checksum(folder / name) != expected]
    except OSError as error:
        return str(error)
    return f"{bad[0]} is not as it was written" if bad else None


def _fault_without_sums(folder: Path) -> str | None:
    """Of a checkpoint of an earlier version only a file that was cut is told from a whole one."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.rglob("*.safetensors"))
    try:
        for path in files:
            with safe_open(str(path), framework="np"):
                pass
    except (OSError, SafetensorError) as error:
        return f"{path.name} cannot be opened: {error}"
    return None if files else "it has no state"
