"""The contract between whoever starts a training run and its ranks: one JSON file."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from pipeline.core.errors import ConfigError, ShardError
from pipeline.core.files import file_digest, fingerprint_of
from pipeline.core.manifest import read_manifest
from pipeline.core.settings import Section
from training.config import StudentConfig
from training.config.student import TEACHER, UNIFORM
from training.evaluation.small import parts_of
from training.evaluation.stage import dataset_identity
from training.job.contradictions import contradictions
from training.losses.active import Needs

NO_TEACHER_TEMPERATURE = (
    "student.losses.relation needs the temperature of the teacher's similarities, which is not known here: set "
    "student.losses.relation.teacher_temperature, for CLIP's own models 0.01"
)
_DIVISION = ("ranks", "zero_stage", "micro_batches", "gradient_checkpointing", "compile")


class TrainingJob(Section):
    """One training run: a student, what it learns from, and where everything about it is written."""

    name: str = Field(description="Names the run in log lines, for example `student` or `baseline`.")
    student: StudentConfig = Field(description="The student and how it is trained.")
    shards: Path = Field(description="Folder of `<shard>.tar`.")
    index: Path | None = Field(None, description="Folder of `<shard>.parquet` (TAR_INDEX); default `<shards>/index`.")
    centroids: Path | None = Field(None, description="Parquet file with `cluster_id, centroid`, for the cluster term.")
    weights: Path | None = Field(
        None, description="Folder of `<shard>.parquet` with `image_id, weight`, where `student.weights` asks for them."
    )
    weights_digest: str = Field("", description="Digest of what the weights are made of; none means of the folder.")
    teacher: Path | None = Field(
        None, description="The teacher's open_clip folder, where the student inherits from it."
    )
    teacher_dim: int | None = Field(None, description="Width of the teacher's embeddings, where a term needs them.")
    made_with: dict[str, str] = Field(
        {},
        description="What `<shards>/manifest.json` must say of `weights_hash`, `preprocessing_hash`, "
        "`clusters_digest`; shards of another teacher or other clusters are refused.",
    )
    views: int = Field(1, description="Views that each sample has in the shards; 1 for the image as it is.", ge=1)
    inputs: str = Field("", description="Digest of what the shards hold; other checkpoints are not resumed from.")
    output: Path = Field(description="Folder for checkpoints, metrics and the export.")

    @classmethod
    def read(cls, path: Path) -> "TrainingJob":
        """From a YAML or JSON file; :class:`ConfigError` names what is wrong with it."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except (OSError, yaml.YAMLError, ValidationError) as error:
            raise ConfigError(f"{path} is no training job: {error}") from error

    def on(self, ranks: int) -> "TrainingJob":
        """The same job with this number of ranks, which it may have left open."""
        return self.model_copy(update={"student": self.student.model_copy(update={"ranks": ranks})})

    def check(self) -> None:
        """Raise :class:`ConfigError` if settings contradict each other. The number of ranks is no longer open."""
        student, needs = self.student, Needs.of(self.student.losses)
        assert student.ranks is not None, "whoever starts ranks knows how many"
        for line in contradictions(student, ranks=student.ranks):
            raise ConfigError(line)
        if needs.teacher_space and self.teacher_dim is None:
            raise ConfigError(
                "the cluster and instance terms and relation_gradient need teacher embeddings: teacher_dim must be "
                "given"
            )
        if needs.teacher_temperature and student.losses.relation.teacher_temperature is None:
            raise ConfigError(NO_TEACHER_TEMPERATURE)
        if (student.weights == UNIFORM) != (self.weights is None):
            raise ConfigError(f"student.weights {student.weights}, but the folder of weights is {self.weights}")
        if needs.centroids and self.centroids is None:
            raise ConfigError("the cluster term needs centroids: the path of a Parquet file must be given")

    def check_shards(self) -> None:
        """Raise :class:`ShardError` if the shards were made with another teacher, preprocessing or clusters."""
        if not self.made_with:
            return
        manifest = dataclasses.asdict(read_manifest(self.shards))
        other = {
            name: (manifest.get(name), value) for name, value in self.made_with.items() if manifest.get(name) != value
        }
        if other:
            raise ShardError(
                f"{self.shards} was made with another teacher, preprocessing or clusters: "
                + ", ".join(f"its {name} is {found}, this job's {value}" for name, (found, value) in other.items())
                + "; materialize training_shards again"
            )

    @property
    def index_folder(self) -> Path:
        return self.index or self.shards / "index"

    @property
    def metrics_file(self) -> Path:
        """Rows of metrics while the run goes on, one JSON object a line."""
        return self.output / "metrics.jsonl"

    @property
    def metrics_table(self) -> Path:
        """The same rows as Parquet, once the run has ended."""
        return self.output / "metrics.parquet"

    @property
    def evaluations_table(self) -> Path:
        """What the student was measured by meanwhile, as Parquet, where it was."""
        return self.output / "evaluations.parquet"

    @property
    def mlflow_file(self) -> Path:
        """MLflow's database, for all runs, beside their output folders."""
        return self.output.with_name("mlflow.db")

    @property
    def tensorboard_folder(self) -> Path:
        """Event files, kept beside the output folder, which is removed once its results were taken."""
        return self.output.with_name(f"{self.output.name}-tensorboard")

    @property
    def export_folder(self) -> Path:
        """The trained student as an open_clip folder."""
        return self.output / "export"

    @property
    def result_file(self) -> Path:
        """Written last by a run that ended well: what :class:`training.launch.launcher.TrainingResult` has of it."""
        return self.output / "result.json"

    @property
    def checkpoints(self) -> Path:
        return self.output / "checkpoints"

    @property
    def failure_file(self) -> Path:
        """Type and message of the error that ended a rank."""
        return self.output / "failure.json"

    def fingerprint(self) -> str:
        """A hash of what is trained and on what; a checkpoint is resumed only by a job that has the same.

        How the work is divided is left out: a run may go on with other ranks, at the price of rounding (and, with
        BatchNorm, of other parts of the batch to normalize by).
        """
        from pipeline.clip.model import WEIGHTS_FILE

        model = Path(self.student.model)
        model_file = model.read_text() if model.is_file() else None
        content = {name: value for name, value in self.student.content().items() if name not in _DIVISION}
        start = self.teacher if self.teacher and self.student.initial == TEACHER else Path(self.student.initial)
        weights = start / WEIGHTS_FILE if start.is_dir() else start
        digests: list[Any] = [file_digest(path) for path in (weights,) if path.is_file()]
        digests += [*self.weighted_by(), *self.chosen_on()]
        return fingerprint_of(content, model_file, self.teacher_dim, self.inputs or self._data(), self.views, digests)

    def weighted_by(self) -> list[str]:
        """A digest of the weights, where there are some."""
        if self.weights is None:
            return []
        files = sorted(self.weights.glob("*.parquet")) if not self.weights_digest else []
        return [self.weights_digest or fingerprint_of([[path.name, file_digest(path)] for path in files])]

    def chosen_on(self) -> list[Any]:
        """What the set is that decides which weights are exported, where one does."""
        if self.student.keep_best is None:
            return []
        _, name, _ = parts_of(self.student.keep_best)
        return [dataset_identity(path) for path in self.student.measured_on if path.name == name]

    def _data(self) -> list[Any]:
        """What a job of a plain command trains on, of which nobody has said what it is."""
        index = [[path.name, path.stat().st_size] for path in sorted(self.index_folder.glob("*.parquet"))]
        centroids = file_digest(self.centroids) if self.centroids and self.centroids.is_file() else None
        return [str(self.shards.resolve()), index, centroids]
