"""Instance discrimination: the student's embedding of a pair against the teacher's, over the global batch."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from training.config import DirectionsConfig, InstanceConfig
from training.losses.active import directions_of
from training.losses.contrastive import symmetric_cross_entropy
from training.losses.gather import gather_rows
from training.losses.online_softmax import CHUNK_ELEMENTS
from training.losses.precision import widen


class InstanceDiscriminationLoss(nn.Module):
    """Symmetric cross-entropies student x teacher, within a modality and across (METHOD; CLIP-CID, arXiv 2408.09441).

    ``feature`` adds the mean squared error between embeddings, the strong simple baseline of CLIP-KD
    (arXiv 2307.12732), which averages over dimensions and therefore wants a weight in the thousands. ``directions``:
    `<student's modality>_<teacher's>` of each cross-entropy. No matrix of more than ``elements`` logits is held.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        directions: Sequence[str] = tuple(DirectionsConfig.model_fields),
        feature: bool = False,
        elements: int = CHUNK_ELEMENTS,
    ):
        super().__init__()
        self.temperature, self.feature, self.elements = temperature, feature, elements
        self.directions = [tuple(name.split("_")) for name in directions]

    @classmethod
    def from_config(cls, config: InstanceConfig) -> "InstanceDiscriminationLoss":
        """Terms of weight zero are left out."""
        return cls(
            temperature=config.temperature,
            directions=directions_of(config),
            feature=config.feature_weight > 0,
        )

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        teacher_image_features: Tensor | None,
        teacher_text_features: Tensor | None,
        *,
        scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``instance_<student's modality>_<teacher's modality>`` for each direction, and ``instance_feature``.

        All four inputs: ``(B, D)`` rows of this rank; the student's are normalized, the teacher's are normalized here,
        since they were stored in float16. The teacher's may be missing where no direction and no feature term compares
        with them. ``scale``: inverse temperature, where it is learnable.
        """
        student = {"image": widen(image_features), "text": widen(text_features)}
        given = {"image": teacher_image_features, "text": teacher_text_features}
        teacher = {name: F.normalize(widen(rows), dim=-1) for name, rows in given.items() if rows is not None}
        terms = self._discriminate(student, teacher, scale)
        if self.feature:
            image_error = F.mse_loss(student["image"], teacher["image"])
            terms["instance_feature"] = image_error + F.mse_loss(student["text"], teacher["text"])
        return terms

    def _discriminate(
        self, student: dict[str, Tensor], teacher: dict[str, Tensor], scale: Tensor | None
    ) -> dict[str, Tensor]:
        all_student = {name: gather_rows(student[name]) for name in sorted({s for s, _ in self.directions})}
        all_teacher = {name: gather_rows(teacher[name]) for name in sorted({t for _, t in self.directions})}
        return {
            f"instance_{s}_{t}": symmetric_cross_entropy(
                student[s],
                teacher[t],
                all_a_GD=all_student[s],
                all_b_GD=all_teacher[t],
                scale=1 / self.temperature if scale is None else widen(scale),
                elements=self.elements,
            )
            for s, t in self.directions
        }
