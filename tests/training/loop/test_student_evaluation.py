"""What is measured while a student trains: right, and without a trace in what is trained."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.clip.preprocessing import Preprocessing
from pipeline.core.errors import ConfigError, NonFiniteLossError, ShardError
from training.config import LossesConfig
from training.data.dataset import TrainingSet
from training.data.loader import batches, held_out_batches
from training.data.order import SampleOrder
from training.evaluation.run import evaluate
from training.evaluation.small import open_small_set, open_small_sets
from training.job.checkpoints import Checkpoints
from training.job.metrics import is_evaluation, read_rows
from training.job.training_job import TrainingJob
from training.loop.best import Best
from training.loop.evaluation import StudentEvaluation
from training.loop.stop import StopFlag
from training.loop.task import DistillationTask
from training.loop.training_loop import Loop, LoopSettings
from training.losses.active import Needs
from training.losses.centroid_table import CentroidTable, load_centroids
from training.model.student import BuiltStudent, build_student, export_student

STEPS, BATCH, HELD_OUT = 6, 16, 32


class PlainEngine:
    """One process, torch's own AdamW."""

    rank, world, device, skips_overflows = 0, 1, torch.device("cpu"), False

    def __init__(self, module: torch.nn.Module):
        self.model = module
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        self._kept: list[Any] = []

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def barrier(self) -> None: ...

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, *, learning_rate: float) -> bool:
        self._optimizer.step()
        self._optimizer.zero_grad()
        return True

    def gradient_norm(self) -> float:
        return 0.0

    def clamp_parameter(self, name: str, maximum: float) -> torch.Tensor:
        return self.model.get_parameter(name).data.clamp_(max=maximum).reshape(())

    @contextlib.contextmanager
    def exported(self) -> Iterator[torch.nn.Module]:
        self.model.eval()
        yield self.model
        self.model.train()

    def state(self) -> dict[str, torch.Tensor]:
        return dict(self.model.state_dict())

    def keep(self, part: Any) -> None:
        self._kept.append(part)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        torch.save([self.model.state_dict(), self._optimizer.state_dict()], folder / "state.pt")
        for part in self._kept:
            part.save(folder)

    def load(self, folder: Path) -> None:
        module, optimizer = torch.load(folder / "state.pt", weights_only=True)
        self.model.load_state_dict(module)
        self._optimizer.load_state_dict(optimizer)
        for part in self._kept:
            part.load(folder)


