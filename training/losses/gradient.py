"""The gradients that the contrastive loss gives embeddings: the student's against the teacher's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.losses.gather import gather_rows
from training.losses.online_softmax import CHUNK_ELEMENTS, log_sum_exp_of_products
from training.losses.precision import widen


class GradientDistillationLoss(nn.Module):
    """Mean squared error between the gradients of the contrastive loss in the student's and the teacher's embeddings.

    After CLIP-KD's gradient distillation (arXiv 2307.12732). With logits l_ij = s v_i t_j, and the loss summed over the
    pairs of the global batch, which makes the term independent of its size, the gradient in v_i is

        s/2 (sum_j (exp(l_ij) / sum_k exp(l_ik) + exp(l_ij) / sum_k exp(l_kj)) t_j - 2 t_i),

    and that in t_j the same with images and captions exchanged. ``teacher_scale``: the teacher's logit scale. No matrix
    of more than ``elements`` logits is held.
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
        """``{"relation_gradient": scalar}``, the mean over this rank's rows and the width, summed over both modalities.

        All four: ``(B, D)``, the student's normalized and projected to the teacher's width. ``logit_scale``: the
        student's, as in :class:`ContrastiveLoss`.
        """
        student = contrastive_gradients(
            widen(image_features), widen(text_features), scale=widen(logit_scale), elements=self.elements
        )
        with torch.no_grad():
            rows = (F.normalize(widen(rows), dim=-1) for rows in (teacher_image_features, teacher_text_features))
            teacher = contrastive_gradients(*rows, scale=self.teacher_scale, elements=self.elements)
        return {"relation_gradient": F.mse_loss(student[0], teacher[0]) + F.mse_loss(student[1], teacher[1])}


def contrastive_gradients(
    image_BD: Tensor, text_BD: Tensor, *, scale: Tensor | float, elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Gradients ``(B, D)`` of the contrastive loss, summed over the pairs of all ranks, in this rank's embeddings.

    They are functions of embeddings and scale, differentiable in all of them.
    """
    image_GD, text_GD = gather_rows(image_BD), gather_rows(text_BD)
    over_texts_B = log_sum_exp_of_products(scale * image_BD, text_GD, elements=elements)
    over_images_B = log_sum_exp_of_products(scale * text_BD, image_GD, elements=elements)
    options: dict[str, Any] = {"scale": scale, "elements": elements}
    return (
        _gradient(image_BD, text_BD, text_GD, total_B=over_texts_B, total_G=gather_rows(over_images_B), **options),
        _gradient(text_BD, image_BD, image_GD, total_B=over_images_B, total_G=gather_rows(over_texts_B), **options),
    )


def _gradient(
    rows_BD: Tensor,
    partners_BD: Tensor,
    keys_GD: Tensor,
    *,
    total_B: Tensor,
    total_G: Tensor,
    scale: Tensor | float,
    elements: int,
) -> Tensor:
    """``total_B``, ``total_G``: log-sum-exps of the rows, and of the keys' own rows."""

    def weighted(rows_CD: Tensor, total_C: Tensor) -> Tensor:
        logits_CG = rows_CD @ keys_GD.T
        return ((logits_CG - total_C[:, None]).exp() + (logits_CG - total_G).exp()) @ keys_GD

    chunk = max(elements // len(keys_GD), 1)
    # Computed again in the backward pass, chunk by chunk.
    sums = [
        checkpoint(weighted, rows_CD, total_C, use_reentrant=False, preserve_rng_state=False)
        for rows_CD, total_C in zip((scale * rows_BD).split(chunk), total_B.split(chunk))
    ]
    return scale / 2 * (torch.cat(sums) - 2 * partners_BD)
