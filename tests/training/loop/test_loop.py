"""The loop, with a model of three numbers and an engine without DeepSpeed."""

import dataclasses
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import NonFiniteLossError
from pipeline.core.schema import MACHINE_METRICS
from training.engine.engine_state import read, write
from training.engine.schedule import warmup_cosine
from training.job.checkpoints import Checkpoints
from training.job.metrics import read_rows
from training.loop.stop import StopFlag, StopRequested
from training.loop.training_loop import Loop, LoopSettings


@dataclasses.dataclass
class ToyBatch:
    image_ids: list[int]
    target: torch.Tensor

    def to(self, device: torch.device) -> "ToyBatch":
        return self


class ToyTask:
    def losses(self, model: Any, batch: ToyBatch) -> dict[str, torch.Tensor]:
        return {"distance": (model - batch.target).square().sum(), "size": model.square().sum()}

    def total(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        return terms["distance"] + 0.1 * terms["size"]

    def after_step(self, engine: Any, *, learning_rate: float) -> dict[str, torch.Tensor]:
        return {"logit_scale": torch.tensor(1.0)}


class ToyEngine:
    rank, world, device, skips_overflows = 0, 1, torch.device("cpu"), False

    def __init__(self) -> None:
        self.model = torch.zeros(3, requires_grad=True)

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def barrier(self) -> None: ...

    def backward(self, loss: torch.Tensor) -> None:
        (self.gradient,) = torch.autograd.grad(loss, self.model)

    def step(self, *, learning_rate: float) -> bool:
        with torch.no_grad():
            self.model -= learning_rate * self.gradient
        return True

    def gradient_norm(self) -> float:
        return float(self.gradient.norm())

    def save(self, folder: Path) -> None:
        write(folder, {"model": self.model})

    def load(self, folder: Path) -> None:
        self.model = read(folder)["model"].requires_grad_()


STEPS = 10
MEASURED = ("learning_rate", "logit_scale", "gradient_norm")


def _batches(start: int = 0, broken: int | None = None) -> list[ToyBatch]:
    targets = [torch.full((3,), float(step)) for step in range(STEPS)]
    if broken is not None:
        targets[broken] *= float("nan")
    return [ToyBatch([100 + step], targets[step]) for step in range(start, STEPS)]


def _loop(folder: Path, engine: ToyEngine, *, fingerprint: str = "a") -> tuple[Loop, Checkpoints]:
    checkpoints = Checkpoints(folder / "checkpoints", fingerprint=fingerprint, keep=2)
    settings = LoopSettings(
        steps=STEPS,
        batch_size=4,
        schedule=warmup_cosine(peak=0.1, steps=STEPS, warmup=0.2),
        seed=0,
        checkpoint_every=3,
        log_every=2,
    )
    metrics = folder / "metrics.jsonl"
    return Loop(engine=engine, task=ToyTask(), checkpoints=checkpoints, metrics_file=metrics, settings=settings), (
        checkpoints
    )


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in MACHINE_METRICS} for row in read_rows(folder / "metrics.jsonl")]


def test_rows_checkpoints_and_pruning(tmp_path: Path) -> None:
    loop, checkpoints = _loop(tmp_path, ToyEngine())
    loop.run(_batches(), start=0, stop=StopFlag())
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 4, 6, 8, 10]
    assert list(rows[0]) == ["step", "samples_seen", "loss", "distance", "size", *MEASURED]
    assert rows[-1]["samples_seen"] == 40
    assert checkpoints.newest() == STEPS
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-9"]


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, other = ToyEngine(), ToyEngine()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _loop(tmp_path / "a", whole)[0].run(_batches(), start=0, stop=StopFlag())
    _loop(tmp_path / "b", other)[0].run(_batches()[:8], start=0, stop=StopFlag())

    resumed = ToyEngine()
    loop, checkpoints = _loop(tmp_path / "b", resumed)
    start = checkpoints.newest()
    assert start == 6  # steps 7 and 8 were done, logged, and lost
    checkpoints.load(resumed, start)
    loop.run(_batches(start), start=start, stop=StopFlag())
    assert torch.equal(resumed.model, whole.model)
    assert _rows(tmp_path / "b") == _rows(tmp_path / "a")


def test_sigterm_writes_a_checkpoint_and_ends(tmp_path: Path) -> None:
    stop = StopFlag()
    before = signal.getsignal(signal.SIGTERM)
    stop.install()
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    loop, checkpoints = _loop(tmp_path, ToyEngine())
    with pytest.raises(StopRequested, match="after step 1"):
        loop.run(_batches(), start=0, stop=stop)
    assert checkpoints.newest() == 1


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_step(tmp_path: Path) -> None:
    engine = ToyEngine()
    loop, checkpoints = _loop(tmp_path, engine)
    with pytest.raises(NonFiniteLossError, match=r"step 5: .*not finite: distance; .*image ids: 104"):
        loop.run(_batches(broken=4), start=0, stop=StopFlag())
    assert torch.isfinite(engine.model).all()
    assert checkpoints.newest() == 3


