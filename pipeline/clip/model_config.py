"""open_clip's model configs, read and judged without open_clip, whose import takes seconds."""

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

from pipeline.clip.file_kind import JSON, kind_of
from pipeline.core.errors import ConfigError

CONTEXT_LENGTH, WORDS = 77, 49408
"""open_clip's, where a config gives none, and CLIP's own tokenizer's."""

_KEYS = ("embed_dim", "vision_cfg", "text_cfg")


def read_config_file(path: Path) -> dict[str, Any]:
    """A JSON model config, or an ``open_clip_config.json``, as the latter: ``model_cfg``, and ``preprocess_cfg`` if it
    has one. Raises :class:`ConfigError` for anything else, whatever its size."""
    try:
        kind = kind_of(path)
        if kind != JSON:
            raise ConfigError(f"{path} is {kind}, not a JSON model config")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not a readable JSON model config: {error}") from error
    whole = content if "model_cfg" in content else {"model_cfg": content}
    model = whole["model_cfg"]
    missing = [key for key in _KEYS if key not in model] if isinstance(model, dict) else list(_KEYS)
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)} of an open_clip model config")
    wrong = [key for key in ("vision_cfg", "text_cfg") if not isinstance(model[key], dict)]
    if wrong or not isinstance(model["embed_dim"], int):
        raise ConfigError(f"{path}: {(wrong or ['embed_dim'])[0]} is not what an open_clip model config has there")
    return dict(whole)


def builtin_config(model: str) -> dict[str, Any] | None:
    """The config of a model that open_clip has by name; none for another name."""
    path = _builtin_files().get(model)
    return dict(json.loads(path.read_text())) if path else None


def known_models() -> list[str]:
    """open_clip's model names."""
    return sorted(_builtin_files())


@functools.cache
def _builtin_files() -> dict[str, Path]:
    package = importlib.util.find_spec("open_clip")
    folders = (package.submodule_search_locations if package else None) or ()
    return {path.stem: path for folder in folders for path in (Path(folder) / "model_configs").glob("*.json")}


def check_text_tower(model_config: dict[str, Any]) -> None:
    """Raise :class:`ConfigError` for a text tower whose own tokenizer cannot be had: no other will do."""
    text = model_config["text_cfg"]
    if not text.get("hf_tokenizer_name") and not text.get("hf_model_name") and text.get("vocab_size", WORDS) < WORDS:
        raise ConfigError(
            f"CLIP's own tokenizer does not fit the text tower: it gives ids up to {WORDS - 1}, the tower knows "
            f"{text['vocab_size']}"
        )
    if text.get("hf_model_name") and not text.get("hf_tokenizer_name"):
        raise ConfigError(
            f"text_cfg.hf_model_name is {text['hf_model_name']!r}, but text_cfg.hf_tokenizer_name does not say which "
            "tokenizer it reads"
        )
    if is_hugging_face(model_config) and importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            f"its tokenizer {text['hf_tokenizer_name']!r} is read by transformers, which is not there: "
            "pip install 'clip-cid[transformers]'"
        )


def is_hugging_face(model_config: dict[str, Any]) -> bool:
    """Whether the text tower has a tokenizer of Hugging Face's rather than CLIP's."""
    return bool(model_config["text_cfg"].get("hf_tokenizer_name"))


def has_batch_norm(model_config: dict[str, Any]) -> bool | None:
    """Whether the model has BatchNorm, as CLIP's ResNets do and its ViTs do not; none where only timm could tell."""
    vision = model_config["vision_cfg"]
    return None if vision.get("timm_model_name") else isinstance(vision.get("layers"), list)
