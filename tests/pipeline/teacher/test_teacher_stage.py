"""A teacher from what people have: wrapped checkpoints, a config of a folder; what is none is said before all else."""

import json
import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from pipeline.clip.model import load_clip
from pipeline.core.errors import TeacherError
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.stage import check_teacher, logit_scale, read_info, resolve_teacher, teacher_folder

MODEL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "image_size": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the config as a file, alone and as in an open_clip folder, and its weights."""
    (tmp_path / "mine.json").write_text(json.dumps(MODEL))
    preprocess = {"mean": [0.5, 0.5, 0.5], "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return tmp_path


def _resolved(source: Path, root: str, *, model: str = "mine.json", weights: str = "weights.pt") -> Path:
    config = TeacherConfig(model=str(source / model), pretrained=str(source / weights))
    check_teacher(config)
    resolve_teacher(source / root, config, demo=lambda folder: None)
    return source / root


def test_wrapped_weights_make_the_same_teacher(source: Path) -> None:
    state = torch.load(source / "weights.pt", weights_only=True)
    torch.save({"module": {f"module._orig_mod.{name}": value for name, value in state.items()}}, source / "wrapped.pt")
    roots = [_resolved(source, "a"), _resolved(source, "b", weights="wrapped.pt")]
    assert len({read_info(root).weights_hash for root in roots}) == 1
    assert {path.name for path in teacher_folder(roots[0]).iterdir()} == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "teacher.json",
    }


def test_the_logit_scale_is_known_also_of_a_root_that_does_not_note_it(source: Path) -> None:
    state = torch.load(source / "weights.pt", weights_only=True) | {"logit_scale": torch.tensor(math.log(50.0))}
    torch.save(state, source / "fifty.pt")
    root = _resolved(source, "root", weights="fifty.pt")
    assert logit_scale(root) == pytest.approx(50)
    for mark in (root / ".marks" / "teacher").glob("*.json"):
        content = json.loads(mark.read_text())
        del content["stats"]["logit_scale"]
        mark.write_text(json.dumps(content))
    assert logit_scale(root) == pytest.approx(50)


def test_a_logit_bias_is_kept(source: Path) -> None:
    state = torch.load(source / "weights.pt", weights_only=True) | {"logit_bias": torch.tensor(-9.0)}
    torch.save(state, source / "siglip.pt")
    clip = load_clip(teacher_folder(_resolved(source, "root", weights="siglip.pt")), device="cpu")
    assert float(clip.model.logit_bias) == -9


def test_the_config_of_a_folder_brings_its_preprocessing(source: Path) -> None:
    folder = teacher_folder(_resolved(source, "root", model="open_clip_config.json"))
    preprocess = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    assert (preprocess["resize_mode"], preprocess["mean"], preprocess["size"]) == ("squash", [0.5, 0.5, 0.5], [16, 16])


def test_weights_that_do_not_fit_are_a_short_error(source: Path) -> None:
    (source / "wide.json").write_text(json.dumps({**MODEL, "embed_dim": 16}))
    with pytest.raises(TeacherError, match="size mismatch") as refused:
        _resolved(source, "root", model="wide.json")
    assert len(str(refused.value)) < 800 and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("weights.pt", "weights.pt", "weights.pt is a file of torch.save, not a JSON model config"),
        ("mine.json", "mine.json", "mine.json is a JSON file, not a file of weights"),
        ("mine.json", "pointer.bin", "pointer.bin is a pointer of Git LFS"),
        ("pointer.bin", "weights.pt", "pointer.bin is a pointer of Git LFS"),
        ("nowhere.json", "weights.pt", "nowhere.json is not a readable JSON model config"),
        ("mine.json", "nowhere.pt", "no checkpoint file '.*nowhere.pt'"),
        ("tokenizer.json", "weights.pt", r"'bert-base' is read by transformers|bert-base"),
    ],
)
def test_what_is_no_teacher_is_said_before_anything_loads(source: Path, model: str, weights: str, message: str) -> None:
    (source / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7000000\n")
    tower = {**MODEL["text_cfg"], "hf_model_name": "bert-base"} | (
        {"hf_tokenizer_name": "bert-base"} if not _transformers() else {}
    )
    (source / "tokenizer.json").write_text(json.dumps({**MODEL, "text_cfg": tower}))
    with pytest.raises(TeacherError, match=message) as refused:
        check_teacher(TeacherConfig(model=str(source / model), pretrained=str(source / weights)))
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_a_folder_whose_weights_are_a_pointer_is_refused(source: Path) -> None:
    (source / "open_clip_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TeacherError, match="pointer of Git LFS"):
        check_teacher(TeacherConfig(model=str(source)))


def test_a_hugging_face_teacher_brings_its_tokenizer(source: Path) -> None:
    pytest.importorskip("transformers")
    from tests.hugging_face import write_tokenizer

    text = {**MODEL["text_cfg"], "hf_tokenizer_name": str(write_tokenizer(source / "tokenizer"))}
    (source / "other.json").write_text(json.dumps({**MODEL, "text_cfg": text}))
    folder = teacher_folder(_resolved(source, "root", model="other.json"))
    assert (folder / "tokenizer.json").is_file()
    assert load_clip(folder, device="cpu").tokenizer(["a picture"]).tolist() == [[2, 4, 5, 3, 0, 0, 0, 0]]


def _transformers() -> bool:
    import importlib.util

    return importlib.util.find_spec("transformers") is not None
