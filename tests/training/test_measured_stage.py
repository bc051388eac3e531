"""What a measured run leaves under the root, and when it is made anew. Ranks are not started."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from tests.conftest import SmallRun
from training import stage
from training.config import StudentConfig
from training.job.metrics import write_evaluations, write_table
from training.job.training_job import TrainingJob
from training.launch.launcher import TrainingResult


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """The jobs for which ranks would have been started, each of which ends at once."""
    started: list[TrainingJob] = []

    def run_training(job: TrainingJob, **_: Any) -> TrainingResult:
        started.append(job)
        job.on(2).check()
        job.export_folder.mkdir(parents=True)
        (job.export_folder / "open_clip_config.json").write_text("{}")
        write_table([{"step": 1, "samples_seen": 2, "loss": 1.0}], job.metrics_table)
        if job.student.evaluate_every:
            write_evaluations([{"step": 1, "zero_shot/demo/top1": 0.5}], job.evaluations_table)
        return TrainingResult(
            export=job.export_folder,
            metrics=job.metrics_table,
            evaluations=job.evaluations_table if job.student.evaluate_every else None,
            steps=1,
            exported_step=1,
            resumed_from=0,
            startup_s=0.0,
            training_s=0.0,
        )

    monkeypatch.setattr(stage, "run_training", run_training)
    return started


def _files(root: Path) -> list[Path]:
    return sorted(root.glob("training_evaluations/*"))


def test_a_table_beside_the_metrics_that_goes_with_them(copied: SmallRun, jobs: list[TrainingJob]) -> None:
    root, sets = copied.root, [copied.root / "demo" / "evaluation" / "demo"]
    watched = StudentConfig(batch_size=32, steps=12, evaluate_every=6)
    result = stage.train_student(root, watched, datasets=sets)
    (path,) = _files(root)
    assert pq.read_table(path).schema.equals(schema.TRAINING_EVALUATIONS)
    assert result.paths("training_evaluations") == [path]
    assert jobs[0].student.measured_on == [path.resolve() for path in sets]

    # Neither does looking on make it anew, nor ceasing to.
    for other in (watched.model_copy(update={"evaluate_every": 0}), watched.model_copy(update={"evaluate_every": 3})):
        assert stage.train_student(root, other, datasets=sets).computed == 0
    # Choosing does, and so does another set to choose by; what is no longer measured is no longer there.
    best = watched.model_copy(update={"keep_best": "zero_shot/demo/top1"})
    chosen = stage.train_student(root, best, datasets=sets)
    assert chosen.computed == 1 and chosen.stats["exported_step"] == 1
    shutil.copytree(sets[0], root.parent / "elsewhere" / "demo")
    moved = [root.parent / "elsewhere" / "demo"]
    assert stage.train_student(root, best, datasets=moved).computed == 0
    # Another set beside it decides nothing.
    shutil.copytree(sets[0], root.parent / "beside")
    assert stage.train_student(root, best, datasets=[*moved, root.parent / "beside"]).computed == 0
    (moved[0] / "classnames.txt").write_text("other\n")
    assert stage.train_student(root, best, datasets=moved).computed == 1
    plain = StudentConfig(batch_size=32, steps=12)
    assert stage.train_student(root, plain).computed == 1 and not _files(root)


def test_the_page_shows_what_the_exported_step_was_measured_by(copied: SmallRun, jobs: list[TrainingJob]) -> None:
    from assets.page.pictures import training_pictures

    stage.train_student(copied.root, StudentConfig(batch_size=32, steps=12, evaluate_every=6))
    pictures = training_pictures(copied.settings, "student")
    assert pictures["zero_shot/demo/top1"] == 0.5 and "last loss" in pictures and "loss curves" in pictures
