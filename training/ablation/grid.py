"""The cells of the ablation: which data, which losses, which seed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import ConfigError
from pipeline.core.settings import overlaid
from training.config import AblationConfig, EvaluateConfig, LossesConfig, StudentConfig
from training.config.losses import LOSS_PRESETS

ALL, RANDOM, BALANCED = "all", "random", "balanced"

# What each entry of the grid turns off, or makes of the student's own settings.
_OFF: dict[str, Any] = {"weight": 0.0}
_ALONE: dict[str, Any] = {"cluster": _OFF, "instance": _OFF, "relation": _OFF}
_LOSSES: dict[str, dict[str, dict[str, Any]]] = {
    "contrastive": _ALONE,
    "cluster": {"instance": _OFF, "relation": _OFF},
    "instance": {"cluster": _OFF, "instance": {"feature_weight": 0.0}, "relation": _OFF},
    "both": {"instance": {"feature_weight": 0.0}, "relation": _OFF},
    # CLIP-KD's strong simple baseline: contrastive learning and the mean squared error to the teacher's embeddings.
    "feature": {"cluster": _OFF, "instance": {"discrimination_weight": 0.0}, "relation": _OFF},
    # Single parts of a term, of a weight that does not depend on the student's settings.
    "label": {**_ALONE, "cluster": {"weight": 1.0, "label_weight": 1.0, "divergence_weight": 0.0, "positives": 1}},
    "label_8": {**_ALONE, "cluster": {"weight": 1.0, "label_weight": 1.0, "divergence_weight": 0.0, "positives": 8}},
    "relation": {**_ALONE, "relation": {"weight": 1.0, "divergence_weight": 1.0, "gradient_weight": 0.0}},
    "gradient": {**_ALONE, "relation": {"weight": 1.0, "divergence_weight": 0.0, "gradient_weight": 1.0}},
    "relation_cluster": {
        "instance": _OFF,
        "relation": {"weight": 1.0, "divergence_weight": 1.0, "gradient_weight": 0.0},
    },
    # What the preset sets, over the student's own.
    "best": LOSS_PRESETS["best"],
    "configured": {},
}
_ABOVE_ZERO = {
    "cluster": ("cluster", "both", "relation_cluster", "configured"),
    "instance": ("instance", "both", "feature", "configured"),
}
LOSSES = tuple(_LOSSES)
"""The choices of losses, in the order in which they are shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of the grid. ``axes``: those on which it is wanted; ``steps_per_epoch``: over its pairs."""

    data: str
    losses: str
    seed: int
    axes: tuple[str, ...]
    steps_per_epoch: int
    student: StudentConfig

    @property
    def name(self) -> str:
        return f"{self.data}-{self.losses}-{self.seed}-{self.student.steps}"


def cells_of(config: AblationConfig, student: StudentConfig, pairs: Mapping[str, int] | None = None) -> list[Cell]:
    """All cells, seed by seed, so that an unfinished grid has whole rows. What is the same on two axes is one cell.

    ``pairs``: those of each data set, by which epochs become steps; while they are not known, all sets count as equal.
    Raises :class:`ConfigError` where the student's own settings leave nothing of a term that the grid turns on.
    """
    # Nobody looks on: each cell has all samples, and gives the weights of its last step.
    alone = {"evaluate_every": 0, "evaluate": EvaluateConfig(), "keep_best": None}
    student = student.unweighted().model_copy(update=alone)
    return [
        _cell(
            config,
            student,
            data,
            losses,
            seed,
            axes=axes,
            steps=steps,
            steps_per_epoch=_per_epoch(student, pairs, data),
        )
        for seed in config.seeds
        for data in config.data
        for losses in config.losses
        for steps, axes in _steps(config, student, pairs, data).items()
    ]


def _cell(
    config: AblationConfig, student: StudentConfig, data: str, losses: str, seed: int, *, steps: int, **facts: Any
) -> Cell:
    every = config.measure_every if config.measure_every and config.measure_every < steps else None
    changes: dict[str, Any] = {"steps": steps, "log_every": every or steps, "seed": seed}
    if every:
        # Whatever is measured has its checkpoint until then, whichever others a stop leaves.
        changes |= {"checkpoint_every": every, "keep_checkpoints": steps}
    changes["losses"] = losses_of(losses, student.losses)
    return Cell(data=data, losses=losses, seed=seed, student=student.model_copy(update=changes), **facts)


def _steps(
    config: AblationConfig, student: StudentConfig, pairs: Mapping[str, int] | None, data: str
) -> dict[int, tuple[str, ...]]:
    """The axes of the cells of a data set, by their number of steps."""
    steps = config.steps or student.steps
    epochs = config.epochs or steps / _per_epoch(student, pairs, ALL)
    wanted = {"steps": steps, "epochs": max(1, round(epochs * _per_epoch(student, pairs, data)))}
    axes: dict[int, tuple[str, ...]] = {}
    for axis in dict.fromkeys(config.axis):
        axes[wanted[axis]] = (*axes.get(wanted[axis], ()), axis)
    return axes


def _per_epoch(student: StudentConfig, pairs: Mapping[str, int] | None, data: str) -> int:
    """Steps of an epoch, as :class:`training.data.order.SampleOrder` counts them."""
    return max(1, pairs[data] // student.batch_size) if pairs else 1


def losses_of(name: str, base: LossesConfig) -> LossesConfig:
    """The student's losses as an entry of the grid has them."""
    values = overlaid(base.model_dump(), _LOSSES[name])
    for section, names in _ABOVE_ZERO.items():
        if name in names and not values[section]["weight"]:
            raise ConfigError(f"ablation: {name!r} needs student.losses.{section}.weight above 0")
    if name == "feature" and not values["instance"]["feature_weight"]:
        raise ConfigError("ablation: 'feature' needs student.losses.instance.feature_weight above 0")
    return LossesConfig.model_validate(values)
