"""How many ranks and loader processes there are where nobody says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import ConfigError
from pipeline.core.files import fingerprint_of
from tests.training.conftest import with_steps
from training.config import StudentConfig
from training.data.workers import affordable_workers, loader_workers
from training.job.training_job import TrainingJob
from training.launch.hosts import check_hosts
from training.launch.ranks import with_ranks
from training.ranks import count_gpus


def _ranks(job: TrainingJob, visible: str | None, **student: object) -> int | None:
    return with_ranks(with_steps(job, job.output, **student), visible=visible).student.ranks


@pytest.mark.parametrize(
    ("gpus", "visible", "expected"),
    [(0, None, 2), (1, None, 1), (8, None, 8), (8, "2,3,5", 3), (8, "", 2), (8, "-1", 2)],
)
def test_one_rank_takes_each_gpu(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, gpus: int, visible: str | None, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert _ranks(job, visible, ranks=None) == expected


def test_more_ranks_than_gpus_are_refused_unless_there_is_none(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert _ranks(job, None, ranks=1) == 1 and _ranks(job, "", ranks=3) == 3
    with pytest.raises(ConfigError, match="ranks is 2, but this machine has 1 GPUs"):
        _ranks(job, None, ranks=2)
    with pytest.raises(ConfigError, match="ranks is 2, but CUDA_VISIBLE_DEVICES '3' leaves 1 GPUs"):
        _ranks(job, "3", ranks=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _ranks(job, None, ranks=2) == 2


def test_a_hostfile_has_its_slots_counted(job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    hosts = tmp_path / "hosts"
    hosts.write_text("alpha slots=8\nbeta slots=4\n")
    run = with_ranks(with_steps(job, tmp_path, ranks=None, hostfile=str(hosts)), visible=None)
    assert run.student.ranks == 12 and check_hosts(run) == {"alpha": 8, "beta": 4}


def test_an_open_number_has_the_fingerprint_that_two_ranks_had() -> None:
    """Whatever machine asks; explicit numbers keep their own."""
    of = {ranks: fingerprint_of(StudentConfig(ranks=ranks).content()) for ranks in (None, 1, 2, 8)}
    assert of[None] == of[2] and len(set(of.values())) == 3
    assert fingerprint_of(StudentConfig(loader_workers=4).content()) == of[None]


def test_looking_on_changes_no_result_but_choosing_and_holding_out_do() -> None:
    """And what is chosen by is a matter of the sets' names and settings, not of where their folders lie."""

    def of(**student: Any) -> str:
        return fingerprint_of(StudentConfig.model_validate(student).content())

    looking = {"evaluate_every": 5, "evaluate": {"datasets": ["a/cats"], "samples": 9}}
    assert of(**looking) == of()
    best = {**looking, "keep_best": "zero_shot/cats/top1"}
    moved = {**best, "evaluate": {"datasets": ["b/cats"], "samples": 9}}
    assert of(**best) == of(**moved) != of()
    others = [{**best, "evaluate_every": 6}, {**best, "evaluate": {"datasets": ["a/cats"], "samples": 8}}]
    others += [looking | {"evaluate": {"held_out_samples": 256}}, {**best, "keep_best": "zero_shot/cats/top5"}]
    assert len({of(), of(**best), *(of(**other) for other in others)}) == 6


def test_no_gpu_is_counted_where_none_is_visible() -> None:
    assert count_gpus("") == count_gpus(" ") == count_gpus("-1,0") == 0


@pytest.mark.parametrize(
    ("cores", "shared_mb", "expected"), [(16, 10_000, 8), (4, 10_000, 3), (1, 10_000, 0), (16, 64, 0), (16, 2_000, 3)]
)
def test_loader_processes_leave_a_core_and_half_of_shared_memory(cores: int, shared_mb: int, expected: int) -> None:
    assert affordable_workers(cores=cores, batch_bytes=150 << 20, shared_bytes=shared_mb << 20) == expected


def test_without_a_gpu_the_training_process_loads_by_itself() -> None:
    for asked, expected in ((None, 0), (0, 0), (3, 3)):
        assert loader_workers(asked, None, rows=8, device=torch.device("cpu")) == expected  # type: ignore[arg-type]
