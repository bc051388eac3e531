"""GPUs of a machine that has none: which ones a process may use, and which one each worker is given."""

import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards
from pipeline.core import devices
from pipeline.core.devices import VISIBLE, resolve, visible_gpus
from pipeline.core.errors import ConfigError
from tests.shard_functions import visible_device

TWO = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)
"""
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-1)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc-3)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddd-4)
"""


@pytest.mark.parametrize(
    ("allowed", "seen"),
    [("0", ["0"]), ("2, 5", ["2", "5"]), ("GPU-aaaa", ["GPU-aaaa"]), ("", []), ("-1", []), ("1,-1,2", ["1"])],
)
def test_what_the_environment_allows_is_what_is_there(
    monkeypatch: pytest.MonkeyPatch, allowed: str, seen: list[str]
) -> None:
    monkeypatch.setenv(VISIBLE, allowed)
    assert visible_gpus() == seen


@pytest.mark.parametrize(
    ("listed", "seen"), [(TWO, ["GPU-aaaa-1", "GPU-bbbb-2"]), (DIVIDED, ["MIG-cccc-3", "MIG-dddd-4"]), ("", [])]
)
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: str, seen: list[str]) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}END\n")
    tool.chmod(0o755)
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert visible_gpus() == seen


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "Path", lambda name: tmp_path)
    assert visible_gpus() == []
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus() == ["0", "1"]


@pytest.mark.parametrize("workers", [1, 2])
def test_each_worker_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setenv(VISIBLE, "3,5")
    config = ComputeConfig(engine="processes", workers=workers)
    with map_shards(visible_device, range(8), config) as seen:
        found = Counter(seen)
    assert set(found) == {"3", "5"} if workers == 2 else {"3"}
    assert os.environ[VISIBLE] == "3,5"


def test_no_more_workers_than_gpus(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(VISIBLE, "7")
    config = ComputeConfig(engine="processes", workers=2)
    with map_shards(visible_device, range(4), config) as seen:
        assert set(seen) == {"7"}
    assert "compute.workers is 2, but there is 1 GPU" in caplog.text


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_that_is_named_is_left_to_the_caller(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: str
) -> None:
    monkeypatch.setenv(VISIBLE, "3")
    config = ComputeConfig(engine="processes", workers=2)
    with map_shards(visible_device, range(2), config, device=device) as seen:
        assert set(seen) == {"3"}
    assert not caplog.records


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (resolve("auto"), resolve("cpu")) == ("cpu", "cpu")
    with pytest.raises(ConfigError, match="device 'cuda:1' was asked for, but torch finds none"):
        resolve("cuda:1")
