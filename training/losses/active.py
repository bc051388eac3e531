"""Which loss terms are active, with what weight, and what they need of a sample. No torch here: callers only ask."""

import dataclasses
from collections.abc import Iterable

from training.config import ClusterConfig, DirectionsConfig, InstanceConfig, LossesConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What the active terms need of a sample besides its image and caption; nothing else is read."""

    teacher_image: bool
    teacher_text: bool
    cluster_id: bool
    centroids: bool
    teacher_space: bool = False
    """Whether any term compares the student's embeddings with the teacher's, and not only similarities of both."""
    teacher_temperature: bool = False

    @classmethod
    def of(cls, losses: LossesConfig) -> "Needs":
        active = weights_of(losses)
        divergence, label = "cluster_divergence" in active, "cluster_label" in active
        relation = any(name.startswith("relation_") for name in active)
        several = label and losses.cluster.positives > 1
        towers = towers_of(losses.cluster) if divergence else ()
        return cls(
            teacher_image="image" in towers or several or relation or _compares(active, "image"),
            teacher_text="text" in towers or relation or _compares(active, "text"),
            cluster_id=label or (divergence and losses.cluster.sample_rate < 1),
            centroids=divergence or label,
            teacher_space=bool(active.keys() - {"contrastive", "relation_divergence"}),
            teacher_temperature=relation,
        )


def _compares(active: Iterable[str], modality: str) -> bool:
    """Whether an instance term compares with the teacher's embeddings of a modality."""
    names = [name for name in active if name.startswith("instance_")]
    return any(name == "instance_feature" or name.endswith(f"_{modality}") for name in names)


def learnable_temperatures(losses: LossesConfig) -> dict[str, float]:
    """Initial temperatures of the active terms that learn theirs, by section; the contrastive one always does."""
    needs, found = Needs.of(losses), {}
    if needs.centroids and losses.cluster.learnable_temperature:
        found["cluster"] = losses.cluster.temperature
    if directions_of(losses.instance) and losses.instance.weight and losses.instance.learnable_temperature:
        found["instance"] = losses.instance.temperature
    return found


def towers_of(cluster: ClusterConfig) -> tuple[str, ...]:
    """The student's modalities that cluster discrimination is of."""
    return ("image", "text") if cluster.towers == "both" else (cluster.towers,)


def directions_of(instance: InstanceConfig) -> list[str]:
    """Names `<student's modality>_<teacher's>` of the cross-entropies that have a weight within the instance term."""
    return [name for name, weight in instance.directions if weight and instance.discrimination_weight]


def weights_of(losses: LossesConfig) -> dict[str, float]:
    """Weight of every active term by its name. The four cross-entropies of the instance term share its weight."""
    cluster, instance, relation = losses.cluster, losses.instance, losses.relation
    share = instance.weight * instance.discrimination_weight / len(DirectionsConfig.model_fields)
    weights = {
        "contrastive": losses.contrastive.weight,
        "cluster_label": cluster.weight * cluster.label_weight,
        "cluster_divergence": cluster.weight * cluster.divergence_weight,
        **{f"instance_{name}": share * weight for name, weight in instance.directions},
        "instance_feature": instance.weight * instance.feature_weight,
        "relation_divergence": relation.weight * relation.divergence_weight,
        "relation_gradient": relation.weight * relation.gradient_weight,
    }
    return {name: weight for name, weight in weights.items() if weight > 0}
