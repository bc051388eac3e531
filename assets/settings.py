"""Every parameter of the pipeline in one object, the same for all jobs."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.config import (
    BalanceConfig,
    ChecksConfig,
    ClustersConfig,
    ComputeConfig,
    EmbeddingsConfig,
    ImagesConfig,
    NeighboursConfig,
    QueryConfig,
    Section,
    ShardsConfig,
    SourceConfig,
    StorageConfig,
    TeacherConfig,
)
from pipeline.demo.config import DemoConfig
from pipeline.errors import ConfigError
from pipeline.storage import open_root
from training.config import AblationConfig, BaselineConfig, EvaluationConfig, StudentConfig


class Settings(Section):
    """All settings. The defaults are the demo's, so that a job without config runs it."""

    root: str = Field(
        "data/demo",
        description="Folder that holds all tables of one data set, or a URL of one that fsspec knows: "
        "`s3://bucket/prefix`.",
        min_length=1,
    )
    storage: StorageConfig = StorageConfig()
    compute: ComputeConfig = ComputeConfig()
    query: QueryConfig = QueryConfig()
    demo: DemoConfig = DemoConfig()
    source: SourceConfig = SourceConfig()
    images: ImagesConfig = ImagesConfig()
    teacher: TeacherConfig = TeacherConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    neighbours: NeighboursConfig = NeighboursConfig()
    balance: BalanceConfig = BalanceConfig()
    clusters: ClustersConfig = ClustersConfig()
    shards: ShardsConfig = ShardsConfig()
    student: StudentConfig = StudentConfig()
    baseline: BaselineConfig = BaselineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    ablation: AblationConfig = AblationConfig()
    checks: ChecksConfig = ChecksConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.balance.target_removal is None and self.balance.threshold > self.neighbours.max_distance:
            raise ValueError(
                f"balance.threshold {self.balance.threshold} lies beyond neighbours.max_distance "
                f"{self.neighbours.max_distance}, up to which pairs are recorded"
            )
        if self.student.ranks and self.student.batch_size % self.student.ranks:
            raise ValueError(
                f"student.batch_size {self.student.batch_size} is not a multiple of student.ranks {self.student.ranks}"
            )
        return self

    @property
    def path(self) -> Path:
        """The root, or for a URL the folder for its local copies."""
        path = open_root(self.root, self.storage)
        # Workers of a cluster have working directories of their own.
        return path.resolve() if self.compute.engine == "ray" else path


def parse_settings(values: dict[str, Any]) -> Settings:
    """Settings from plain values; :class:`ConfigError` names every field that is wrong, what it got and wants."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {problem['msg']}"
            + ("" if isinstance(problem["input"], dict) else f", got {problem['input']!r}")
            for problem in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from error
