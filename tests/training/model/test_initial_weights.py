"""First weights: from a checkpoint, and by layers and channels of a teacher."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from pipeline.clip.model import write_clip_folder
from pipeline.core.errors import ConfigError
from tests.training.conftest import MODEL
from training.model.initial_weights import _selected, inherited
from training.model.student import build_student, export_student

VIT: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 4, "width": 32, "head_width": 8, "image_size": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def _folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir(parents=True)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(7)
    model = open_clip.create_model(f"local-dir:{path}", load_weights=False, pretrained_text=False)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    write_clip_folder(path, model_config=config, preprocess_config=preprocess, state=model.state_dict())
    return path


def _smaller(config: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config["vision_cfg"] |= {"layers": 2, "width": 16}
    config["text_cfg"] |= {"width": 8, "heads": 1, "layers": 1}
    return config | {"embed_dim": 8}


def _write(path: Path, config: dict[str, Any]) -> str:
    path.write_text(json.dumps(config))
    return str(path)


def _build(model: str, **changes: Any) -> torch.nn.Module:
    return build_student(model, teacher_dim=None, temperature=0.07, seed=0, **changes).module.model


def test_channels_and_heads_are_evenly_spaced() -> None:
    assert _selected(6, 3).tolist() == [0, 2, 4]
    assert _selected(5, 5).tolist() == [0, 1, 2, 3, 4]
    # Query, key and value of 4 heads of 2 channels; every other head, whole.
    assert _selected(24, 12, 3, 4, 2).tolist() == [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21]


def test_a_student_as_large_as_its_teacher_inherits_all_of_it(tmp_path: Path) -> None:
    teacher = _folder(tmp_path / "teacher", VIT)
    student = _build(_write(tmp_path / "m.json", VIT), initial="teacher", teacher=teacher).eval()
    expected = open_clip.create_model(f"local-dir:{teacher}").eval()
    image = torch.randn(2, 3, 32, 32)
    assert student.encode_image(image).equal(expected.encode_image(image))  # type: ignore[operator]


def test_a_smaller_student_inherits_first_and_last_layers_and_whole_heads(tmp_path: Path) -> None:
    teacher = open_clip.create_model(f"local-dir:{_folder(tmp_path / 'teacher', VIT)}")
    student = _build(_write(tmp_path / "m.json", _smaller(VIT)))
    state, source = inherited(student, teacher), teacher.state_dict()
    name = "visual.transformer.resblocks.{}.attn.in_proj_weight"
    rows = _selected(96, 48, 3, 4, 2)
    for own, its in ((0, 0), (1, 3)):
        assert state[name.format(own)].equal(source[name.format(its)][rows][:, ::2])
    assert state["visual.ln_post.weight"].equal(source["visual.ln_post.weight"][::2])
    assert state["token_embedding.weight"].equal(source["token_embedding.weight"][:, ::2])
    state["logit_scale"] = student.state_dict()["logit_scale"]
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in student.state_dict().items()}


def test_a_resnet_inherits_channels(tmp_path: Path) -> None:
    wide = copy.deepcopy(MODEL)
    wide["vision_cfg"] |= {"width": 16}  # type: ignore[operator]
    student = _build(_write(tmp_path / "m.json", MODEL), initial="teacher", teacher=_folder(tmp_path / "teacher", wide))
    teacher = open_clip.create_model(f"local-dir:{tmp_path / 'teacher'}").state_dict()
    assert student.state_dict()["visual.layer2.0.conv2.weight"].equal(teacher["visual.layer2.0.conv2.weight"][::2, ::2])


def test_an_export_is_a_checkpoint_to_start_from(model_file: Path, tmp_path: Path) -> None:
    built = build_student(str(model_file), teacher_dim=None, temperature=0.07, seed=5)
    export_student(tmp_path / "export", built, built.module.state_dict())
    for initial in (tmp_path / "export", tmp_path / "export/open_clip_model.safetensors"):
        state = _build(str(model_file), initial=str(initial)).state_dict()
        assert all(value.equal(state[name]) for name, value in built.module.model.state_dict().items())


def test_what_does_not_fit_is_named(model_file: Path, tmp_path: Path) -> None:
    teacher = _folder(tmp_path / "teacher", VIT)
    with pytest.raises(ConfigError, match=r"cannot inherit \d+ tensors.*visual"):
        _build(str(model_file), initial="teacher", teacher=teacher)
    with pytest.raises(ConfigError, match="tensors are missing"):
        _build(str(model_file), initial=str(teacher))
    with pytest.raises(ConfigError, match="this run has none"):
        _build(str(model_file), initial="teacher")
    with pytest.raises(ConfigError, match="nowhere"):
        _build(str(model_file), initial="nowhere")
