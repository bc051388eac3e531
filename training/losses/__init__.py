"""The terms of the loss: contrastive, cluster and instance discrimination, relations within the batch."""

from typing import TYPE_CHECKING

from training.lazy import lazily

if TYPE_CHECKING:
    from training.losses.centroid_softmax import softmax_over_centroids
    from training.losses.centroids import Centroids
    from training.losses.cluster import ClusterDiscriminationLoss
    from training.losses.contrastive import ContrastiveLoss, symmetric_cross_entropy
    from training.losses.gradient import GradientDistillationLoss
    from training.losses.instance import InstanceDiscriminationLoss
    from training.losses.relation import RelationDivergenceLoss

__all__ = [
    "Centroids",
    "ClusterDiscriminationLoss",
    "ContrastiveLoss",
    "GradientDistillationLoss",
    "InstanceDiscriminationLoss",
    "RelationDivergenceLoss",
    "softmax_over_centroids",
    "symmetric_cross_entropy",
]

__getattr__ = lazily(
    __name__,
    {
        "Centroids": "centroids",
        "ClusterDiscriminationLoss": "cluster",
        "ContrastiveLoss": "contrastive",
        "GradientDistillationLoss": "gradient",
        "InstanceDiscriminationLoss": "instance",
        "RelationDivergenceLoss": "relation",
        "softmax_over_centroids": "centroid_softmax",
        "symmetric_cross_entropy": "contrastive",
    },
)
