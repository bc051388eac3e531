"""Building a student and exporting it."""

import functools
import json
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ConfigError
from training.model.config import read_model_config
from training.model.student import Student, build_student, export_student


def _build(model_file: Path, **changes: int | None) -> Student:
    return build_student(str(model_file), **{"teacher_dim": 24, "temperature": 0.5, "seed": 0, **changes}).module  # type: ignore[arg-type]


def test_features_of_both_spaces_are_normalized(model_file: Path) -> None:
    features = _build(model_file)(torch.randn(2, 3, 32, 32), torch.ones(2, 8, dtype=torch.long))
    assert features.image.shape == features.text.shape == (2, 16)
    assert features.image_to_teacher.shape == features.text_to_teacher.shape == (2, 24)
    for rows in features[:4]:
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(2))
    assert features.logit_scale.item() == pytest.approx(2.0)


def test_equal_widths_need_no_projection(model_file: Path) -> None:
    for width in (16, None):
        student = _build(model_file, teacher_dim=width)
        assert isinstance(student.projection, torch.nn.Identity)


def test_the_seed_decides_the_weights_and_the_projection_does_not_change_them(model_file: Path) -> None:
    first, second, other = (_build(model_file, **c) for c in ({}, {"teacher_dim": None}, {"seed": 1}))
    name = "model.visual.conv1.weight"
    assert first.state_dict()[name].equal(second.state_dict()[name])
    assert not first.state_dict()[name].equal(other.state_dict()[name])


def test_an_export_gives_equal_embeddings(model_file: Path, tmp_path: Path) -> None:
    import open_clip

    built = build_student(str(model_file), teacher_dim=24, temperature=0.07, seed=0)
    export_student(tmp_path / "export", built, built.module.state_dict())
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'export'}").eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert loaded.encode_image(image).equal(built.module.model.eval().encode_image(image))  # type: ignore[operator]
    tokens = torch.randint(1, 1000, (2, 8))
    with torch.no_grad():
        features = built.module.eval()(image, tokens)
        logits = loaded(image, tokens)
    expected = features.logit_scale * features.image @ features.text.T
    torch.testing.assert_close(logits[2] * logits[0] @ logits[1].T, expected, atol=1e-6, rtol=1e-6)
    preprocess = json.loads((tmp_path / "export/open_clip_config.json").read_text())["preprocess_cfg"]
    assert preprocess["size"] == 32 and loaded.logit_scale.ndim == 0


def test_a_student_is_compiled_block_by_block_and_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    vision = {"layers": 3, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 4}
    (tmp_path / "vit.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    plain, compiled = _build(tmp_path / "vit.json"), _build(tmp_path / "vit.json")
    torch._dynamo.reset()
    counters.clear()
    # What is made of a graph is left out: it would take a C++ compiler.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled.compile()
    image, tokens = torch.randn(2, 3, 32, 32), torch.randint(1, 1000, (2, 8))
    gradients = []
    for student in (plain, compiled):
        features = student(image, tokens)
        (features.image * features.text).sum().backward()
        gradients.append({name: value.grad for name, value in student.named_parameters() if value.grad is not None})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-6, rtol=1e-5)
    # One graph for the three blocks of images, one for the four of captions.
    assert counters["stats"]["unique_graphs"] == 2
    torch._dynamo.reset()


def test_the_demo_student_is_found() -> None:
    assert read_model_config("demo")["vision_cfg"]["image_size"] == 48
    assert read_model_config("ViT-B-32")["embed_dim"] == 512


def test_unknown_and_malformed_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected `demo`, a JSON file or an open_clip model name"):
        read_model_config("ViT-nothing")
    with pytest.raises(ConfigError, match="not a readable JSON model config"):
        read_model_config(str(tmp_path / "missing.json"))
    (tmp_path / "half.json").write_text('{"embed_dim": 8}')
    with pytest.raises(ConfigError, match="lacks vision_cfg, text_cfg"):
        read_model_config(str(tmp_path / "half.json"))
    (tmp_path / "wrong.json").write_text('{"embed_dim": 8, "vision_cfg": {"depth": 3}, "text_cfg": {}}')
    with pytest.raises(ConfigError, match="open_clip cannot build it"):
        build_student(str(tmp_path / "wrong.json"), teacher_dim=None, temperature=0.07, seed=0)


def test_batch_norm_goes_through_autocast_in_bf16_alone(model_file: Path) -> None:
    student = _build(model_file, precision="bf16").train()  # type: ignore[arg-type]
    features = student(torch.randn(4, 3, 32, 32), torch.ones(4, 8, dtype=torch.long))
    assert features.image.dtype == torch.float32
    assert all(tensor.dtype != torch.bfloat16 for tensor in student.state_dict().values())
    student.eval()
    full = _build(model_file).eval()
    full.load_state_dict(student.state_dict())
    inputs = torch.randn(4, 3, 32, 32), torch.ones(4, 8, dtype=torch.long)
    assert student(*inputs).image.equal(full(*inputs).image), "evaluation is in float32"
    with pytest.raises(ConfigError, match="BatchNorm"):
        _build(model_file, precision="fp16")  # type: ignore[arg-type]


@pytest.mark.slow
def test_onnx_files_give_the_embeddings_of_the_export(model_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from training.export.to_onnx import TOLERANCE, export_onnx

    built = build_student(str(model_file), teacher_dim=24, temperature=0.07, seed=0)
    export_student(tmp_path / "export", built, built.module.state_dict())
    differences = export_onnx(tmp_path / "export", tmp_path / "onnx")
    assert set(differences) == {"image.onnx", "text.onnx"} and max(differences.values()) <= TOLERANCE
