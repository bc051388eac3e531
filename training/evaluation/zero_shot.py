"""Zero-shot classification: class names in prompts, embedded by the model, serve as the classifier."""

from collections.abc import Callable, Sequence

import open_clip
from torch import Tensor

from pipeline.clip.model import LoadedClip
from pipeline.core.errors import EmbeddingError
from training.evaluation.datasets import PLACEHOLDER


def prompt_ensemble(
    clip: LoadedClip, classnames: Sequence[str], templates: Sequence[str], *, batch_size: int
) -> Tensor:
    """Classifier weights ``(K, D)``: per class the normalized mean of its prompts' unit features (CLIP, 3.1.4).

    Raises :class:`EmbeddingError` if they are not finite.
    """
    weights = open_clip.build_zero_shot_classifier(
        clip.model,
        clip.tokenizer,
        classnames,
        [_prompt(template) for template in templates],
        num_classes_per_batch=max(1, batch_size // len(templates)),
        device=clip.device,
    )
    weights_KD = weights.T.float().cpu()
    if not weights_KD.isfinite().all():
        raise EmbeddingError("features of the class prompts are not finite")
    return weights_KD


def _prompt(template: str) -> Callable[[str], str]:
    # Not str.format: a prompt may hold other braces.
    return lambda classname: template.replace(PLACEHOLDER, classname)
