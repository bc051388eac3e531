"""The training loop. It knows steps, losses by name, checkpoints and signals; what is trained is the task's matter."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import NonFiniteLossError
from pipeline.core.progress import Progress
from training.job.checkpoints import Checkpoints
from training.job.metrics import MetricsWriter
from training.loop.best import Best
from training.loop.loggers import RowLogger
from training.loop.stop import StopFlag, StopRequested
from training.loop.task import Task
from training.loop.timing import Clock

log = logging.getLogger(__name__)


class Evaluation(Protocol):
    """What the loop asks of an evaluation; all ranks call it together, and all get the same."""

    def measure(self) -> dict[str, float]:
        """Measures of the weights as they are, by name. Nothing that is trained or drawn may be touched by it."""


class LoopEngine(Protocol):
    """What the loop needs of an engine; all ranks call all of it together."""

    rank: int
    world: int
    device: torch.device

    @property
    def model(self) -> Any: ...

    def sum_over_ranks(self, values: Tensor) -> Tensor: ...

    def gather(self, value: Any) -> list[Any]: ...

    skips_overflows: bool

    def backward(self, loss: Tensor) -> None: ...

    def step(self, *, learning_rate: float) -> bool: ...

    def gradient_norm(self) -> float: ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def barrier(self) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """``batch_size`` is that of the global batch; ``schedule`` gives the learning rate of a step, counted from 1.

    ``evaluate_every``: steps between two evaluations, the last step being one in any case; 0 for none.
    """

    steps: int
    batch_size: int
    schedule: Callable[[int], float]
    seed: int
    checkpoint_every: int
    log_every: int
    evaluate_every: int = 0

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows this step."""
        return self.evaluate_every > 0 and (step % self.evaluate_every == 0 or step == self.steps)


