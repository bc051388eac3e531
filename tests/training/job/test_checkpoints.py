"""Checkpoints that rot: what was damaged since it was written is not resumed from, and not lost either."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.engine.engine_state import STATE_FILE, read, write
from training.job.checkpoints import MARK, Checkpoints


class Engine:
    """Holds one number. ``late``: what another rank writes only when all have been waited for."""

    rank = 0

    def __init__(self, late: Callable[[], None] | None = None) -> None:
        self.step, self._late = 0, late

    def save(self, folder: Path) -> None:
        write(folder, {"step": torch.full((1000,), float(self.step))})

    def load(self, folder: Path) -> None:
        self.step = int(read(folder)["step"][0])

    def gather(self, value: Any) -> list[Any]:
        late, self._late = self._late, None
        if late:
            late()
        return [value, None]

    def barrier(self) -> None: ...


def saved(folder: Path, *steps: int) -> Checkpoints:
    checkpoints, engine = Checkpoints(folder, fingerprint="a", keep=3), Engine()
    for engine.step in steps:
        assert checkpoints.save(engine, engine.step)
    return checkpoints


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda folder: flip(folder / STATE_FILE),
    "cut": lambda folder: cut(folder / STATE_FILE),
    "lost": lambda folder: (folder / STATE_FILE).unlink(),
    "empty": lambda folder: (folder / STATE_FILE).write_bytes(b""),
    "empty mark": lambda folder: (folder / MARK).write_bytes(b""),
    "mark of zeros": lambda folder: (folder / MARK).write_bytes(bytes(60)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_used(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = saved(tmp_path, 3, 6, 9)
    damage(tmp_path / "step-9")
    assert checkpoints.newest_undamaged() == 6
    assert str(tmp_path / "step-9") in caplog.text and "set aside as damaged-step-9" in caplog.text
    engine = Engine()
    checkpoints.load(engine, 6)
    assert engine.step == 6
    # The step is done again, and what was set aside stays.
    assert checkpoints.save(engine, 9)
    assert checkpoints.newest_undamaged() == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-step-9", "step-3", "step-6", "step-9"]


def test_where_none_is_left_training_starts_anew_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = saved(tmp_path, 3, 6)
    flip(tmp_path / "step-3" / STATE_FILE)
    cut(tmp_path / "step-6" / STATE_FILE)
    assert checkpoints.newest_undamaged() == 0
    assert "training starts anew" in caplog.text
    caplog.clear()
    assert Checkpoints(tmp_path / "new", fingerprint="a", keep=3).newest_undamaged() == 0
    assert not caplog.text


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name not in ("a flipped bit",)])
def test_checkpoints_of_an_earlier_version_are_opened_to_see_whether_they_are_whole(
    tmp_path: Path, damage: str
) -> None:
    checkpoints = saved(tmp_path, 3, 6)
    for step in (3, 6):
        mark = tmp_path / f"step-{step}" / MARK
        content = json.loads(mark.read_text())
        del content["crc32"]
        mark.write_text(json.dumps(content))
    assert checkpoints.newest_undamaged() == 6
    DAMAGE[damage](tmp_path / "step-6")
    assert checkpoints.newest_undamaged() == 3


def test_the_mark_waits_for_what_other_ranks_write(tmp_path: Path) -> None:
    folder = tmp_path / "step-3"

    def late() -> None:
        assert not (folder / MARK).exists()
        (folder / "part-1").write_text("of rank 1")

    checkpoints = Checkpoints(tmp_path, fingerprint="a", keep=3)
    assert checkpoints.save(Engine(late), 3)
    (folder / "part-1").write_text("of rank 9")
    assert checkpoints.newest_undamaged() == 0


def test_another_job_sets_nothing_aside(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    cut(tmp_path / "step-3" / STATE_FILE)
    assert Checkpoints(tmp_path, fingerprint="b", keep=3).newest_undamaged() == 0
    assert (tmp_path / "step-3").exists()
