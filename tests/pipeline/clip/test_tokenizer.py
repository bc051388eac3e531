"""Ids are those of the text tower's own vocabulary. With transformers where it is there."""

from pathlib import Path

import pytest

from pipeline.clip.tokenizer import save_tokenizer, tokenizer_of
from pipeline.core.errors import ConfigError
from tests.hugging_face import WORDS, write_text_model, write_tokenizer


def _config(**text: object) -> dict:
    return {"embed_dim": 8, "vision_cfg": {"layers": 1}, "text_cfg": {"width": 8, "context_length": 8, **text}}


def test_clips_own_has_the_context_length_of_the_config(tmp_path: Path) -> None:
    import open_clip

    tokenizer = tokenizer_of(_config())
    assert tokenizer(["a cat"]).equal(open_clip.get_tokenizer("ViT-B-32", context_length=8)(["a cat"]))
    save_tokenizer(tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        ConfigError, match=r"CLIP's own tokenizer does not fit .* ids up to 49407, the tower knows 1000"
    ):
        tokenizer_of(_config(vocab_size=1000))


def test_hugging_faces_is_the_one_that_the_config_names(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    source = write_tokenizer(tmp_path / "tokenizer")
    config = _config(hf_tokenizer_name=str(source), vocab_size=len(WORDS))
    tokenizer = tokenizer_of(config)
    assert tokenizer(["a picture of two"]).tolist() == [[2, 4, 5, 6, 8, 3, 0, 0]]
    save_tokenizer(tokenizer, tmp_path / "export")
    again = tokenizer_of(_config(hf_tokenizer_name="nowhere/at-all"), folder=tmp_path / "export")
    assert again(["a picture of two"]).equal(tokenizer(["a picture of two"]))
    with pytest.raises(ConfigError, match=r"ids up to 6, the tower knows 5"):
        tokenizer_of(_config(hf_tokenizer_name=str(source), vocab_size=5))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"tokenizer '.*empty' cannot be loaded"):
        tokenizer_of(_config(hf_tokenizer_name=str(tmp_path / "empty")))


def test_a_hugging_face_tower_has_so_many_places(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = str(write_text_model(tmp_path / "bert", positions=8))
    names = {"hf_model_name": folder, "hf_tokenizer_name": folder}
    assert tokenizer_of(_config(**names))(["a"]).shape == (1, 8)
    with pytest.raises(ConfigError, match=r"text_cfg.context_length is 9, but '.*bert' has 8 places"):
        tokenizer_of(_config(**names, context_length=9))
