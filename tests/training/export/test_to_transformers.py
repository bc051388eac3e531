"""An export as transformers has it; the extra is not among what tests install, so most of this needs it by hand."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import ConfigError, TrainingError
from training.export.to_transformers import export_transformers, image_processor, renamed
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


def _changed(folder: Path, **preprocess: object) -> Path:
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["preprocess_cfg"] |= preprocess
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("changes", [{}, {"quick_gelu": True}, {"custom_text": True}])
def test_logits_are_those_of_open_clip(tmp_path: Path, changes: dict) -> None:
    pytest.importorskip("transformers")
    assert export_transformers(_export(tmp_path / "student", {**VIT, **changes}), tmp_path / "out") <= 0.02


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pictures_reach_the_model_as_open_clip_lets_them(tmp_path: Path, mode: str, interpolation: str) -> None:
    transformers = pytest.importorskip("transformers")
    import open_clip

    folder = _changed(_export(tmp_path / "student", VIT), resize_mode=mode, interpolation=interpolation)
    export_transformers(folder, tmp_path / "out")
    preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")[2]
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "out")
    y, x = np.mgrid[0:128, 0:64]
    image = Image.fromarray(np.stack([2 * x + y // 2, 191 - y, 40 + x + y], axis=-1).astype(np.uint8))
    found = processor(image, return_tensors="pt")["pixel_values"][0]
    # One of 255, of which a standard deviation is about a quarter.
    torch.testing.assert_close(found, preprocess(image), atol=0.016, rtol=0)


def test_a_wrong_pixel_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    import training.export.to_transformers as module

    right = image_processor
    monkeypatch.setattr(module, "image_processor", lambda preprocess: {**right(preprocess), "resample": 0})
    with pytest.raises(TrainingError, match="pixels of a picture differ"):
        export_transformers(_export(tmp_path / "student", VIT), tmp_path / "out")


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ({"size": [32, 48]}, "32 x 48 pixels, CLIPModel takes squares alone"),
        ({"resize_mode": "longest"}, "resize_mode is 'longest'"),
    ],
)
def test_preprocessing_without_a_place_is_refused(preprocess: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        image_processor({"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, **preprocess})


def test_the_filter_and_the_way_to_the_size_are_carried() -> None:
    made = [
        image_processor(
            {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": mode, "interpolation": name}
        )
        for mode, name in (("shortest", "bicubic"), ("squash", "bilinear"))
    ]
    assert [options["resample"] for options in made] == [3, 2]
    assert [options["do_center_crop"] for options in made] == [True, False]
    assert [options["size"] for options in made] == [{"shortest_edge": 8}, {"height": 8, "width": 8}]


def test_non_square_models_and_other_tokenizers_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    wide = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "image_size": [32, 48]}}
    cleaned = {**VIT, "text_cfg": {**VIT["text_cfg"], "tokenizer_kwargs": {"clean": "canonicalize"}}}
    for number, (config, message) in enumerate(((wide, "32 x 48"), (cleaned, "tokenizer_kwargs"))):
        with pytest.raises(ConfigError, match=message):
            export_transformers(_export(tmp_path / str(number), config), tmp_path / "out")


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
