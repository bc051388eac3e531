"""The teacher on a GPU: float32 is float32 there too, batches arrive whole and in order, its memory is given back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu.photographs import rows_of, write_photographs
from pipeline.clip.model import WEIGHTS_FILE, load_clip
from pipeline.clip.preprocessing import decode_image
from pipeline.core.files import file_digest
from pipeline.core.tars import TarReader, index_tar
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.embedder import Embedder, teacher_kept
from pipeline.embeddings.encoder import Encoder
from tests.pipeline.embeddings.test_encoder import VISION, write_folder

WIDE = {"vision_cfg": {**VISION, "width": 256, "head_width": 64, "layers": 4, "patch_size": 4}}
COUNT = 70


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher")
    write_folder(WIDE, path)
    return path


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "00000.tar"
    write_photographs(path, count=COUNT, pixels=64, different=COUNT)
    return path


@pytest.fixture(scope="module")
def expected(folder: Path, tar: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and captions by plain open_clip, on the CPU."""
    clip = load_clip(folder, device="cpu")
    samples = [TarReader(tar).sample(row["offset"], row["size"]) for row in index_tar(tar).to_pylist()]
    images = torch.stack([clip.preprocess(decode_image(sample["jpg"])) for sample in samples])
    tokens = clip.tokenizer([sample["txt"].decode() for sample in samples])
    with torch.no_grad():
        found = [clip.model.encode_image(images, normalize=True), clip.model.encode_text(tokens, normalize=True)]
    return found[0].numpy(), found[1].numpy()


@pytest.fixture
def careless() -> Any:
    """Flags of a user who wants speed."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def embed(folder: Path, tar: Path, **config: Any) -> tuple[np.ndarray, np.ndarray]:
    embedder = Embedder(folder, EmbeddingsConfig(device="cuda", batch_size=16, **config))
    batches = list(embedder.run(TarReader(tar), rows_of(tar)))
    assert [id_ for batch, _, _ in batches for id_ in batch.image_ids] == list(range(COUNT))
    return np.concatenate([images for _, images, _ in batches]), np.concatenate([texts for _, _, texts in batches])


def min_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    # Those that are stored are float16, whose length is a little off.
    found = found / np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
    return float((found * expected).sum(axis=1).min())


@pytest.mark.usefixtures("careless")
def test_float32_is_float32_whatever_flags_are_set(folder: Path) -> None:
    """TF32 would be off by several times as much."""
    clip = {device: Encoder(load_clip(folder, device=device)) for device in ("cpu", "cuda")}
    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    tokens = clip["cpu"].tokenizer(["a dog", "a very long caption of a boat on a lake", "", "of"])
    for mine, theirs in (
        (clip["cuda"].images(pixels, batch_size=16), clip["cpu"].images(pixels, batch_size=16)),
        (clip["cuda"].texts(tokens), clip["cpu"].texts(tokens)),
    ):
        assert (mine.cpu() - theirs).abs().max() < 2e-5


@pytest.mark.parametrize("config", [{}, {"precision": "bf16"}, {"precision": "fp16"}], ids=str)
def test_a_tar_is_embedded_as_plain_open_clip_would(
    folder: Path, tar: Path, expected: tuple[np.ndarray, np.ndarray], config: dict[str, Any]
) -> None:
    for mine, theirs in zip(embed(folder, tar, **config), expected):
        assert min_cosine(mine, theirs) > (0.999 if config else 0.99999)


def test_blocks_are_compiled_once_and_give_the_same(
    folder: Path, tar: Path, expected: tuple[np.ndarray, np.ndarray]
) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    # With a comparison with fp32, and a last batch that is not full.
    for mine, theirs in zip(embed(folder, tar, precision="bf16", compile=True), expected):
        assert min_cosine(mine, theirs) > 0.999
    assert counters["stats"]["unique_graphs"] == 1


def test_a_gpu_is_free_when_the_teacher_is_let_go(folder: Path, tar: Path) -> None:
    def run() -> None:
        embedder = Embedder.open(
            folder, file_digest(folder / WEIGHTS_FILE), EmbeddingsConfig(device="cuda", batch_size=16)
        )
        list(embedder.run(TarReader(tar), rows_of(tar)))

    with teacher_kept():
        run()
    # What libraries keep for their products stays.
    before = torch.cuda.memory_allocated()
    with teacher_kept():
        run()
        assert torch.cuda.memory_allocated() > before + 5e6
        held = torch.cuda.memory_reserved()
    assert torch.cuda.memory_allocated() < before + 1e6
    assert torch.cuda.memory_reserved() < held - 5e6
