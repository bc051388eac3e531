"""The cells of the ablation: which data, which losses, which seed."""

import dataclasses
from typing import Any

from pipeline.core.errors import ConfigError
from training.config import AblationConfig, EvaluateConfig, LossesConfig, StudentConfig

# What each entry of the grid turns off, or makes of the student's own settings.
_OFF: dict[str, Any] = {"weight": 0.0}
_LOSSES: dict[str, dict[str, dict[str, Any]]] = {
    "contrastive": {"cluster": _OFF, "instance": _OFF},
    "cluster": {"instance": _OFF},
    "instance": {"cluster": _OFF, "instance": {"feature_weight": 0.0}},
    "both": {"instance": {"feature_weight": 0.0}},
    # CLIP-KD's strong simple baseline: contrastive learning and the mean squared error to the teacher's embeddings.
    "feature": {"cluster": _OFF, "instance": {"discrimination_weight": 0.0}},
    "configured": {},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of the grid."""

    data: str
    losses: str
    seed: int
    student: StudentConfig

    @property
    def name(self) -> str:
        return f"{self.data}-{self.losses}-{self.seed}"


def cells_of(config: AblationConfig, student: StudentConfig) -> list[Cell]:
    """All cells, seed by seed, so that an unfinished grid has whole rows; equal steps everywhere.

    Raises :class:`ConfigError` where the student's own settings leave nothing of a term that the grid turns on.
    """
    changes: dict[str, Any] = {"steps": config.steps or student.steps, "log_every": config.steps or student.steps}
    # Nobody looks on: each cell has all samples, and gives the weights of its last step.
    changes |= {"evaluate_every": 0, "evaluate": EvaluateConfig(), "keep_best": None}
    return [
        Cell(
            data=data,
            losses=losses,
            seed=seed,
            student=student.model_copy(update={**changes, "seed": seed, "losses": losses_of(losses, student.losses)}),
        )
        for seed in config.seeds
        for data in config.data
        for losses in config.losses
    ]


def losses_of(name: str, base: LossesConfig) -> LossesConfig:
    """The student's losses as an entry of the grid has them."""
    values = base.model_dump()
    for section, fields in _LOSSES[name].items():
        values[section] |= fields
    for section in ("cluster", "instance"):
        if _LOSSES[name].get(section) != _OFF and not values[section]["weight"]:
            raise ConfigError(f"ablation: {name!r} needs student.losses.{section}.weight above 0")
    if name == "feature" and not values["instance"]["feature_weight"]:
        raise ConfigError("ablation: 'feature' needs student.losses.instance.feature_weight above 0")
    return LossesConfig.model_validate(values)
