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
from training.export.examples import CAPTIONS, pictures

# Largest difference between logits of open_clip and transformers of the same pixels, both in float32.
TOLERANCE = 1e-4
# Mean difference between pixels. transformers resizes by torchvision, which rounds some to another of 255 levels than
# Pillow does, and does not clip between its two passes, as Pillow does at sharp edges; another filter is 2 or more.
PIXEL_TOLERANCE = 0.25
# What that may do to a cosine.
FILE_TOLERANCE = 2e-3

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
_CLEANING = ("clean", "lower")
_NAMED_IN_ERRORS = 3


def export_transformers(folder: Path, output: Path) -> float:
    """Write a folder for ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained`` from an open_clip folder.

    The folder is loaded again, and its pixels, tokens and logits are compared from pictures and captions on; returns
    the largest difference between logits. Raises :class:`ConfigError` without the extra, and for models whose
    architecture, preprocessing or tokenizer has no place there, :class:`TrainingError` where the two differ.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"transformers is not there ({error}): pip install 'clip-cid[transformers]'") from error

    import open_clip

    clip = load_clip(folder, device="cpu")
    model_config = json.loads((folder / CONFIG_FILE).read_text())["model_cfg"]
    # Not the file's: it may leave out what open_clip then takes from the model.
    preprocess = open_clip.get_model_preprocess_cfg(clip.model)
    try:
        _check_tokenizer(model_config["text_cfg"])
        processor = image_processor(preprocess)
        config = transformers.CLIPConfig(**clip_config(model_config))
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder}: not a plain ViT and CLIP's own text tower ({error}), CLIPModel has none"
        ) from error
    model = transformers.CLIPModel(config).eval()
    model.load_state_dict(_checked(folder, renamed(clip.model.state_dict()), model))
    model.save_pretrained(output)
    _save_processor(output, processor, config.text_config.max_position_embeddings)
    return _difference(output, clip, preprocess)


def clip_config(model_config: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``transformers.CLIPConfig`` from an open_clip model config; KeyError for other towers."""
    vision, text = model_config["vision_cfg"], model_config["text_cfg"]
    activation = "quick_gelu" if model_config.get("quick_gelu") else "gelu"
    common = {"hidden_act": activation, "projection_dim": model_config["embed_dim"]}
    last_token = text.get("vocab_size", 49408) - 1
    return {
        "projection_dim": model_config["embed_dim"],
        "vision_config": {
            "image_size": _side(vision.get("image_size", 224)),
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


def _side(size: int | list[int]) -> int:
    """Of a square; any other was refused before."""
    return size if isinstance(size, int) else size[0]


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


def image_processor(preprocess: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``transformers.CLIPImageProcessor`` from open_clip's preprocessing; :class:`ConfigError` for
    what it cannot do."""
    size, mode = preprocess["size"], preprocess.get("resize_mode") or "shortest"
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ConfigError(f"its images are {height} x {width} pixels, CLIPModel takes squares alone")
    if mode not in ("shortest", "squash"):
        raise ConfigError(f"its resize_mode is {mode!r}, CLIPImageProcessor has none but shortest and squash")
    whole = {"height": height, "width": width}
    return {
        "size": {"shortest_edge": height} if mode == "shortest" else whole,
        "do_center_crop": mode == "shortest",
        "crop_size": whole,
        # Pillow's numbers. As open_clip, which knows one other filter, and takes this where it should draw one.
        "resample": 2 if preprocess.get("interpolation") == "bilinear" else 3,
        "image_mean": list(preprocess["mean"]),
        "image_std": list(preprocess["std"]),
    }


def _check_tokenizer(text: dict[str, Any]) -> None:
    if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        raise ConfigError("its text tower has a Hugging Face tokenizer, CLIPModel's has CLIP's own")
    options = {name: value for name, value in text.get("tokenizer_kwargs", {}).items() if (name, value) != _CLEANING}
    if options:
        raise ConfigError(f"text_cfg.tokenizer_kwargs holds {options}, which CLIPTokenizer does not know")


def _save_processor(output: Path, image_options: dict[str, Any], context_length: int) -> None:
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
    images = transformers.CLIPImageProcessor(**image_options)
    transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(output)


def _difference(output: Path, clip: Any, preprocess: dict[str, Any]) -> float:
    """Logits of the written folder against open_clip's, each with its own pixels and tokens."""
    import transformers

    model = transformers.CLIPModel.from_pretrained(output).eval()
    processor = transformers.CLIPProcessor.from_pretrained(output)
    images = pictures()
    pixels = torch.stack([clip.preprocess(image) for image in images])
    inputs = processor(images=images, text=CAPTIONS, padding="max_length", truncation=True, return_tensors="pt")
    std = torch.tensor(preprocess["std"]).reshape(3, 1, 1)
    levels = float(((inputs["pixel_values"] - pixels) * std * 255).abs().mean())
    if not levels <= PIXEL_TOLERANCE:
        raise TrainingError(f"{output}: pixels of a picture differ from open_clip's by {levels:.1f} of 255 in the mean")
    with torch.no_grad():
        image, text, scale, *_ = clip.model(pixels, clip.tokenizer(CAPTIONS))
        expected = scale * image @ text.T
        exact = _largest(model(**{**inputs, "pixel_values": pixels}).logits_per_image, expected)
        found = _largest(model(**inputs).logits_per_image, expected)
    if not exact <= TOLERANCE or not found <= FILE_TOLERANCE * float(scale):
        raise TrainingError(f"{output}: logits differ from open_clip's by {exact:.1e}, from a file on by {found:.1e}")
    return found


def _largest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())
