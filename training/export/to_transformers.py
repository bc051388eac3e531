"""An export as transformers' CLIPModel.

Needs the extra ``transformers``. For students with a plain ViT and CLIP's own text tower; ResNets have no place there.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.clip.model import CONFIG_FILE, load_clip
from pipeline.core.errors import ConfigError, TrainingError

# Largest difference between logits of open_clip and transformers, both in float32.
TOLERANCE = 1e-4

_TOWER = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TRANSPOSED = ("visual.proj", "text_projection")
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
_NAMED_IN_ERRORS = 3


def export_transformers(folder: Path, output: Path) -> float:
    """Write a folder for ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` from an open_clip folder.

    The folder is loaded again, and its logits are compared; returns the largest difference. Raises
    :class:`ConfigError` without the extra and for models of another architecture, :class:`TrainingError` where logits
    differ by more than 1e-4.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"transformers is not there ({error}): pip install 'clip-cid[transformers]'") from error

    clip = load_clip(folder, device="cpu")
    content = json.loads((folder / CONFIG_FILE).read_text())
    try:
        config = transformers.CLIPConfig(**clip_config(content["model_cfg"]))
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder}: not a plain ViT and CLIP's own text tower ({error}), CLIPModel has none"
        ) from error
    model = transformers.CLIPModel(config).eval()
    model.load_state_dict(_checked(folder, renamed(clip.model.state_dict()), model))
    model.save_pretrained(output)
    _save_processor(output, content["preprocess_cfg"], config.text_config.max_position_embeddings)
    return _difference(output, clip)


def clip_config(model_config: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``transformers.CLIPConfig`` from an open_clip model config; KeyError for other towers."""
    vision, text = model_config["vision_cfg"], model_config["text_cfg"]
    activation = "quick_gelu" if model_config.get("quick_gelu") else "gelu"
    common = {"hidden_act": activation, "projection_dim": model_config["embed_dim"]}
    last_token = text.get("vocab_size", 49408) - 1
    return {
        "projection_dim": model_config["embed_dim"],
        "vision_config": {
            "image_size": vision.get("image_size", 224),
            "patch_size": vision["patch_size"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            **_sizes(vision),
            **common,
        },
        "text_config": {
            "vocab_size": text.get("vocab_size", 49408),
            "max_position_embeddings": text.get("context_length", 77),
            "num_attention_heads": text["heads"],
            "bos_token_id": last_token - 1,
            "eos_token_id": last_token,
            **_sizes(text),
            **common,
        },
    }


def _sizes(tower: dict[str, Any]) -> dict[str, int]:
    width = tower["width"]
    return {
        "hidden_size": width,
        "num_hidden_layers": tower["layers"],
        "intermediate_size": int(width * tower.get("mlp_ratio", 4.0)),
    }


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip state under the names of CLIPModel; what has no place there keeps its name."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        # Text towers of newer models are modules of their own.
        own = name.removeprefix("text.")
        block = _BLOCK.fullmatch(own)
        if block:
            tower = "vision_model" if block[1] else "text_model"
            result |= _block(f"{tower}.encoder.layers.{block[2]}", block[3], value)
        else:
            stem, dot, leaf = own.rpartition(".")
            found = _TOWER.get(own) or (f"{_TOWER[stem]}{dot}{leaf}" if stem in _TOWER else name)
            result[found] = value.T if own in _TRANSPOSED else value
    return {name: value.contiguous() for name, value in result.items()}


def _block(prefix: str, name: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of a transformer block; query, key and value are one in open_clip."""
    if name.startswith("attn.in_proj_"):
        leaf = name.removeprefix("attn.in_proj_")
        return {f"{prefix}.self_attn.{part}_proj.{leaf}": piece for part, piece in zip("qkv", value.chunk(3))}
    stem, _, leaf = name.rpartition(".")
    return {f"{prefix}.{_LAYER.get(stem, stem)}.{leaf}": value}


def _checked(folder: Path, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    wrong = sorted(set(wanted) ^ set(state)) + [
        n for n, shape in wanted.items() if n in state and state[n].shape != shape
    ]
    if wrong:
        raise ConfigError(
            f"{folder}: not a plain ViT and CLIP's own text tower; {len(wrong)} tensors do not fit CLIPModel "
            f"({', '.join(wrong[:_NAMED_IN_ERRORS])})"
        )
    return state


def _save_processor(output: Path, preprocess: dict[str, Any], context_length: int) -> None:
    """CLIP's tokenizer as open_clip has it, and its preprocessing of images."""
    import transformers
    from open_clip.tokenizer import SimpleTokenizer

    own = SimpleTokenizer()
    vocabulary = {_SPECIAL.get(token, token): number for token, number in own.encoder.items()}
    merges = [" ".join(pair) for pair, _ in sorted(own.bpe_ranks.items(), key=lambda item: item[1])]
    (output / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (output / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    tokenizer = transformers.CLIPTokenizer(
        vocab=str(output / "vocab.json"), merges=str(output / "merges.txt"), model_max_length=context_length
    )
    size = preprocess["size"]
    edge, crop = (size, [size, size]) if isinstance(size, int) else (min(size), size)
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": edge},
        crop_size={"height": crop[0], "width": crop[1]},
        image_mean=list(preprocess["mean"]),
        image_std=list(preprocess["std"]),
    )
    transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(output)


def _difference(output: Path, clip: Any) -> float:
    """Logits of the written folder, its own tokenizer included, against open_clip's."""
    import transformers

    model = transformers.CLIPModel.from_pretrained(output).eval()
    processor = transformers.CLIPProcessor.from_pretrained(output)
    captions = ["a picture of one", "two, in the rain", "x"]
    size = model.config.vision_config.image_size
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = processor.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model(pixel_values=images, **tokens).logits_per_image
        image, text, scale, *_ = clip.model(images, clip.tokenizer(captions))
        expected = scale * image @ text.T
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:
        raise TrainingError(f"{output}: logits differ from open_clip's by {difference:.1e}")
    return difference
