"""The teacher's training, at a size of seconds; how well it does at full size is a whole run's business."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from pipeline.demo.concepts import CONCEPTS
from pipeline.demo.config import DemoConfig, DemoTeacherConfig
from pipeline.demo.teacher import train_demo_teacher

TINY = DemoConfig(teacher=DemoTeacherConfig(images_per_concept=1, concepts_per_batch=32, steps=3))


def state(folder: Path) -> dict[str, torch.Tensor]:
    return open_clip.create_model(f"local-dir:{folder}").state_dict()


def test_plain_open_clip_loads_what_was_trained(tmp_path: Path) -> None:
    report = train_demo_teacher(tmp_path, TINY)
    assert np.isfinite(report["loss"])
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    untrained = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    assert not torch.equal(model.visual.conv1.weight, untrained.visual.conv1.weight)
    image = preprocess(Image.new("RGB", (80, 64)))
    assert image.shape == (3, 48, 48)
    model.eval()
    assert model.encode_image(image[None]).shape == model.encode_text(tokenizer(CONCEPTS[0].name)).shape == (1, 64)


@pytest.mark.slow
def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    train_demo_teacher(tmp_path / "a", TINY)
    torch.rand(1)
    train_demo_teacher(tmp_path / "b", TINY)
    train_demo_teacher(tmp_path / "c", TINY.model_copy(update={"seed": 1}))
    first, second, other = (state(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["visual.conv1.weight"], other["visual.conv1.weight"])


def test_training_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_demo_teacher(tmp_path, TINY)
    assert torch.equal(torch.rand(3), expected)
