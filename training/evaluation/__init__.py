"""Measuring a model: zero-shot, linear probe, retrieval."""

from typing import TYPE_CHECKING

from training.lazy import lazily

if TYPE_CHECKING:
    from training.evaluation.collection import evaluation_sets
    from training.evaluation.datasets import read_evaluation_set
    from training.evaluation.linear_probe import fit_linear_probe, fit_logistic_regression
    from training.evaluation.retrieval import retrieval_recall
    from training.evaluation.run import evaluate
    from training.evaluation.stage import evaluate_models, measure_clusters

__all__ = [
    "evaluate",
    "evaluate_models",
    "evaluation_sets",
    "fit_linear_probe",
    "fit_logistic_regression",
    "measure_clusters",
    "read_evaluation_set",
    "retrieval_recall",
]

__getattr__ = lazily(
    __name__,
    {
        "evaluate": "run",
        "evaluate_models": "stage",
        "evaluation_sets": "collection",
        "fit_linear_probe": "linear_probe",
        "fit_logistic_regression": "linear_probe",
        "measure_clusters": "stage",
        "read_evaluation_set": "datasets",
        "retrieval_recall": "retrieval",
    },
)
