"""The tokenizer that a text tower was made for: ids of another vocabulary are words that it never meant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.clip.model_config import CONTEXT_LENGTH, WORDS, check_text_tower, is_hugging_face
from pipeline.core.errors import ConfigError, brief

# Every tokenizer puts its marks of beginning, end and padding around these.
_TRIED = ["", "a photo of 12 cats & dogs, in Zürich!"]


def tokenizer_of(model_config: dict[str, Any], *, folder: Path | None = None) -> Callable[[list[str]], Any]:
    """What maps captions to ``(N, L)`` ids of the model's own vocabulary and context length.

    ``folder``: an open_clip folder, which holds the files of a Hugging Face tokenizer; without one it is had by the
    name that the config gives it. Raises :class:`ConfigError` where it cannot be had, or does not fit the text tower.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    check_text_tower(model_config)
    text = model_config["text_cfg"]
    options = {"context_length": text.get("context_length") or CONTEXT_LENGTH, **text.get("tokenizer_kwargs", {})}
    if not is_hugging_face(model_config):
        return SimpleTokenizer(**options)
    name = str(folder or text["hf_tokenizer_name"])
    try:
        tokenizer = HFTokenizer(name, tokenizer_mode=text.get("tokenizer_mode"), **options)
        return _fitting(tokenizer, text, f"tokenizer {name!r}")
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"tokenizer {name!r} cannot be loaded: {brief(error)}") from error


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the files of a Hugging Face tokenizer into an open_clip folder, from which open_clip reads it. CLIP's own
    needs none."""
    hugging_face: Any = getattr(tokenizer, "tokenizer", None)
    if hasattr(hugging_face, "save_pretrained"):
        hugging_face.save_pretrained(folder)


def _fitting(tokenizer: Any, text: dict[str, Any], what: str) -> Any:
    """The tokenizer, refused where its ids or its context length go beyond what the text tower has a vector for."""
    words, positions = int(text.get("vocab_size", WORDS)), None
    if text.get("hf_model_name"):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(text["hf_model_name"])
        words, positions = int(config.vocab_size), getattr(config, "max_position_embeddings", None)
    if positions is not None and tokenizer.context_length > positions:
        raise ConfigError(
            f"text_cfg.context_length is {tokenizer.context_length}, but {text['hf_model_name']!r} has {positions} "
            "places"
        )
    largest = int(tokenizer(_TRIED).max())
    if largest >= words:
        raise ConfigError(f"{what} does not fit the text tower: it gives ids up to {largest}, the tower knows {words}")
    return tokenizer
