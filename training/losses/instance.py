"""Instance discrimination: the student's embedding of a pair against the teacher's, over the global batch."""

import torch.nn.functional as F
from torch import Tensor, nn

from training.config import InstanceConfig
from training.losses.chunked import CHUNK_ELEMENTS
from training.losses.contrastive import symmetric_cross_entropy
from training.losses.gather import gather_rows
from training.losses.precision import widen


class InstanceDiscriminationLoss(nn.Module):
    """Symmetric cross-entropies student x teacher, within a modality and across (METHOD; CLIP-CID, arXiv 2408.09441).

    ``feature`` adds the mean squared error between embeddings, the strong simple baseline of CLIP-KD
    (arXiv 2307.12732), which averages over dimensions and therefore wants a weight in the thousands. No matrix of more
    than ``elements`` logits is held.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        discrimination: bool = True,
        feature: bool = False,
        elements: int = CHUNK_ELEMENTS,
    ):
        super().__init__()
        self.temperature, self.discrimination, self.feature = temperature, discrimination, feature
        self.elements = elements

    @classmethod
    def from_config(cls, config: InstanceConfig) -> "InstanceDiscriminationLoss":
        """Terms of weight zero are left out."""
        return cls(
            temperature=config.temperature,
            discrimination=config.discrimination_weight > 0,
            feature=config.feature_weight > 0,
        )

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        teacher_image_features: Tensor,
        teacher_text_features: Tensor,
        *,
        scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``instance_<student's modality>_<teacher's modality>`` for the four combinations, and ``instance_feature``.

        All four inputs: ``(B, D)`` rows of this rank; the student's are normalised, the teacher's are normalised here,
        since they were stored in float16. ``scale``: inverse temperature, where it is learnt.
        """
        student = {"image": widen(image_features), "text": widen(text_features)}
        teacher = {
            "image": F.normalize(widen(teacher_image_features), dim=-1),
            "text": F.normalize(widen(teacher_text_features), dim=-1),
        }
        terms = self._discriminate(student, teacher, scale) if self.discrimination else {}
        if self.feature:
            image_error = F.mse_loss(student["image"], teacher["image"])
            terms["instance_feature"] = image_error + F.mse_loss(student["text"], teacher["text"])
        return terms

    def _discriminate(
        self, student: dict[str, Tensor], teacher: dict[str, Tensor], scale: Tensor | None
    ) -> dict[str, Tensor]:
        all_student = {modality: gather_rows(rows) for modality, rows in student.items()}
        all_teacher = {modality: gather_rows(rows) for modality, rows in teacher.items()}
        return {
            f"instance_{s}_{t}": symmetric_cross_entropy(
                student[s],
                teacher[t],
                all_a_GD=all_student[s],
                all_b_GD=all_teacher[t],
                scale=1 / self.temperature if scale is None else widen(scale),
                elements=self.elements,
            )
            for s, t in (("image", "image"), ("text", "text"), ("image", "text"), ("text", "image"))
        }
