"""Which loss terms are active, with what weight, and what they need of a sample. No torch here: callers only ask."""

import dataclasses

from training.config import LossesConfig

_INSTANCE_PAIRS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What the active terms need of a sample besides its image and caption; nothing else is read."""

    teacher_image: bool
    teacher_text: bool
    cluster_id: bool
    centroids: bool

    @classmethod
    def of(cls, losses: LossesConfig) -> "Needs":
        divergence = losses.cluster.weight * losses.cluster.divergence_weight > 0
        label = losses.cluster.weight * losses.cluster.label_weight > 0
        instance = losses.instance.weight * (losses.instance.discrimination_weight + losses.instance.feature_weight) > 0
        return cls(
            teacher_image=divergence or instance,
            teacher_text=instance,
            cluster_id=label or (divergence and losses.cluster.sample_rate < 1),
            centroids=divergence or label,
        )

    @property
    def teacher_space(self) -> bool:
        """Whether any term compares the student with the teacher."""
        return self.teacher_image or self.centroids


def learnt_temperatures(losses: LossesConfig) -> dict[str, float]:
    """Initial temperatures of the active terms that learn theirs, by section; the contrastive one always does."""
    needs, found = Needs.of(losses), {}
    if needs.centroids and losses.cluster.learnt_temperature:
        found["cluster"] = losses.cluster.temperature
    if needs.teacher_text and losses.instance.discrimination_weight and losses.instance.learnt_temperature:
        found["instance"] = losses.instance.temperature
    return found


def weights_of(losses: LossesConfig) -> dict[str, float]:
    """Weight of every active term by its name. The four cross-entropies of the instance term share its weight."""
    cluster, instance = losses.cluster, losses.instance
    pair_weight = instance.weight * instance.discrimination_weight / _INSTANCE_PAIRS
    weights = {
        "contrastive": losses.contrastive.weight,
        "cluster_label": cluster.weight * cluster.label_weight,
        "cluster_divergence": cluster.weight * cluster.divergence_weight,
        "instance_image_image": pair_weight,
        "instance_text_text": pair_weight,
        "instance_image_text": pair_weight,
        "instance_text_image": pair_weight,
        "instance_feature": instance.weight * instance.feature_weight,
    }
    return {name: weight for name, weight in weights.items() if weight > 0}
