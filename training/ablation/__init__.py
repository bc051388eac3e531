"""The grid of data, losses and seeds."""

from typing import TYPE_CHECKING

from training.lazy import lazily

if TYPE_CHECKING:
    from training.ablation.stage import run_ablation, summary

__all__ = ["run_ablation", "summary"]

__getattr__ = lazily(
    __name__,
    {
        "run_ablation": "stage",
        "summary": "stage",
    },
)
