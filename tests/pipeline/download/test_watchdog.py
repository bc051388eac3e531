"""The watchdog over beats that are written here; the other end of them is in test_faults.py."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import DownloadError
from pipeline.download import watchdog
from pipeline.download.config import ImagesConfig
from pipeline.download.heartbeat import State, note_lost, was_lost
from pipeline.download.watchdog import Watchdog, WorkerLostError

URL = "http://slow.test/picture.jpg"


class Clock:
    """Stands in for ``time``, so that nobody has to wait."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog, "time", clock)
    return clock


class Stage:
    def __init__(self, staging: Path, clock: Clock, **changes: object):
        self.staging, self.clock = staging, clock
        values = {"number": 1, "finished": 0, "hosts": [], "longest": None, "decoding": None}
        self.state = State(machine=socket.gethostname(), process=os.getpid(), **values)
        pq.write_table(pa.table({"image_id": [41, 42], "url": ["http://a.test/", URL]}), staging / "00003.parquet")
        config = ImagesConfig(sample_timeout_s=60, stall_timeout_s=600, **changes)
        self.watchdog = Watchdog(staging, config, {"00003": staging / "00003.parquet"}, replace_dead=True)

    def look(self, after_s: float, **changes: object) -> None:
        self.clock.now += after_s
        self.state = dataclasses.replace(self.state, **changes)
        (self.staging / "00003.beat").write_text(json.dumps(dataclasses.asdict(self.state)))
        self.watchdog.look({"00003"}, {entry.name for entry in self.staging.iterdir()})


@pytest.fixture
def stage(tmp_path: Path, clock: Clock) -> Stage:
    return Stage(tmp_path, clock)


def test_a_sample_that_keeps_its_worker_too_long_is_named(stage: Stage) -> None:
    stage.look(2, number=2, decoding=(42, 64.0))
    with pytest.raises(WorkerLostError) as lost:
        stage.look(2, number=3, decoding=(42, 66.0))
    assert lost.value.shard == "00003"
    assert lost.value.how == f"did not get on while it was decoding sample 42 ({URL}) for 66 s"


def test_a_fetch_that_does_not_return_is_named(stage: Stage) -> None:
    # Twice the time for a sample, of which one may be the site's robots.txt, and a minute for names.
    stage.look(2, number=2, longest=(URL, 179.0))
    with pytest.raises(WorkerLostError) as lost:
        stage.look(2, number=3, longest=(URL, 181.0))
    assert lost.value.how == f"did not get on while it was asking for {URL} for 181 s"


def test_a_worker_that_gives_no_sign_is_lost(stage: Stage) -> None:
    stage.look(2)
    stage.look(60)
    stage.look(60, number=2)
    stage.look(60)
    with pytest.raises(WorkerLostError) as lost:
        stage.look(60)
    assert lost.value.how == "gave no sign for 120 s"


def test_a_worker_that_is_gone_is_lost_unless_its_shard_is_there(stage: Stage) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    (stage.staging / "00003_stats.json").touch()
    stage.look(2, process=process.pid)
    (stage.staging / "00003_stats.json").unlink()
    with pytest.raises(WorkerLostError) as lost:
        stage.look(2, decoding=(41, 0.5))
    assert lost.value.how == "was killed while it was decoding sample 41 (http://a.test/) for 0 s"


def test_where_nothing_moves_is_said_with_sample_and_url(stage: Stage) -> None:
    stage.look(2)
    for number in range(2, 13):
        stage.look(50, number=number, hosts=[("slow.test", 3, 50.0)], longest=(URL, 50.0), decoding=(42, 9.0))
    with pytest.raises(DownloadError) as stopped:
        stage.look(60, number=20)
    assert (
        f"(0 samples answered; asking slow.test x3 for 50 s, longest {URL}; decoding sample 42 ({URL}) for 9 s)"
        in str(stopped.value)
    )


def test_a_shard_remembers_that_it_lost_a_worker(tmp_path: Path) -> None:
    assert not was_lost(tmp_path, "00001")
    (tmp_path / "00001.beat").touch()
    assert was_lost(tmp_path, "00001")
    note_lost(tmp_path)
    assert was_lost(tmp_path, "00001")
    assert not was_lost(tmp_path, "00002")
    assert not list(tmp_path.glob("*.beat"))
