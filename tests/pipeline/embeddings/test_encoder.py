"""A CLIP on its device: equal to plain open_clip, also where captions are cut; low precision only where it is safe."""

import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch

from pipeline.clip.model import CONFIG_FILE, WEIGHTS_FILE, _nothing_drawn, load_clip
from pipeline.clip.precision import full_precision
from pipeline.compute.config import ComputeConfig
from pipeline.core.errors import EmbeddingError, TeacherError
from pipeline.core.files import file_digest
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.encoder import Encoder, Moment, min_cosine, require_cosine
from pipeline.embeddings.loader import Batch
from pipeline.embeddings.stage import embed_images
from pipeline.storage.result import read_result
from pipeline.teacher.stage import read_info
from tests.conftest import SmallRun

VISION = {"layers": 2, "width": 32, "image_size": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 8}
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    # Model config and whether its captions may be cut.
    "clip": ({}, True),
    "own text tower": ({"custom_text": True}, True),
    "last token by its id": ({"text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407}}, True),
    "both directions": ({"custom_text": True, "text_cfg": {**TEXT, "no_causal_mask": True}}, False),
    "class token": ({"custom_text": True, "text_cfg": {**TEXT, "embed_cls": True}}, False),
}
CAPTIONS = ["a", "a photo of a dog", "", "three small red boats on a wide and very quiet lake " * 3, "of"]


def write_folder(config: dict[str, Any], folder: Path) -> Any:
    """An open_clip folder of a small model, which is returned."""
    torch.manual_seed(0)
    whole = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, **config}
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": whole, "preprocess_cfg": {"size": 32}}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # As drawn, positions and tokens hardly matter.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    safetensors.torch.save_file(
        {k: v.contiguous().clone() for k, v in model.state_dict().items()}, folder / WEIGHTS_FILE
    )
    return model


def encoder(config: dict[str, Any], folder: Path, precision: str = "fp32") -> tuple[Encoder, Any, Any]:
    model = write_folder(config, folder)
    clip = load_clip(folder, device="cpu", precision=precision)
    return Encoder(clip), model, open_clip.get_tokenizer(f"local-dir:{folder}")


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


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Counts graphs that torch compiles; what it makes of them is left out, which would take a C++ compiler."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("vision", "precision"),
    [({**VISION, "layers": 4}, "fp32"), ({**VISION, "layers": 4}, "bf16"), (RESNET, "fp32")],
    ids=["blocks", "blocks in bf16", "whole"],
)
def test_compiled_once_whatever_is_asked(
    vision: dict[str, Any], precision: str, tmp_path: Path, compilations: Any
) -> None:
    plain, _, tokenizer = encoder({"vision_cfg": vision}, tmp_path, precision)
    compiled = Encoder(load_clip(tmp_path, device="cpu", precision=precision), compile_images=True)
    pixels = torch.randint(0, 256, (7, 32, 32, 3), dtype=torch.uint8)
    ids = list(range(3))
    tokens = tokenizer(CAPTIONS[:3])
    batch = Batch(image_ids=ids, pixels=pixels[:3], tokens=tokens, sample_ids=ids, image_of=ids, views=[])
    least = min_cosine(compiled, plain, batch, batch_size=4)
    assert least > 0.9999
    assert torch.allclose(
        compiled.images(pixels, batch_size=4),
        plain.images(pixels, batch_size=4),
        atol=1e-5 if precision == "fp32" else 2e-2,
    )
    assert compilations() == 1


def test_no_global_flag_changes_an_embedding(tmp_path: Path) -> None:
    mine, _, tokenizer = encoder({}, tmp_path)
    pixels, tokens = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), tokenizer(CAPTIONS)
    expected = mine.images(pixels, batch_size=4), mine.texts(tokens)
    before = flags()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
        torch.backends.cuda.matmul.allow_fp16_accumulation = True
        changed = flags()
        assert changed != before
        found = mine.images(pixels, batch_size=4), mine.texts(tokens)
        with pytest.raises(KeyError), full_precision():
            assert flags()[:4] == ["ieee"] * 4
            assert flags()[4:] == [False, False, False, True, False]
            raise KeyError
        assert flags() == changed
    finally:
        torch.set_float32_matmul_precision("highest")
        for backend, precision in zip(FLOATS, before):
            backend.fp32_precision = precision
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
        torch.backends.cuda.matmul.allow_fp16_accumulation = False
    assert flags() == before
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected))