class Training:
    """A student with every kind of term, negatives drawn by chance, on shards of which some samples are held out."""

    def __init__(self, job: TrainingJob, folder: Path):
        self.losses = LossesConfig.model_validate({"cluster": {"label_weight": 1.0, "sample_rate": 0.5}})
        self.student: BuiltStudent = build_student(
            job.student.model, teacher_dim=job.teacher_dim, temperature=0.07, seed=0
        )
        assert job.centroids
        self.engine, self.folder = PlainEngine(self.student.module), folder
        self.task = DistillationTask(
            self.losses,
            centroids=load_centroids(CentroidTable.open(job.centroids), self.losses.cluster),
            normalize=Preprocessing.of(self.student.preprocess).normalize,
            device=torch.device("cpu"),
        )
        self.samples, self.held_out = (self._open(job, part) for part in (False, True))
        self.checkpoints = Checkpoints(folder / "checkpoints", fingerprint="a", keep=9)
        self.best: Best | None = None

    def _open(self, job: TrainingJob, held_out: bool) -> TrainingSet:
        return TrainingSet(
            job.shards,
            job.index_folder,
            needs=Needs.of(self.losses),
            preprocessing=Preprocessing.of(self.student.preprocess),
            tokenizer=self.student.tokenizer,
            held_out_samples=HELD_OUT,
            held_out=held_out,
        )

    def evaluation(self, images: Path, *, samples: int = 100) -> StudentEvaluation:
        return StudentEvaluation(
            engine=self.engine,
            task=self.task,
            student=self.student,
            sets=[open_small_set(images, ["zero_shot", "retrieval"], samples=samples)],
            held_out=lambda: held_out_batches(self.held_out, batch_size=BATCH, seed=0, rank=0, ranks=1),
            rows=7,
        )

    def run(self, evaluation: StudentEvaluation | None, *, until: int = STEPS, keep_best: str | None = None) -> None:
        """From the newest checkpoint, if there is one."""
        if keep_best:
            self.best = Best(self.engine, keep_best)
            self.engine.keep(self.best)
        start = self.checkpoints.newest()
        if start:
            self.checkpoints.load(self.engine, start)
        loop = Loop(
            engine=self.engine,
            task=self.task,
            checkpoints=self.checkpoints,
            metrics_file=self.folder / "metrics.jsonl",
            settings=LoopSettings(
                steps=STEPS,
                batch_size=BATCH,
                schedule=lambda step: 1e-2,
                seed=0,
                checkpoint_every=3,
                log_every=1,
                evaluate_every=2 if evaluation else 0,
            ),
            evaluation=evaluation,
            best=self.best,
        )
        order = SampleOrder(self.samples.shard_rows, batch_size=BATCH, seed=0)
        loaded = batches(self.samples, order, start=start, stop=until, rank=0, ranks=1, workers=0)
        loop.run(loaded, start=start, stop=StopFlag())

    def rows(self, *, evaluated: bool) -> list[dict[str, Any]]:
        rows = [row for row in read_rows(self.folder / "metrics.jsonl") if is_evaluation(row) == evaluated]
        machine = ("samples_per_second", "data_stall", "memory_gb")
        return [{name: value for name, value in row.items() if name not in machine} for row in rows]


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_are_the_same_with_and_without_and_after_a_kill(job: TrainingJob, images: Path, tmp_path: Path) -> None:
    """Also statistics of BatchNorm, negatives drawn by chance, every row of metrics, and the best weights."""
    plain, watched, killed, resumed = (Training(job, tmp_path / name) for name in ("plain", "seen", "killed", "killed"))
    for trained in (plain, watched, killed):
        trained.folder.mkdir()
    plain.run(None)
    watched.run(watched.evaluation(images), keep_best="held_out/loss")
    assert _equal(watched.engine.state(), plain.engine.state())
    assert watched.rows(evaluated=False) == plain.rows(evaluated=False)

    killed.run(killed.evaluation(images), until=5, keep_best="held_out/loss")  # of which 4 and 5 are lost
    assert resumed.checkpoints.newest() == 3
    resumed.run(resumed.evaluation(images), keep_best="held_out/loss")
    assert _equal(resumed.engine.state(), plain.engine.state())
    for evaluated in (True, False):
        assert resumed.rows(evaluated=evaluated) == watched.rows(evaluated=evaluated)
    assert watched.best and resumed.best and watched.best.step == resumed.best.step
    assert _equal(watched.best.weights, resumed.best.weights)
    found = {row["step"]: row["held_out/loss"] for row in watched.rows(evaluated=True)}
    assert list(found) == [2, 4, 6] and watched.best.step == min(found, key=lambda step: found[step])


def test_the_last_row_is_what_the_export_gives(job: TrainingJob, images: Path, tmp_path: Path) -> None:
    """Measured by plain open_clip on the same samples; losses by the task on the module itself."""
    trained = Training(job, tmp_path)
    trained.run(trained.evaluation(images))
    row = trained.rows(evaluated=True)[-1]
    export_student(tmp_path / "export", trained.student, trained.engine.state())
    table = evaluate({"student": tmp_path / "export"}, [images], ["zero_shot", "retrieval"]).to_pylist()
    expected = {f"{one['task']}/shapes/{one['metric']}": one["value"] for one in table}
    assert len(expected) == 9 and {name: row[name] for name in expected} == pytest.approx(expected)

    module, losses = trained.student.module.eval(), []
    for number, batch in enumerate(held_out_batches(trained.held_out, batch_size=BATCH, seed=0, rank=0, ranks=1)):
        torch.manual_seed(number)
        with torch.no_grad():
            losses.append(trained.task.losses(module, batch))
    assert len(losses) == HELD_OUT // BATCH
    for term in losses[0]:
        assert row[f"held_out/{term}"] == pytest.approx(float(sum(loss[term] for loss in losses)) / len(losses))
    assert row["held_out/loss"] == pytest.approx(
        sum(trained.task.weights[term] * row[f"held_out/{term}"] for term in losses[0])
    )


