"""Every parameter of the pipeline in one object, the same for all jobs."""

import difflib
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.balance.config import BalanceConfig
from pipeline.clusters.config import ClustersConfig
from pipeline.compute.config import ComputeConfig
from pipeline.core.errors import ConfigError
from pipeline.core.query import QueryConfig
from pipeline.core.settings import DEMO, Section, runtime, section_by_name
from pipeline.demo.config import DemoConfig
from pipeline.download.config import ImagesConfig
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.neighbors.config import NeighborsConfig
from pipeline.shards.config import ShardsConfig
from pipeline.source.config import SourceConfig
from pipeline.storage.config import StorageConfig
from pipeline.storage.roots import open_root
from pipeline.teacher.config import TeacherConfig
from training.config import AblationConfig, BaselineConfig, EvaluationConfig, StudentConfig


class ChecksConfig(Section):
    """Bounds of the asset checks."""

    min_success_rate: float = runtime(0.5, "Least share of the pairs that must have been downloaded.", ge=0, le=1)
    max_group_share: float = runtime(0.05, "Largest share of all images that one group may hold.", gt=0, le=1)
    max_empty_clusters: float = runtime(0.01, "Largest share of clusters without an image.", ge=0, le=1)
    live_samples: int = runtime(
        24, "Samples whose teacher embeddings are computed anew and compared with those stored; 0 compares none.", ge=0
    )
    min_embedding_cosine: float = runtime(0.999, "Least cosine between the two.", le=1)
    min_export_cosine: float = runtime(0.9999, "Least cosine between embeddings before and after export.", le=1)


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
    neighbors: NeighborsConfig = NeighborsConfig()
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
        threshold = self.balance.threshold if self.balance.removal is None else None
        if threshold is not None and threshold > self.neighbors.max_distance:
            raise ValueError(
                f"balance.threshold {threshold} lies beyond neighbors.max_distance "
                f"{self.neighbors.max_distance}, up to which pairs are recorded"
            )
        if self.student.ranks and self.student.batch_size % self.student.ranks:
            raise ValueError(
                f"student.batch_size {self.student.batch_size} is not a multiple of student.ranks {self.student.ranks}"
            )
        return self

    @property
    def watched_datasets(self) -> list[str]:
        """Evaluation sets, by name, that students are measured on while they train; none if they are not."""
        named = self.student.evaluate.datasets
        return (self.evaluation.datasets if named is None else named) if self.student.evaluate_every else []

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
        raise ConfigError("\n".join(text for _, text in problems(error))) from error


def check_run(settings: Settings, assets: Iterable[str] | None = None, *, here: bool = True) -> None:
    """Raise :class:`pipeline.core.errors.PipelineError` for what would end a run of these assets, all if none are
    given, hours after its start: a teacher, an evaluation set or a student that is not there, or settings that
    contradict one another.

    ``here``: the run is one of this machine, whose GPUs decide what is left open.
    """
    from pipeline.teacher.stage import check_teacher
    from training.evaluation.stage import require_datasets
    from training.preflight import check_student

    wanted = set(assets) if assets is not None else {"images", "student", "baseline"}
    if wanted & {"images", "teacher"}:
        # A misspelled teacher should not wait for the end of a download.
        check_teacher(settings.teacher)
    if wanted & {"images", "evaluation_leaks"}:
        named = [Path(name) for name in settings.balance.decontaminate.datasets if name != DEMO]
        require_datasets(named, "balance.decontaminate.datasets")
    if wanted & {"student", "baseline", "ablation_results"}:
        check_student(
            settings.student,
            here=here,
            baseline=settings.baseline.enabled and "baseline" in wanted,
            datasets=settings.watched_datasets,
            ablation=settings.ablation if "ablation_results" in wanted else None,
            clusters=settings.clusters.clusters,
            root=Path(settings.root) if Path(settings.root).is_dir() else None,
        )


def problems(error: ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    """Where each wrong setting stands, and a line that says what it got and wants."""
    return [
        (
            problem["loc"],
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {problem['msg']}"
            + _hint(problem)
            + ("" if isinstance(problem["input"], dict) else f", got {_SHORT.repr(problem['input'])}"),
        )
        for problem in error.errors()
    ]


# Of whatever a config holds: aliases of YAML make small texts into values without end.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_RENAMED = {
    "neighbours": "neighbors",
    "learnt": "learnable",
    "learnt_temperature": "learnable_temperature",
    "max_distance_to_centre": "max_distance_to_center",
}
"""Settings of earlier versions that have another name now."""


def _hint(problem: Any) -> str:
    """For a setting that there is not: what it is called now, or which it may be meant to be."""
    if problem["type"] != "extra_forbidden":
        return ""
    *sections, name = problem["loc"]
    if name in _RENAMED:
        return f"; {name} is called {_RENAMED[name]} now"
    model: Any = Settings
    for section in sections:
        field = getattr(model, "model_fields", {}).get(section)
        model = field.annotation if field else section_by_name(model)
    near = difflib.get_close_matches(str(name), getattr(model, "model_fields", {}), 1)
    return f"; did you mean {near[0]}?" if near else ""