class Loop:
    """Runs a task's steps on an engine. Steps are counted from 1 in metrics and checkpoints.

    ``evaluation`` measures what ``settings.evaluate_every`` asks for, and ``best`` is offered what it has found.
    """

    def __init__(
        self,
        *,
        engine: LoopEngine,
        task: Task,
        checkpoints: Checkpoints,
        metrics_file: Path,
        settings: LoopSettings,
        loggers: Sequence[RowLogger] = (),
        evaluation: Evaluation | None = None,
        best: Best | None = None,
    ):
        self._engine, self._task, self._checkpoints, self._loggers = engine, task, checkpoints, loggers
        self._evaluation, self._best = evaluation, best
        self._metrics_file, self._settings = metrics_file, settings

    def run(self, batches: Iterable[Any], *, start: int, stop: StopFlag, progress: Progress | None = None) -> None:
        """Do the steps after ``start``; ``batches`` begins with the batch of step ``start + 1``.

        Raises :class:`NonFiniteLossError` before the optimizer would have taken a loss or gradient that is not finite,
        and :class:`StopRequested` after the checkpoint that a SIGTERM asks for.
        """
        writers: list[RowLogger] = []
        if self._engine.rank == 0:
            writers = [MetricsWriter(self._metrics_file, resume_step=start), *self._loggers]
        try:
            self._run(batches, start, stop, progress, writers)
        finally:
            # Of a run that is stopped too: what a logger has not written yet is of steps that are not done again.
            for writer in writers:
                writer.close()

    def _run(
        self, batches: Iterable[Any], start: int, stop: StopFlag, progress: Progress | None, writers: list[RowLogger]
    ) -> None:
        settings, clock = self._settings, Clock(batches, step=start)
        for step, batch in enumerate(clock, start=start + 1):
            # Reseeded, so that a resumed run draws what an uninterrupted one would have drawn. What rank 0 draws for
            # all does not depend on their number.
            torch.manual_seed(_seed(settings.seed, step, self._engine.rank))
            terms, taken, stopping = self._step(step, batch, stop)
            extra = self._task.after_step(self._engine, learning_rate=settings.schedule(step))
            if writers and (step % settings.log_every == 0 or step in (1, settings.steps)):
                measured = {name: float(value) for name, value in extra.items()}
                measured |= {"gradient_norm": self._engine.gradient_norm()} if taken else {}
                row = self._row(step, terms, measured | clock.lap(step, settings.batch_size))
                for writer in writers:
                    writer.write(row)
            if settings.evaluates(step):
                with clock.stopped():
                    self._evaluate(step, writers)
            saved = False
            if stopping or step % settings.checkpoint_every == 0 or step == settings.steps:
                saved = self._checkpoints.save(self._engine, step)
            if progress:
                progress.add(1, f"loss {terms['loss']:.3f}")
            if stopping and step < settings.steps:
                raise StopRequested(
                    f"stopped by SIGTERM after step {step}, checkpoint {'' if saved else 'not '}written"
                )

    def _step(self, step: int, batch: Any, stop: StopFlag) -> tuple[dict[str, float], bool, bool]:
        """One optimizer step: the terms of the global batch, whether it was taken, whether a rank was asked to stop."""
        terms = self._task.losses(self._engine.model, batch.to(self._engine.device))
        loss = self._task.total(terms)
        values = [loss.detach(), *(term.detach() for term in terms.values())]
        # One exchange tells every rank the same: the means to log, a NaN of any rank, and a wish to stop.
        total = self._engine.sum_over_ranks(torch.stack([*values, torch.full_like(loss, float(stop.set))]))
        self._engine.backward(loss)
        # Waits for a GPU, which has been given all the work before the optimizer's by now, and never earlier.
        *sums, stops = total.tolist()
        means = {name: value / self._engine.world for name, value in zip(("loss", *terms), sums, strict=True)}
        if not all(math.isfinite(value) for value in means.values()):
            raise self._non_finite(step, batch, terms, means)
        taken = self._engine.step(learning_rate=self._settings.schedule(step))
        if not taken and not self._engine.skips_overflows:
            ids = [image_id for ids_here in self._engine.gather(batch.image_ids) for image_id in ids_here]
            raise NonFiniteLossError(
                f"step {step}: the gradient is not finite, but the loss is ({_text(means)}); the optimizer step was "
                f"not taken; image ids: {', '.join(map(str, ids))}"
            )
        return means, taken, stops > 0

    def _evaluate(self, step: int, writers: list[RowLogger]) -> None:
        """A row of measures of its own, before the checkpoint of this step, which has what was best so far."""
        assert self._evaluation
        started = time.monotonic()
        device = self._engine.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            measures = self._evaluation.measure()
        if self._best:
            self._best.offer(step, measures)
        for writer in writers:
            writer.write({"step": step, **measures})
        if writers:
            log.info("step %d, evaluated in %.1f s: %s", step, time.monotonic() - started, _text(measures))

    def _row(self, step: int, terms: dict[str, float], extra: dict[str, float]) -> dict[str, Any]:
        return {
            "step": step,
            "samples_seen": step * self._settings.batch_size,
            **terms,
            "learning_rate": self._settings.schedule(step),
            **extra,
        }

    def _non_finite(
        self, step: int, batch: Any, terms: dict[str, Tensor], means: dict[str, float]
    ) -> NonFiniteLossError:
        """The error of all ranks; each tells the others which of its terms were not finite, for which samples."""
        bad = [name for name, term in terms.items() if not math.isfinite(term.item())]
        findings = self._engine.gather((bad, batch.image_ids if bad else []))
        names = sorted({name for bad_here, _ in findings for name in bad_here})
        ids = [image_id for _, ids_here in findings for image_id in ids_here]
        return NonFiniteLossError(
            f"step {step}: the loss is not finite ({_text(means)}); not finite: {', '.join(names)}; the optimizer "
            f"step was not taken; image ids: {', '.join(map(str, ids))}"
        )


def _text(means: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in means.items())


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
