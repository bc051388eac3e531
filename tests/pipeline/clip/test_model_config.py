import importlib.util
import json
from pathlib import Path

import pytest

from pipeline.clip.model_config import (
    builtin_config,
    check_text_tower,
    has_batch_norm,
    known_models,
    read_config_file,
)
from pipeline.core.errors import ConfigError

TINY = {"embed_dim": 8, "vision_cfg": {"layers": 1}, "text_cfg": {"width": 8}}


def test_names_and_configs_are_those_of_open_clip() -> None:
    import open_clip

    assert known_models() == sorted(open_clip.list_models())
    for name in ("ViT-B-32", "RN50", "ViT-B-16-SigLIP"):
        assert builtin_config(name) == open_clip.get_model_config(name)
    assert builtin_config("ViT-nothing") is None


def test_a_file_holds_a_model_config_or_one_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    for content in (TINY, {"model_cfg": TINY}):
        path.write_text(json.dumps(content), encoding="utf-8-sig")
        assert read_config_file(path) == {"model_cfg": TINY}
    path.write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {"size": 32}}))
    assert read_config_file(path)["preprocess_cfg"] == {"size": 32}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02" + b"weights" * 2**20, "is a file of torch.save, not a JSON model config"),
        (b"weights " * 2**20, "is neither weights nor JSON, not a JSON model config"),
        (b"", "is an empty file"),
        (b"{", "is not a readable JSON model config"),
        (b'{"a": "\xff"}', "is not a readable JSON model config"),
        (b'{"a":' * 10**5, "is not a readable JSON model config"),
        (b'{"embed_dim": 8}', "lacks vision_cfg, text_cfg"),
        (b'{"model_cfg": [1]}', "lacks embed_dim, vision_cfg, text_cfg"),
        (b'{"embed_dim": 8, "vision_cfg": {}, "text_cfg": []}', "text_cfg is not what"),
        (b'{"embed_dim": "8", "vision_cfg": {}, "text_cfg": {}}', "embed_dim is not what"),
    ],
)
def test_any_other_file_is_named_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as refused:
        read_config_file(path)
    assert str(path) in str(refused.value) and len(str(refused.value)) < 500


def test_batch_norm_is_known_of_clips_own_towers() -> None:
    found = [has_batch_norm(builtin_config(name) or {}) for name in ("RN50", "ViT-B-32", "ViT-B-16-SigLIP")]
    assert found == [True, False, None]


def test_a_text_tower_names_its_tokenizer() -> None:
    check_text_tower(TINY)
    with pytest.raises(ConfigError, match=r"hf_model_name is 'roberta-base', but text_cfg\.hf_tokenizer_name"):
        check_text_tower({**TINY, "text_cfg": {"hf_model_name": "roberta-base"}})


@pytest.mark.skipif(bool(importlib.util.find_spec("transformers")), reason="the extra is there")
def test_without_the_extra_it_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'roberta-base' is read by transformers.*'clip-cid\[transformers\]'"):
        check_text_tower({**TINY, "text_cfg": {"hf_tokenizer_name": "roberta-base"}})
