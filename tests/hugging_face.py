"""A Hugging Face tokenizer and text model, made here: small, and with ids of their own."""

from pathlib import Path
from typing import Any

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "of", "one", "two", "three", "four"]


def write_tokenizer(folder: Path) -> Path:
    """A folder that ``AutoTokenizer.from_pretrained`` takes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks: Any = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **marks).save_pretrained(folder)
    return folder


def write_text_model(folder: Path, *, positions: int = 16) -> Path:
    """A folder with the config of a small BERT and that tokenizer."""
    from transformers import BertConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertConfig(vocab_size=len(WORDS), max_position_embeddings=positions, **sizes).save_pretrained(folder)
    return write_tokenizer(folder)
