"""The similarities of all images and captions of a batch: the student's against the teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses.gather import gather_rows
from training.losses.online_softmax import CHUNK_ELEMENTS, divergence_of_products
from training.losses.precision import widen


class RelationDivergenceLoss(nn.Module):
    """KL(teacher || student) of each image's softmax over all captions, and of each caption's over all images.

    The mean of KL(softmax(s_T V T') || softmax(s v t')) and the same of the transposed matrices: CLIP-KD's contrastive
    relational distillation (arXiv 2307.12732), TinyCLIP's affinity mimicking (arXiv 2309.12314), and open_clip's
    ``DistillClipLoss``, which leaves out the teacher's entropy, a constant. Where CLIP learns that a caption belongs to
    one image, this tells how near it comes to all the others. ``teacher_scale``: s_T, the teacher's logit scale. No
    matrix of more than ``elements`` logits is held.
    """

    def __init__(self, *, teacher_scale: float, elements: int = CHUNK_ELEMENTS):
        super().__init__()
        self.teacher_scale, self.elements = teacher_scale, elements

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        teacher_image_features: Tensor,
        teacher_text_features: Tensor,
        logit_scale: Tensor,
    ) -> dict[str, Tensor]:
        """``{"relation_divergence": scalar}``, the mean of this rank's rows.

        ``image_features``, ``text_features``: ``(B, E)`` of the student in its own space, normalized. The teacher's:
        ``(B, D)``, normalized here, since they were stored in float16. ``logit_scale``: the student's, as in
        :class:`ContrastiveLoss`.
        """
        image_BE, text_BE = widen(image_features), widen(text_features)
        image_BD, text_BD = (
            F.normalize(widen(rows), dim=-1) for rows in (teacher_image_features, teacher_text_features)
        )
        scale = widen(logit_scale)
        both = [
            divergence_of_products(
                scale * rows_BE,
                gather_rows(keys_BE),
                self.teacher_scale * rows_BD,
                gather_rows(keys_BD),
                elements=self.elements,
            ).mean()
            for rows_BE, keys_BE, rows_BD, keys_BD in (
                (image_BE, text_BE, image_BD, text_BD),
                (text_BE, image_BE, text_BD, image_BD),
            )
        ]
        return {"relation_divergence": torch.stack(both).mean()}
