"""An image with several captions: which one an epoch shows, and that its embedding comes with it."""

import io
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import training.data.dataset
from pipeline.clip.preprocessing import Preprocessing
from pipeline.core.errors import EmbeddingError
from pipeline.core.tars import index_tar, write_tar
from training.data.batch import Batch
from training.data.dataset import TrainingSet
from training.data.loader import batches
from training.data.order import SampleOrder
from training.losses.active import Needs

WIDTH, IMAGES = 6, 24
TEXTS = Needs(teacher_image=False, teacher_text=True, cluster_id=False, centroids=False)
NOTHING = Needs(teacher_image=False, teacher_text=False, cluster_id=False, centroids=False)
PREPROCESSING = Preprocessing(
    to_image=lambda image: image.resize((4, 4)), height=4, width=4, mean=(0.5,) * 3, std=(0.5,) * 3
)


def captions_of(image: int) -> list[str]:
    """One to four, and each names image and number."""
    return [f"{image}/{number}" for number in range(1 + image % 4)]


def embedding_of(caption: str) -> np.ndarray:
    image, number = map(int, caption.split("/"))
    return np.eye(WIDTH, dtype=np.float16)[number] * (1 + image)


def tokens_of(captions: list[str]) -> torch.Tensor:
    return torch.tensor([[int(part) for part in caption.split("/")] for caption in captions])


def write(folder: Path, *, named: bool = True, embeddings: int | None = None) -> Path:
    """Two shards of images with the captions of ``captions_of``, in the member ``json`` if ``named``."""
    (folder / "index").mkdir(parents=True)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "JPEG")
    for shard in range(2):
        samples = []
        for image in range(shard * IMAGES // 2, (shard + 1) * IMAGES // 2):
            captions = captions_of(image)
            vectors = np.stack([embedding_of(caption) for caption in captions])[:embeddings]
            np.save(stored := io.BytesIO(), vectors)
            facts = {"image_id": image, **({"captions": captions} if named else {})}
            samples.append(
                {
                    "__key__": f"{image:05d}",
                    "jpg": picture.getvalue(),
                    "txt": captions[0],
                    "json": json.dumps(facts).encode(),
                    "text.npy": stored.getvalue(),
                }
            )
        write_tar(folder / f"{shard:05d}.tar", samples)
        pq.write_table(index_tar(folder / f"{shard:05d}.tar"), folder / "index" / f"{shard:05d}.parquet")
    return folder


def open_set(folder: Path, needs: Needs = TEXTS, *, seed: int = 0, index: str = "index") -> TrainingSet:
    return TrainingSet(folder, folder / index, needs=needs, preprocessing=PREPROCESSING, tokenizer=tokens_of, seed=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("captions") / "shards")


def shown(batch: Batch) -> dict[int, int]:
    """The number of the caption that each image has, which is held against its embedding."""
    found = {}
    for image_id, (image, number), vector in zip(batch.image_ids, batch.text.tolist(), batch.teacher_text):
        assert image == image_id
        assert vector.tolist() == embedding_of(f"{image}/{number}").tolist()
        found[image_id] = number
    return found


def epochs(samples: TrainingSet, count: int, *, start: int = 0, workers: int = 0) -> list[dict[int, int]]:
    order = SampleOrder(samples.shard_rows, batch_size=IMAGES, seed=0)
    return [shown(b) for b in batches(samples, order, start=start, stop=count, rank=0, ranks=1, workers=workers)]


def test_each_caption_has_its_turn_and_its_embedding(folder: Path) -> None:
    found = epochs(open_set(folder), 12)
    for image in range(IMAGES):
        turns = [epoch[image] for epoch in found]
        count = len(captions_of(image))
        assert Counter(turns) == dict.fromkeys(range(count), 12 // count)
        assert all(after == (before + 1) % count for before, after in itertools.pairwise(turns))
    # Not all begin with the first, or an epoch would show first captions alone.
    assert len({found[0][image] for image in range(3, IMAGES, 4)}) > 1


def test_the_draw_is_of_seed_epoch_and_image_alone(folder: Path) -> None:
    whole = epochs(open_set(folder), 6)
    assert epochs(open_set(folder), 6, start=4, workers=1) == whole[4:]
    assert epochs(open_set(folder, seed=1), 6) != whole
    samples = open_set(folder)
    order = SampleOrder(samples.shard_rows, batch_size=8, seed=5)
    parts: dict[int, int] = {}
    for rank in range(2):
        for batch in batches(samples, order, start=0, stop=3, rank=rank, ranks=2, workers=0):
            parts |= shown(batch)
    assert parts == whole[0]


def test_a_sample_and_its_caption_as_text_are_of_one_draw(folder: Path) -> None:
    """The probe of an export holds both."""
    samples = open_set(folder)
    places = [(shard, row) for shard in range(2) for row in range(IMAGES // 2)]
    for place in places:
        assert tokens_of([samples.caption(*place)])[0].tolist() == samples.sample(*place)["text"].tolist()
    assert any(samples.caption(*place)[-2:] != "/0" for place in places)


def test_what_was_decoded_before_shows_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = open_set(folder)
    found = epochs(kept, 6)
    assert len(kept._cache) == IMAGES
    monkeypatch.setattr(training.data.dataset, "_CACHE_BYTES", 0)
    anew = open_set(folder)
    assert epochs(anew, 6) == found
    assert not anew._cache


def test_captions_of_the_index_stand_for_those_of_the_tar(folder: Path, tmp_path: Path) -> None:
    """The baseline's: those of the list, less what is blocked or filtered."""
    for path in sorted((folder / "index").glob("*.parquet")):
        table = pq.ParquetFile(path).read()
        left = [captions_of(image)[-1:] for image in table["image_id"].to_pylist()]
        table = table.append_column("captions", pa.array(left, pa.list_(pa.string())))
        pq.write_table(table, tmp_path / path.name)
    samples = TrainingSet(folder, tmp_path, needs=NOTHING, preprocessing=PREPROCESSING, tokenizer=tokens_of)
    for epoch in range(3):
        found = samples.samples([(0, row, 0) for row in range(IMAGES // 2)], epoch=epoch)
        assert [s["text"].tolist() for s in found] == [[image, image % 4] for image in range(IMAGES // 2)]
    assert samples.caption(0, 3) == "3/3"


def test_a_caption_in_txt_alone_is_one_caption(tmp_path: Path) -> None:
    samples = open_set(write(tmp_path / "shards", named=False), NOTHING)
    assert [samples.sample(0, 3, epoch=epoch)["text"].tolist() for epoch in range(4)] == [[3, 0]] * 4
    assert samples.caption(0, 3) == "3/0"


@pytest.mark.parametrize(
    ("named", "embeddings", "counts"), [(True, 1, "1 embeddings of 2"), (False, None, "2 embeddings of 1")]
)
def test_embeddings_of_another_number_than_captions_are_refused(
    tmp_path: Path, named: bool, embeddings: int | None, counts: str
) -> None:
    samples = open_set(write(tmp_path / "shards", named=named, embeddings=embeddings))
    assert samples.sample(0, 0)["teacher_text"].shape == (WIDTH,)
    with pytest.raises(EmbeddingError, match=rf"^[^\n]*00000\.tar, key 00001: {counts} captions$"):
        samples.sample(0, 1)
