"""CLIP's own loss: each image against the captions of the global batch, and the other way round."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses.gather import gather_rows, row_offset


def symmetric_cross_entropy(
    a_BD: Tensor, b_BD: Tensor, *, all_a_GD: Tensor, all_b_GD: Tensor, scale: Tensor | float
) -> Tensor:
    """Mean of the cross-entropies a -> b and b -> a, where row i of a belongs to row i of b.

    ``a_BD``, ``b_BD``: ``(B, D)`` normalised float32 rows of this rank. ``all_a_GD``, ``all_b_GD``: ``(G, D)`` those of
    all ranks. ``scale``: inverse temperature. Returns this rank's mean; the mean over ranks is the loss of the global
    batch (CLIP, arXiv 2103.00020, figure 3).
    """
    target_B = torch.arange(len(a_BD), device=a_BD.device) + row_offset(len(a_BD))
    a_to_b = F.cross_entropy(scale * a_BD @ all_b_GD.T, target_B)
    b_to_a = F.cross_entropy(scale * b_BD @ all_a_GD.T, target_B)
    return (a_to_b + b_to_a) / 2


class ContrastiveLoss(nn.Module):
    """Symmetric cross-entropy between images and captions with a learnt temperature (CLIP, arXiv 2103.00020)."""

    def forward(self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> dict[str, Tensor]:
        """``{"contrastive": scalar}``.

        ``image_features``, ``text_features``: ``(B, E)`` rows of this rank, L2-normalised. ``logit_scale``: the inverse
        temperature itself, that is ``exp`` of the learnt parameter.
        """
        image_BE, text_BE = image_features.float(), text_features.float()
        loss = symmetric_cross_entropy(
            image_BE,
            text_BE,
            all_a_GD=gather_rows(image_BE),
            all_b_GD=gather_rows(text_BE),
            scale=logit_scale.float(),
        )
        return {"contrastive": loss}