FLOATS = [
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
]


def flags() -> list[Any]:
    products = torch.backends.cuda.matmul
    sums = [
        products.allow_bf16_reduced_precision_reduction,
        products.allow_fp16_reduced_precision_reduction,
        products.allow_bf16_reduced_precision_reduction_split_k,
        products.allow_fp16_reduced_precision_reduction_split_k,
        products.allow_fp16_accumulation,
    ]
    return [*(backend.fp32_precision for backend in FLOATS), *sums]


def test_a_moment_is_one_of_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's current GPU may be another: its moment says nothing of a copy that is under way."""
    recorded = []

    class Event:
        def __init__(self, *, enable_timing: bool):
            assert enable_timing

        def record(self, stream: Any) -> None:
            recorded.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    Moment(torch.device("cuda:1"))
    assert recorded == ["stream of cuda:1"]


LOADED: dict[str, dict[str, Any]] = {
    **{name: config for name, (config, _) in MODELS.items()},
    "ResNet": {"vision_cfg": RESNET},
    "timm": {
        "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "image_size": 32}
    },
    "SigLIP": {"custom_text": True, "init_logit_bias": -10},
}


@pytest.mark.parametrize("name", LOADED)
def test_a_loaded_model_has_nothing_that_was_left_undrawn(name: str, tmp_path: Path) -> None:
    model, loaded = write_folder(LOADED[name], tmp_path), load_clip(tmp_path, device="cpu").model
    for kind in ("named_parameters", "named_buffers"):
        expected, found = dict(getattr(model, kind)()), dict(getattr(loaded, kind)())
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_loading_draws_nothing_and_a_missing_weight_is_refused(tmp_path: Path) -> None:
    write_folder({}, tmp_path)
    weights = safetensors.torch.load_file(tmp_path / WEIGHTS_FILE)
    del weights["visual.proj"]
    safetensors.torch.save_file(weights, tmp_path / WEIGHTS_FILE)
    with pytest.raises(TeacherError, match=r"visual\.proj"):
        load_clip(tmp_path, device="cpu")
    state = torch.get_rng_state()
    with _nothing_drawn():
        torch.nn.Linear(8, 8)
        torch.nn.MultiheadAttention(8, 2)
        torch.nn.init.trunc_normal_(torch.empty(8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.nn.Linear(8, 8).weight.abs().max() > 0 and not torch.equal(torch.get_rng_state(), state)


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


def test_the_stage_refuses_other_weights_and_a_precision_that_turns_embeddings(
    finished: SmallRun, copied: SmallRun
) -> None:
    """Weights beyond the range of fp16: every embedding is infinite there."""
    path = copied.root / "teacher" / WEIGHTS_FILE
    weights = safetensors.torch.load_file(path)
    weights["text_projection"] *= 1e9
    safetensors.torch.save_file(weights, path)
    config = EmbeddingsConfig(precision="fp16")
    with pytest.raises(TeacherError, match=f"{WEIGHTS_FILE}: damaged or replaced.*run again: shard teacher"):
        embed_images(copied.root, config, ComputeConfig())
    shutil.copytree(finished.root / ".marks" / "teacher", copied.root / ".marks" / "teacher", dirs_exist_ok=True)
    info = copied.root / "teacher" / "teacher.json"
    info.write_text(info.read_text().replace(read_info(copied.root).weights_hash, file_digest(path)))
    with pytest.raises(EmbeddingError, match="precision fp16 on cpu: least cosine to fp32 is nan"):
        embed_images(copied.root, config, ComputeConfig())
    changed = EmbeddingsConfig(precision="bf16")
    before = read_result(copied.root, "teacher_embeddings").digest
    assert embed_images(copied.root, changed, ComputeConfig()).digest != before
