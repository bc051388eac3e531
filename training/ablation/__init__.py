"""The grid of data, losses and seeds."""

from typing import TYPE_CHECKING

from training.lazy import lazily

if TYPE_CHECKING:
    from training.ablation.paired import PairedDifference, paired_difference
    from training.ablation.points import summary
    from training.ablation.stage import run_ablation

__all__ = ["PairedDifference", "paired_difference", "run_ablation", "summary"]

__getattr__ = lazily(
    __name__,
    {
        "PairedDifference": "paired",
        "paired_difference": "paired",
        "run_ablation": "stage",
        "summary": "points",
    },
)
