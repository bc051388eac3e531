"""CLIP's own loss: each image against the captions of the global batch, and the other way round."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses.gather import gather_rows, row_offset
from training.losses.online_softmax import CHUNK_ELEMENTS, log_sum_exp_of_products
from training.losses.precision import widen


def symmetric_cross_entropy(
    a_BD: Tensor,
    b_BD: Tensor,
    *,
    all_a_GD: Tensor,
    all_b_GD: Tensor,
    scale: Tensor | float,
    elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """Mean of the cross-entropies a -> b and b -> a, where row i of a belongs to row i of b (CLIP, arXiv 2103.00020,
    figure 3).

    Args:
        a_BD: ``(B, D)`` normalized float32 rows of this rank.
        b_BD: the same of the other side.
        all_a_GD: ``(G, D)``, those of all ranks.
        all_b_GD: the same of the other side.
        scale: inverse temperature.
        elements: where ``B x G`` logits are more, they are never held together.

    Returns:
        This rank's mean; the mean over ranks is the loss of the global batch.
    """
    a_to_b = _cross_entropy(scale * a_BD, b_BD, all_b_GD, elements)
    b_to_a = _cross_entropy(scale * b_BD, a_BD, all_a_GD, elements)
    return (a_to_b + b_to_a) / 2


def _cross_entropy(rows_BD: Tensor, partners_BD: Tensor, all_GD: Tensor, elements: int) -> Tensor:
    """Mean over rows of the cross-entropy of finding the partner among all."""
    if len(rows_BD) * len(all_GD) <= elements:
        target_B = torch.arange(len(rows_BD), device=rows_BD.device) + row_offset(len(rows_BD))
        return F.cross_entropy(rows_BD @ all_GD.T, target_B)
    total_B = log_sum_exp_of_products(rows_BD, all_GD, elements=elements)
    return (total_B - (rows_BD * partners_BD).sum(dim=1)).mean()


class ContrastiveLoss(nn.Module):
    """Symmetric cross-entropy between images and captions with a learnable temperature (CLIP, arXiv 2103.00020).

    No matrix of more than ``elements`` logits is held.
    """

    def __init__(self, *, elements: int = CHUNK_ELEMENTS):
        super().__init__()
        self.elements = elements

    def forward(self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> dict[str, Tensor]:
        """``{"contrastive": scalar}``.

        ``image_features``, ``text_features``: ``(B, E)`` rows of this rank, L2-normalized. ``logit_scale``: the inverse
        temperature itself, that is ``exp`` of the learnable parameter.
        """
        image_BE, text_BE = widen(image_features), widen(text_features)
        loss = symmetric_cross_entropy(
            image_BE,
            text_BE,
            all_a_GD=gather_rows(image_BE),
            all_b_GD=gather_rows(text_BE),
            scale=widen(logit_scale),
            elements=self.elements,
        )
        return {"contrastive": loss}
