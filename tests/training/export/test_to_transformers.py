"""An export as transformers has it; the extra is not among what tests install, so most of this needs it by hand."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ConfigError
from training.export.to_transformers import TOLERANCE, export_transformers, renamed
from training.model.student import build_student, export_student

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 2, "width": 32, "image_size": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def _export(folder: Path, config: dict) -> Path:
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(config))
    built = build_student(str(folder / "model.json"), teacher_dim=24, temperature=0.07, seed=0)
    with torch.no_grad():
        for parameter in built.module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    export_student(folder / "export", built, built.module.state_dict())
    return folder / "export"


def test_query_key_and_value_are_taken_apart_and_projections_turned() -> None:
    state = renamed(
        {
            "visual.transformer.resblocks.1.attn.in_proj_bias": torch.arange(6.0),
            "transformer.resblocks.0.mlp.c_fc.weight": torch.zeros(1),
            "visual.proj": torch.zeros(2, 3),
            "visual.ln_pre.bias": torch.zeros(1),
            "visual.attnpool.c_proj.bias": torch.zeros(1),
        }
    )
    layer = "vision_model.encoder.layers.1.self_attn"
    assert [state.pop(f"{layer}.{part}_proj.bias").tolist() for part in "qkv"] == [[0, 1], [2, 3], [4, 5]]
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "text_model.encoder.layers.0.mlp.fc1.weight": (1,),
        "visual_projection.weight": (3, 2),
        "vision_model.pre_layrnorm.bias": (1,),
        "visual.attnpool.c_proj.bias": (1,),
    }


@pytest.mark.skipif(bool(importlib.util.find_spec("transformers")), reason="the extra is there")
def test_without_the_extra_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"install 'clip-cid\[transformers\]'"):
        export_transformers(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("changes", [{}, {"quick_gelu": True}, {"custom_text": True}])
def test_logits_are_those_of_open_clip(tmp_path: Path, changes: dict) -> None:
    pytest.importorskip("transformers")
    assert export_transformers(_export(tmp_path / "student", {**VIT, **changes}), tmp_path / "out") <= TOLERANCE


def test_other_towers_are_refused(tmp_path: Path, model_file: Path) -> None:
    pytest.importorskip("transformers")
    for number, vision in enumerate(
        (
            json.loads(model_file.read_text())["vision_cfg"],
            {**VIT["vision_cfg"], "no_ln_pre": True},
            {**VIT["vision_cfg"], "ls_init_value": 0.1},
        )
    ):
        folder = _export(tmp_path / str(number), {**VIT, "vision_cfg": vision})
        with pytest.raises(ConfigError, match="not a plain ViT"):
            export_transformers(folder, tmp_path / "out")
