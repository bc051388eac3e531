"""Settings of training and evaluation. Every default is the demo's."""

from training.config.ablation import AblationConfig
from training.config.evaluation import EvaluationConfig
from training.config.losses import (
    ClusterConfig,
    ContrastiveConfig,
    DirectionsConfig,
    InstanceConfig,
    LossesConfig,
    RelationConfig,
)
from training.config.student import BaselineConfig, EvaluateConfig, OptimizerConfig, StudentConfig

__all__ = [
    "AblationConfig",
    "BaselineConfig",
    "ClusterConfig",
    "ContrastiveConfig",
    "DirectionsConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "InstanceConfig",
    "LossesConfig",
    "OptimizerConfig",
    "RelationConfig",
    "StudentConfig",
]
