"""A CLIP on its device: equal to plain open_clip, also where captions are cut; low precision only where it is safe."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch

from pipeline.config import ComputeConfig, EmbeddingsConfig
from pipeline.embed import embed_images
from pipeline.encoder import Encoder, require_cosine
from pipeline.errors import EmbeddingError
from pipeline.store import read_result
from pipeline.teacher import CONFIG_FILE, WEIGHTS_FILE, load_clip
from tests.conftest import SmallRun

VISION = {"layers": 2, "width": 32, "image_size": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    # Model config and whether its captions may be cut.
    "clip": ({}, True),
    "own text tower": ({"custom_text": True}, True),
    "last token by its id": ({"text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407}}, True),
    "both directions": ({"custom_text": True, "text_cfg": {**TEXT, "no_causal_mask": True}}, False),
    "class token": ({"custom_text": True, "text_cfg": {**TEXT, "embed_cls": True}}, False),
}
CAPTIONS = ["a", "a photo of a dog", "", "three small red boats on a wide and very quiet lake " * 3, "of"]


def encoder(config: dict[str, Any], folder: Path, precision: str = "fp32") -> tuple[Encoder, Any, Any]:
    torch.manual_seed(0)
    whole = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, **config}
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": whole, "preprocess_cfg": {"size": 32}}))
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name, load_weights=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # As drawn, positions and tokens hardly matter.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    safetensors.torch.save_file(
        {k: v.contiguous().clone() for k, v in model.state_dict().items()}, folder / WEIGHTS_FILE
    )
    clip = load_clip(folder, device="cpu", precision=precision)
    return Encoder(clip), model, open_clip.get_tokenizer(name)


@pytest.mark.parametrize("name", MODELS)
def test_captions_that_are_cut_have_the_same_embeddings(name: str, tmp_path: Path) -> None:
    config, cut = MODELS[name]
    mine, model, tokenizer = encoder(config, tmp_path)
    tokens = tokenizer(CAPTIONS)
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True)
    assert torch.allclose(mine.texts(tokens), expected, atol=2e-6)
    assert (expected @ expected.T).fill_diagonal_(0).max() < 0.999
    assert (mine._causal is not None) == cut


def test_images_do_not_depend_on_how_they_are_divided(tmp_path: Path) -> None:
    mine, model, _ = encoder({}, tmp_path)
    pixels = torch.randint(0, 256, (7, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (mine.preprocessing.mean, mine.preprocessing.std))
    with torch.no_grad():
        expected = model.encode_image((pixels.permute(0, 3, 1, 2) / 255 - mean) / std, normalize=True)
    for batch_size in (7, 3, 1):
        assert torch.allclose(mine.images(pixels, batch_size=batch_size), expected, atol=2e-6)


def test_bf16_stays_close_and_what_does_not_is_refused(tmp_path: Path) -> None:
    exact, _, tokenizer = encoder({}, tmp_path)
    close = Encoder(load_clip(tmp_path, device="cpu", precision="bf16"))
    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    cosines = [
        (close.images(pixels, batch_size=16) * exact.images(pixels, batch_size=16)).sum(-1).min(),
        (close.texts(tokenizer(CAPTIONS)) * exact.texts(tokenizer(CAPTIONS))).sum(-1).min(),
    ]
    assert min(cosines) > 0.999
    assert float(min(cosines)) < 1 - 1e-7
    require_cosine(float(min(cosines)), precision="bf16", device="cpu")
    for bad in (0.9989, float("nan")):
        with pytest.raises(EmbeddingError, match=r"precision bf16 on cpu: least cosine to fp32 is .* use fp32"):
            require_cosine(bad, precision="bf16", device="cpu")


def test_the_stage_refuses_a_precision_that_turns_embeddings(copied: SmallRun) -> None:
    """Weights beyond the range of fp16: every embedding is infinite there."""
    path = copied.root / "teacher" / WEIGHTS_FILE
    weights = safetensors.torch.load_file(path)
    weights["text_projection"] *= 1e9
    safetensors.torch.save_file(weights, path)
    config = EmbeddingsConfig(precision="fp16")
    with pytest.raises(EmbeddingError, match="precision fp16 on cpu: least cosine to fp32 is nan"):
        embed_images(copied.root, config, ComputeConfig())
    changed = EmbeddingsConfig(precision="bf16")
    before = read_result(copied.root, "teacher_embeddings").digest
    assert embed_images(copied.root, changed, ComputeConfig()).digest != before
