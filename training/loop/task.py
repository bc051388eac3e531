"""The task: a batch in, named loss terms and their weighted sum out. All knowledge of CLIP-CID's training is here."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from training.config import LossesConfig
from training.data.batch import Batch
from training.losses.active import Needs, learnable_temperatures, towers_of, weights_of
from training.losses.centroid_optimizer import CentroidOptimizer
from training.losses.centroids import Centroids
from training.losses.cluster import ClusterDiscriminationLoss
from training.losses.contrastive import ContrastiveLoss
from training.losses.gradient import GradientDistillationLoss
from training.losses.instance import InstanceDiscriminationLoss
from training.losses.relation import RelationDivergenceLoss
from training.model.student import Features

# CLIP bounds its learnable temperature: the logit scale never exceeds 100 (arXiv 2103.00020, section 2.5).
MAX_LOGIT_SCALE = 4.605170185988092


class Task(Protocol):
    """What the loop asks of a task."""

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        """Named terms of one batch, without weights: scalars, of this rank."""

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""

    def after_step(self, engine: Any, *, learning_rate: float) -> dict[str, Tensor]:
        """After an optimizer step: constrain parameters, do the steps that are not the engine's.

        Returns further columns of the metrics row, numbers on the device, of which only rows that are written need
        copies.
        """


class DistillationTask:
    """Contrastive learning, cluster and instance discrimination and relations, each as its weight says.

    ``normalize``: from a batch's pixels to ``(B, 3, H, W)`` for the model, on their device.
    """

    def __init__(
        self,
        losses: LossesConfig,
        *,
        centroids: Centroids | None,
        normalize: Callable[[Tensor], Tensor],
        device: torch.device,
    ):
        self.weights, self._normalize = weights_of(losses), normalize
        self._contrastive = ContrastiveLoss() if losses.contrastive.weight else None
        self._cluster, self._towers = None, towers_of(losses.cluster)
        if Needs.of(losses).centroids:
            assert centroids is not None, "the job checks that centroids are given"
            self._cluster = ClusterDiscriminationLoss.from_config(losses.cluster, centroids).to(device)
        self.centroid_optimizer = None
        if centroids is not None and centroids.learnable:
            self.centroid_optimizer = CentroidOptimizer(centroids, factor=losses.cluster.learning_rate_factor)
        self._scales = [f"log_scales.{name}" for name in learnable_temperatures(losses)]
        self._instance = None
        if any(name.startswith("instance_") for name in self.weights):
            self._instance = InstanceDiscriminationLoss.from_config(losses.instance)
        self._divergence = self._gradient = None
        temperature = losses.relation.teacher_temperature
        if "relation_divergence" in self.weights:
            assert temperature is not None, "the job checks that it is given"
            self._divergence = RelationDivergenceLoss(teacher_scale=1 / temperature)
        if "relation_gradient" in self.weights:
            assert temperature is not None, "the job checks that it is given"
            self._gradient = GradientDistillationLoss(teacher_scale=1 / temperature)

    def losses(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Named terms of one batch; see :class:`Task`."""
        features = model(self._normalize(batch.image), batch.text)
        terms: dict[str, Tensor] = {}
        if self._contrastive:
            terms |= self._contrastive(features.image, features.text, features.logit_scale)
        if self._cluster:
            terms |= self._discriminated(self._cluster, features, batch)
        if self._instance:
            terms |= self._instance(
                features.image_to_teacher,
                features.text_to_teacher,
                batch.teacher_image,
                batch.teacher_text,
                scale=features.instance_scale,
            )
        teacher = batch.teacher_image, batch.teacher_text
        if self._divergence:
            terms |= self._divergence(features.image, features.text, *teacher, features.logit_scale)
        if self._gradient:
            student = features.image_to_teacher, features.text_to_teacher
            terms |= self._gradient(*student, *teacher, features.logit_scale)
        return terms

    def _discriminated(self, cluster: Any, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The cluster terms, means over the towers that have them."""
        sides = {
            "image": (features.image_to_teacher, batch.teacher_image),
            "text": (features.text_to_teacher, batch.teacher_text),
        }
        given = {"teacher_images": batch.teacher_image, "scale": features.cluster_scale}
        found = [cluster(*sides[tower], batch.cluster_ids, **given) for tower in self._towers]
        return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Sum of weight times term."""
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def after_step(self, engine: Any, *, learning_rate: float) -> dict[str, Tensor]:
        """Step on learnable centroids and bound the scales; the logit scale (not its logarithm) goes to the metrics."""
        if self.centroid_optimizer:
            self.centroid_optimizer.step(learning_rate)
        for name in self._scales:
            engine.clamp_parameter(name, MAX_LOGIT_SCALE)
        return {"logit_scale": engine.clamp_parameter("model.logit_scale", MAX_LOGIT_SCALE).exp()}
