"""Cluster discrimination: the student's images against the centroids of the teacher's image embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ClusterConfig


class ClusterDiscriminationLoss(nn.Module):
    """Teach the student which cluster an image belongs to, and how it relates to all the others.

    ``centroids``: ``(K, D)`` of the teacher's k-means; fixed, and L2-normalised here, so that logits are cosines
    (METHOD: cross-entropy with the label, and KL(softmax(V C / tau_t) || softmax(v C / tau_c)); CLIP-CID,
    arXiv 2408.09441, second-hand). Rows are independent of each other, so ranks have nothing to exchange.
    """

    centroids: Tensor

    def __init__(
        self,
        centroids: Tensor,
        *,
        temperature: float = 0.07,
        teacher_temperature: float = 0.07,
        label: bool = True,
        divergence: bool = True,
    ):
        super().__init__()
        if centroids.ndim != 2 or not torch.isfinite(centroids).all():
            raise ValueError(f"centroids must be a finite (K, D) matrix, got shape {tuple(centroids.shape)}")
        self.register_buffer("centroids", F.normalize(centroids.float(), dim=-1), persistent=False)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.label, self.divergence = label, divergence

    @classmethod
    def from_config(cls, config: ClusterConfig, centroids: Tensor) -> "ClusterDiscriminationLoss":
        """Terms of weight zero are left out."""
        return cls(
            centroids,
            temperature=config.temperature,
            teacher_temperature=config.teacher_temperature,
            label=config.label_weight > 0,
            divergence=config.divergence_weight > 0,
        )

    def forward(
        self,
        image_features: Tensor,
        teacher_image_features: Tensor | None = None,
        cluster_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``{"cluster_label": scalar, "cluster_divergence": scalar}``, each if it is turned on.

        ``image_features``: ``(B, D)`` of the student, normalised. ``teacher_image_features``: ``(B, D)``, for the
        divergence. ``cluster_ids``: ``(B,)`` int64 in ``[0, K)``, for the label term.
        """
        logits_BK = image_features.float() @ self.centroids.T / self.temperature
        terms = {}
        if self.label:
            assert cluster_ids is not None
            terms["cluster_label"] = F.cross_entropy(logits_BK, cluster_ids)
        if self.divergence:
            assert teacher_image_features is not None
            teacher_BD = F.normalize(teacher_image_features.float(), dim=-1)
            teacher_BK = F.log_softmax(teacher_BD @ self.centroids.T / self.teacher_temperature, dim=-1)
            student_BK = F.log_softmax(logits_BK, dim=-1)
            terms["cluster_divergence"] = F.kl_div(student_BK, teacher_BK, reduction="batchmean", log_target=True)
        return terms