def test_a_gradient_that_is_not_finite_ends_the_run_unsaved(tmp_path: Path) -> None:
    """As the engine tells it: no step was taken, and the norm is not finite."""

    class Diverging(ToyEngine):
        def step(self, *, learning_rate: float) -> bool:
            return bool(self.gradient.norm() < 14) and super().step(learning_rate=learning_rate)

    closed = []

    class Logger:
        def write(self, row: dict[str, Any]) -> None: ...

        def close(self) -> None:
            closed.append(True)

    loop, checkpoints = _loop(tmp_path, Diverging())
    loop._loggers = [Logger()]
    with pytest.raises(NonFiniteLossError, match=r"step 8: the gradient is not finite.*distance .*image ids: 107"):
        loop.run(_batches(), start=0, stop=StopFlag())
    assert checkpoints.newest() == 6 and closed == [True]


def test_a_step_that_fp16_skips_goes_on_without_a_norm(tmp_path: Path) -> None:
    class Skipping(ToyEngine):
        skips_overflows = True

        def step(self, *, learning_rate: float) -> bool:
            return bool(self.gradient.norm() < 14) and super().step(learning_rate=learning_rate)

    loop, checkpoints = _loop(tmp_path, Skipping())
    loop.run(_batches(), start=0, stop=StopFlag())
    assert checkpoints.newest() == STEPS
    assert [row["step"] for row in _rows(tmp_path) if "gradient_norm" not in row] == [8, 10]


def test_the_host_asks_for_numbers_after_the_backward_pass_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU asking means waiting; before the backward pass is under way there would be nothing left to do."""
    asked: list[str] = []

    class Watched(ToyEngine):
        def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
            asked.append("forward")
            return values

        def backward(self, loss: torch.Tensor) -> None:
            super().backward(loss)
            asked.append("backward")

        def step(self, *, learning_rate: float) -> bool:
            asked.append("step")
            return super().step(learning_rate=learning_rate)

    for name in ("tolist", "item", "__float__", "__bool__"):
        whole = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, whole=whole: asked.append("wait") or whole(self))
    loop, _ = _loop(tmp_path, Watched())
    loop.run(_batches(), start=0, stop=StopFlag())
    third = "-".join(asked).split("forward-")[3]  # of which no row is written
    assert third.startswith("backward-wait-step") and third.count("wait") == 1


def test_checkpoints_of_another_job_and_half_written_ones_are_not_used(tmp_path: Path) -> None:
    loop, checkpoints = _loop(tmp_path, ToyEngine())
    loop.run(_batches(), start=0, stop=StopFlag())
    assert _loop(tmp_path, ToyEngine(), fingerprint="b")[1].newest() == 0
    (tmp_path / "checkpoints/step-10/complete.json").unlink()
    assert checkpoints.newest() == 9


def test_a_full_disk_costs_a_checkpoint_but_not_those_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel refuses to let any file grow beyond 30 bytes while step 6 is saved."""
    engine = ToyEngine()
    loop, checkpoints = _loop(tmp_path, engine)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write_state = engine.save

    def save(folder: Path) -> None:
        if folder.name == "step-6":
            resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))
        try:
            write_state(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    engine.save = save  # type: ignore[method-assign]
    try:
        loop.run(_batches()[:8], start=0, stop=StopFlag())
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoints.newest() == 3
    assert "no checkpoint after step 6" in caplog.text and "the newest is that after step 3" in caplog.text
    assert not (tmp_path / "checkpoints/step-6").exists()


def test_rows_tell_how_long_data_took(tmp_path: Path) -> None:
    def slow() -> Iterator[ToyBatch]:
        for batch in _batches():
            time.sleep(0.02)
            yield batch

    seen: list[dict[str, Any]] = []

    class Logger:
        def write(self, row: dict[str, Any]) -> None:
            seen.append(row)

        def close(self) -> None:
            seen.append({})

    loop, _ = _loop(tmp_path, ToyEngine())
    loop._loggers = [Logger()]
    loop.run(slow(), start=0, stop=StopFlag())
    assert seen[-1] == {} and seen[:-1] == read_rows(tmp_path / "metrics.jsonl")
    assert 0.5 < seen[1]["data_stall"] <= 1 and seen[1]["memory_gb"] > 0.01
