"""Cluster discrimination: the student's images, or captions, against the centroids of the teacher's images."""

import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ClusterConfig
from training.losses.centroid_softmax import softmax_over_centroids
from training.losses.centroids import Centroids
from training.losses.online_softmax import CHUNK_ELEMENTS
from training.losses.positives import nearest_clusters
from training.losses.precision import widen
from training.losses.sampling import sample_centroids, share_labels


class ClusterDiscriminationLoss(nn.Module):
    """Teach the student which cluster an image belongs to, and how it relates to all the others.

    Cross-entropy with the label, and KL(softmax(V C / tau_t) || softmax(v C / tau_c)) (METHOD; CLIP-CID, arXiv
    2408.09441, second-hand). ``centroids``: ``(K, D)`` of the teacher's k-means, or :class:`Centroids`, all or this
    rank's share; unit vectors, so that logits are cosines. ``positives``: labels of an image, its cluster and the
    nearest others (``positives.py``); several have MLCD's loss (arXiv 2407.17331), log(1 + sum_n exp(s_n) sum_p
    exp(-s_p)) over logits of positives p and negatives n, which for one is the cross-entropy. ``sample_rate``: below 1,
    each step takes the batch's own clusters and this share of the others as negatives, and both softmaxes go over those
    alone. ``float16``: factors of products with fixed centroids (``precision.py``); none means on a GPU. No matrix of
    more than ``elements`` logits is held, and none is kept for the backward pass.
    """

    def __init__(
        self,
        centroids: Tensor | Centroids,
        *,
        temperature: float = 0.07,
        teacher_temperature: float = 0.07,
        label: bool = True,
        divergence: bool = True,
        positives: int = 1,
        sample_rate: float = 1.0,
        float16: bool | None = None,
        elements: int = CHUNK_ELEMENTS,
    ):
        super().__init__()
        self.centroids = centroids if isinstance(centroids, Centroids) else Centroids(centroids.clone())
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.label, self.divergence = label, divergence
        if positives > 1 and positives >= self.centroids.total:
            raise ValueError(f"{positives} positives leave no negative among {self.centroids.total} centroids")
        self.positives = positives
        # Learnable centroids move; the labels stay those of k-means.
        self.labeling = self.centroids.fixed() if positives > 1 else self.centroids
        self.sample_rate, self.float16, self.elements = sample_rate, float16, elements

    @classmethod
    def from_config(cls, config: ClusterConfig, centroids: Tensor | Centroids) -> "ClusterDiscriminationLoss":
        """Terms of weight zero are left out."""
        return cls(
            centroids,
            temperature=config.temperature,
            teacher_temperature=config.teacher_temperature,
            label=config.label_weight > 0,
            divergence=config.divergence_weight > 0,
            positives=config.positives,
            sample_rate=config.sample_rate,
        )

    def forward(
        self,
        features: Tensor,
        teacher_features: Tensor | None = None,
        cluster_ids: Tensor | None = None,
        *,
        teacher_images: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``{"cluster_label": scalar, "cluster_divergence": scalar}``, each if it is turned on; means of this rank.

        ``features``: ``(B, D)`` of the student, normalized, of images or of captions. ``teacher_features``: ``(B, D)``
        of the same, for the divergence. ``cluster_ids``: ``(B,)`` int64 in ``[0, K)``, of the images, for the label and
        for sampling. ``teacher_images``: ``(B, D)``, for several positives; none means ``teacher_features``.
        ``scale``: inverse temperature of the student, where it is learnable.
        """
        rows_BD = widen(features) * (1 / self.temperature if scale is None else widen(scale))
        teacher_BD = None
        if self.divergence:
            assert teacher_features is not None
            teacher_BD = F.normalize(teacher_features.to(rows_BD.dtype), dim=-1) / self.teacher_temperature
        labels = self._labels(cluster_ids, teacher_features if teacher_images is None else teacher_images)
        rows = softmax_over_centroids(
            rows_BD,
            teacher_BD,
            labels if self.label else None,
            self.centroids,
            chosen=self._sample(labels),
            divided=len(self.centroids) < self.centroids.total,
            float16=self.float16,
            elements=self.elements,
        )
        terms = {}
        if self.label:
            assert cluster_ids is not None
            terms["cluster_label"] = rows.label.mean()
        if self.divergence:
            terms["cluster_divergence"] = (rows.student + rows.teacher).mean()
        return terms

    def _labels(self, cluster_ids: Tensor | None, teacher_BD: Tensor | None) -> Tensor | None:
        """``(B,)`` or, where there are several, ``(B, P)``."""
        if not self.label or self.positives == 1:
            return cluster_ids
        assert cluster_ids is not None
        assert teacher_BD is not None
        options = {"count": self.positives, "elements": self.elements}
        return nearest_clusters(teacher_BD, cluster_ids, self.labeling, float16=self.float16, **options)

    def _sample(self, labels: Tensor | None) -> Tensor | None:
        """Positions of the centroids held here that take part in this step; none means all."""
        if self.sample_rate >= 1:
            return None
        assert labels is not None
        labels_G, seed = share_labels(labels.flatten())
        chosen_K = sample_centroids(self.centroids.total, rate=self.sample_rate, labels=labels_G, seed=seed)
        first = self.centroids.start
        return chosen_K[first : first + len(self.centroids)].nonzero().squeeze(1)
