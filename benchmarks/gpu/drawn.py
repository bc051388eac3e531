"""A CLIP with random weights, and how much work it is."""

import contextlib
from collections.abc import Iterator
from typing import Any


def drawn_clip(model: str, *, device: str, precision: str, layers: int | None = None) -> Any:
    """A ``LoadedClip`` with random weights, the same at each precision. ``layers``: of both towers, if not its own."""
    import open_clip
    import torch

    from pipeline.clip.model import LoadedClip

    content = open_clip.get_model_config(model)
    if layers:
        content["vision_cfg"]["layers"] = content["text_cfg"]["layers"] = layers
    towers = {name: content[name] for name in ("vision_cfg", "text_cfg")}
    torch.manual_seed(0)
    with torch.device(device):
        made, _, preprocess = open_clip.create_model_and_transforms(model, precision=precision, device=device, **towers)
    return LoadedClip(
        model=made.eval().requires_grad_(False),
        preprocess=preprocess,
        tokenizer=open_clip.get_tokenizer(model),
        device=device,
        embed_dim=content["embed_dim"],
        input_dtype=open_clip.get_input_dtype(precision),
    )


def flop_an_image(encoder: Any) -> float:
    """Floating-point operations of one image. torch counts none in the one operation that it makes of a layer's
    attention in inference, so it is counted as products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    size = (1, encoder.preprocessing.height, encoder.preprocessing.width, 3)
    pixels = torch.zeros(size, dtype=torch.uint8, device=encoder.device)
    with attention_as_products(), FlopCounterMode(display=False) as counter:
        encoder.images(pixels, batch_size=1)
    return float(counter.get_total_flops())


@contextlib.contextmanager
def attention_as_products() -> Iterator[None]:
    """While the block lasts ``nn.MultiheadAttention`` makes products around torch's fused attention."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