def test_ranks_share_the_work_and_find_the_same(job: TrainingJob, images: Path, tmp_path: Path) -> None:
    """As each of three ranks would see it: what the others give is what they would have computed."""
    trained = Training(job, tmp_path)
    whole = trained.evaluation(images)
    alone = whole.measure()
    given: dict[int, list[Any]] = {}

    class Rank(PlainEngine):
        world = 3

        def __init__(self, module: torch.nn.Module, rank: int):
            super().__init__(module)
            self.rank, self.calls = rank, 0

        def gather(self, value: Any) -> list[Any]:
            call, self.calls = self.calls, self.calls + 1
            given.setdefault(call, [None] * self.world)[self.rank] = value
            return [value if part is None else part for part in given[call]]

    for attempt in range(2):
        # The second time all parts of the features are known.
        for rank in range(3):
            trained.engine = Rank(trained.student.module, rank)
            trained.held_out = trained.samples
            evaluation = trained.evaluation(images)
            evaluation._held_out = None
            found = evaluation.measure()
        if attempt:
            assert found == pytest.approx({name: value for name, value in alone.items() if "held_out" not in name})
    assert {len(part) for part in given[0]} == {7}, "20 images are 7 for each, one of them twice"


def test_held_out_samples_are_not_trained_on(job: TrainingJob, tmp_path: Path) -> None:
    trained = Training(job, tmp_path)
    ids = [
        {part.sample(shard, row)["image_id"] for shard, rows in enumerate(part.shard_rows) for row in range(rows)}
        for part in (trained.samples, trained.held_out)
    ]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == set(range(96)) and len(ids[1]) == HELD_OUT
    parts = [
        [batch.image_ids for batch in held_out_batches(trained.held_out, batch_size=16, seed=0, rank=rank, ranks=2)]
        for rank in (0, 1)
    ]
    assert sorted(number for part in parts for batch in part for number in batch) == sorted(ids[1])
    with pytest.raises(ConfigError, match="held_out_samples is 97, but there are only 96"):
        TrainingSet(
            job.shards,
            job.index_folder,
            needs=Needs.of(trained.losses),
            preprocessing=trained.samples.preprocessing,
            tokenizer=trained.student.tokenizer,
            held_out_samples=97,
        )


def test_a_set_is_made_small_by_chance_and_always_alike(images: Path) -> None:
    whole, small, again = (open_small_set(images, ["zero_shot"], samples=samples) for samples in (20, 6, 6))
    assert small == again and len(small.data.test) == 6 and len(whole.data.test) == 20
    of = dict(zip(whole.data.test.images, zip(whole.data.test.labels, whole.data.test.captions)))
    assert [of[image] for image in small.data.test.images] == list(
        zip(small.data.test.labels, small.data.test.captions)
    )
    assert small.data.test.images != whole.data.test.images[:6]


def test_what_cannot_be_measured_is_refused(job: TrainingJob, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="different names, got \\['shapes', 'shapes'\\]"):
        open_small_sets([images, images], ["zero_shot"], samples=3)
    trained = Training(job, tmp_path)
    with torch.no_grad():
        trained.student.module.model.visual.conv1.weight[:] = torch.nan
    evaluation = trained.evaluation(images)
    evaluation._sets, evaluation._pixels = [], []
    with pytest.raises(NonFiniteLossError, match="the loss of held-out samples is not finite"):
        evaluation.measure()
    (images / "classnames.txt").write_text("one\ntwo\n")
    with pytest.raises(ShardError, match="class id 2, expected one below 2"):
        open_small_set(images, ["zero_shot"], samples=3)
    (images / "classnames.txt").unlink()
    with pytest.raises(ConfigError, match=r"nothing can be measured on it: zero_shot needs classnames\.txt"):
        open_small_set(images, ["zero_shot"], samples=3)
