"""Settings of the terms of the loss, and what their presets set."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.settings import PresetSection, Section, renamed, runtime


class ContrastiveConfig(Section):
    """CLIP's symmetric cross-entropy between images and captions."""

    weight: float = Field(1.0, description="Weight of the term; 0 leaves it out (unconfirmed).", ge=0)
    temperature: float = Field(0.07, description="Initial temperature, learnable (CLIP; RealSyn).", gt=0)


class ClusterConfig(Section):
    """Cluster discrimination: the student's images against the centroids of the teacher's."""

    weight: float = Field(1.0, description="Weight of the whole term; 0 leaves it out (unconfirmed).", ge=0)
    towers: Literal["image", "text", "both"] = Field(
        "image",
        description="What is discriminated: the student's images, its captions (target: the caption's own similarities "
        "by the teacher; label: its image's), or the mean of both terms. MLCD has images alone (proxy, unconfirmed).",
    )
    label_weight: float = Field(
        0.0, description="Weight of the cross-entropy with the cluster label (unconfirmed).", ge=0
    )
    divergence_weight: float = Field(
        1.0, description="Weight of KL(teacher ‖ student) over clusters (unconfirmed).", ge=0
    )
    temperature: float = Field(0.07, description="Temperature of the student's cluster logits (unconfirmed).", gt=0)
    teacher_temperature: float = Field(
        0.07, description="Temperature of the teacher's cluster logits (unconfirmed).", gt=0
    )
    positives: int = Field(
        1,
        description="Labels of an image: its cluster and the nearest others by the teacher's embedding, for the "
        "cross-entropy. MLCD's linear probe has 71.4 with one and 75.2 with eight (proxy, unconfirmed).",
        ge=1,
    )
    sample_rate: float = Field(
        1.0,
        description="Share of the centroids that are negatives in a step; the batch's own clusters always take part. "
        "MLCD has 0.1 at 1M clusters (proxy, unconfirmed).",
        gt=0,
        le=1,
    )
    learnable_temperature: bool = Field(
        False,
        description="Learn the student's temperature, from the one above.",
        json_schema_extra=renamed(was="learnt_temperature"),
    )
    learnable: bool = Field(
        False,
        description="Learn the centroids, starting from those of k-means; with storage fp32, not with precision fp16, "
        "and divided where there are several ranks (unconfirmed).",
        json_schema_extra=renamed(was="learnt"),
    )
    learning_rate_factor: float = Field(
        1.0, description="Learning rate of learnable centroids, as a multiple of the student's (unconfirmed).", gt=0
    )
    storage: Literal["fp32", "fp16"] = Field("fp32", description="How fixed centroids are held; logits are float32.")
    divided: bool = runtime(
        False, "Divide the centroids over the ranks, instead of a copy for each. For those that fill a device's memory."
    )

    def content(self) -> dict[str, Any]:
        """As of every section, without what earlier versions had not, where it changes nothing."""
        new = {"positives": 1, "towers": "image"}
        return {name: value for name, value in super().content().items() if name not in new or value != new[name]}


class DirectionsConfig(Section):
    """Weights within the mean of instance discrimination's cross-entropies, named `<student's>_<teacher's>`."""

    image_image: float = Field(1.0, description="Student's images against the teacher's images (unconfirmed).", ge=0)
    text_text: float = Field(1.0, description="Student's captions against the teacher's captions (unconfirmed).", ge=0)
    image_text: float = Field(1.0, description="Student's images against the teacher's captions (unconfirmed).", ge=0)
    text_image: float = Field(1.0, description="Student's captions against the teacher's images (unconfirmed).", ge=0)


class InstanceConfig(Section):
    """Instance discrimination: student embeddings against the teacher's, pair by pair."""

    weight: float = Field(1.0, description="Weight of the whole term; 0 leaves it out (unconfirmed).", ge=0)
    temperature: float = Field(0.07, description="Temperature of its cross-entropies (unconfirmed).", gt=0)
    learnable_temperature: bool = Field(
        False,
        description="Learn the temperature, from the one above.",
        json_schema_extra=renamed(was="learnt_temperature"),
    )
    discrimination_weight: float = Field(
        1.0, description="Weight of the mean of its four cross-entropies (unconfirmed).", ge=0
    )
    directions: DirectionsConfig = DirectionsConfig()
    feature_weight: float = Field(
        1000.0,
        description="Weight of the mean squared error between embeddings (CLIP-KD's feature term, there with weight "
        "2000; unconfirmed).",
        ge=0,
    )


class RelationConfig(Section):
    """The student's similarities of images and captions within the batch against the teacher's; not in the paper."""

    weight: float = Field(0.0, description="Weight of the whole term; 0 leaves it out (unconfirmed).", ge=0)
    divergence_weight: float = Field(
        1.0,
        description="Weight of KL(teacher ‖ student) of each image's softmax over the captions of the global batch, "
        "and each caption's over the images (CLIP-KD's CRD, there 1; TinyCLIP; open_clip's DistillClipLoss).",
        ge=0,
    )
    gradient_weight: float = Field(
        0.0,
        description="Weight of the mean squared error between the gradients that both give their embeddings by the "
        "contrastive loss (after CLIP-KD's GD, whose weight is for another scale; 1 ruins the demo's student).",
        ge=0,
    )
    teacher_temperature: float | None = Field(
        None, description="Temperature of the teacher's similarities; none means its own, of its logit scale.", gt=0
    )


# What each preset sets, where it differs from the defaults of the fields; the one place for it.
# `clip_cid`: the three terms of the paper (arXiv 2408.09441), weights unconfirmed. `best`: what is expected to make the
# best student: the paper's terms, and the divergence of CLIP-KD (arXiv 2307.12732, there with weight 1, +1.4 points of
# zero-shot alone) and of open_clip's DistillClipLoss. On the demo +0.5 points (-0.6 to +1.6): docs/results.md.
LOSS_PRESETS: dict[str, dict[str, Any]] = {
    "clip_cid": {},
    "best": {"relation": {"weight": 1.0}},
}


def _described(values: dict[str, Any], place: str = "") -> str:
    parts = (
        _described(value, f"{place}{name}.") if isinstance(value, dict) else f"`{place}{name}` {value}"
        for name, value in values.items()
    )
    return ", ".join(parts)


class LossesConfig(PresetSection):
    """Loss = sum of weight times term. What is left out, or null, is the preset's, or else the default below."""

    presets: ClassVar[dict[str, dict[str, Any]]] = LOSS_PRESETS

    preset: Literal["clip_cid", "best"] = Field(
        "clip_cid",
        description="`clip_cid`: the paper's three terms, as below; `best`: expected to make the best student, with "
        f"{_described(LOSS_PRESETS['best'])}.",
    )
    contrastive: ContrastiveConfig = ContrastiveConfig()
    cluster: ClusterConfig = ClusterConfig()
    instance: InstanceConfig = InstanceConfig()
    relation: RelationConfig = RelationConfig()

    def content(self) -> dict[str, Any]:
        """As of every section, without what earlier versions had not, where it changes nothing."""
        left_out = set() if self.relation.weight else {"relation"}
        return {name: value for name, value in super().content().items() if name not in left_out}
