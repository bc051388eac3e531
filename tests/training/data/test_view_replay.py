"""Views from the embedding stage to the student: it is shown exactly what the teacher was shown."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clip.model import load_clip
from pipeline.clip.preprocessing import Preprocessing
from pipeline.core.errors import EmbeddingError, MissingInputError, ShardError
from pipeline.embeddings.encoder import Encoder
from pipeline.embeddings.stage import embed_views
from pipeline.shards.stage import read_manifest, write_shards
from tests.conftest import SmallRun, run_shards, small_settings
from training.data.dataset import TrainingSet, preflight
from training.data.loader import batches, view_of
from training.data.order import SampleOrder
from training.losses.active import Needs

VIEWS = 3
NEEDS = Needs(teacher_image=True, teacher_text=True, cluster_id=True, centroids=True)


@pytest.fixture(scope="module")
def root(finished: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    root = tmp_path_factory.mktemp("views") / "root"
    shutil.copytree(finished.root, root)
    config = {"views": VIEWS, "augmentation": {"brightness": 0.3, "saturation": 0.3}}
    settings = small_settings(root, embeddings=config)
    with pytest.raises(MissingInputError, match="'teacher_views' is not complete"):
        write_shards(root, settings.shards, settings.query, views=VIEWS)
    embed_views(root, settings.embeddings, settings.compute)
    write_shards(root, settings.shards, settings.query, views=VIEWS)
    return root


def open_set(root: Path, views: int = VIEWS) -> TrainingSet:
    clip = load_clip(root / "teacher", device="cpu")
    folder = root / "training_shards"
    parts = {
        "preprocessing": Preprocessing.of(clip.preprocess),
        "tokenizer": clip.tokenizer,
        "teacher_dim": clip.embed_dim,
    }
    return TrainingSet(folder, folder / "index", needs=NEEDS, views=views, **parts)


def test_every_view_that_is_trained_on_has_the_embedding_of_these_pixels(root: Path) -> None:
    samples = open_set(root)
    assert read_manifest(root / "training_shards").views == VIEWS
    preflight(samples)
    chosen = [samples.sample(shard, row, view) for shard in (0, 1) for row in range(12) for view in range(VIEWS)]
    model = load_clip(root / "teacher", device="cpu").model
    with torch.no_grad():
        pixels = torch.stack([sample["pixels"] for sample in chosen])
        live = model.encode_image(samples.preprocessing.normalize(pixels), normalize=True)
        text = model.encode_text(torch.stack([sample["text"] for sample in chosen]), normalize=True)
    stored = torch.stack([sample["teacher_image"] for sample in chosen]).float()
    assert (live * stored).sum(-1).min() >= 0.999
    assert (text * torch.stack([sample["teacher_text"] for sample in chosen]).float()).sum(-1).min() >= 0.999
    assert len(torch.unique(pixels.flatten(1), dim=0)) == len(chosen)


def test_pixels_of_the_trainer_are_those_of_the_embedding_stage(root: Path) -> None:
    import pyarrow.parquet as pq

    from pipeline.clip.views import AugmentationConfig
    from pipeline.core.tars import TarReader
    from pipeline.embeddings.loader import Loader

    samples, clip = open_set(root), load_clip(root / "teacher", device="cpu")
    encoder = Encoder(clip)
    loader = Loader(
        preprocessing=encoder.preprocessing,
        tokenizer=clip.tokenizer,
        batch_size=30,
        threads=1,
        augmentation=AugmentationConfig(brightness=0.3, saturation=0.3),
        views=VIEWS,
    )
    first = samples.sample(0, 0)["image_id"]
    for path in sorted((root / "images" / "index").glob("*.parquet")):
        rows = [{**row, "captions": []} for row in pq.read_table(path).to_pylist() if row["image_id"] == first]
        for batch in loader.batches(TarReader(root / "images" / f"{path.stem}.tar"), rows):
            for view in range(VIEWS):
                assert torch.equal(samples.sample(0, 0, view)["pixels"], batch.pixels[view])


def test_each_epoch_has_another_view_and_a_resumed_run_the_same(root: Path) -> None:
    samples = open_set(root)
    order = SampleOrder(samples.shard_rows, batch_size=16, seed=0)
    steps = order.steps_per_epoch * VIEWS
    whole = list(batches(samples, order, start=0, stop=steps, rank=0, ranks=1, workers=0))
    again = list(batches(samples, order, start=steps - 2, stop=steps, rank=0, ranks=1, workers=1))
    for batch, same in zip(whole[-2:], again):
        assert torch.equal(batch.image, same.image) and torch.equal(batch.teacher_image, same.teacher_image)
    seen: dict[int, set[bytes]] = {}
    for batch in whole:
        for id_, image in zip(batch.image_ids, batch.image):
            seen.setdefault(id_, set()).add(image.numpy().tobytes())
    counts = [len(images) for images in seen.values()]
    assert max(counts) == VIEWS and np.mean(counts) > 2
    assert [view_of(2, 5, epoch, 3) for epoch in range(4)] == [1, 2, 0, 1]


def test_shards_with_other_views_are_refused(root: Path, finished: SmallRun) -> None:
    with pytest.raises(ShardError, match="has 3 views, the manifest says 4"):
        preflight(open_set(root, views=4))
    with pytest.raises(ShardError, match="has 0 views, the manifest says 3"):
        preflight(open_set(finished.root))
    plain = open_set(root, views=1).sample(0, 0)
    assert plain["teacher_image"].shape == (64,)
    samples = open_set(root)
    samples._teacher_dim = 32
    with pytest.raises(EmbeddingError, match=r"shape \(64,\), expected \(32,\)"):
        preflight(samples)


def test_missing_views_are_counted(copied: SmallRun) -> None:
    settings = small_settings(copied.root, embeddings={"views": 2})
    result = embed_views(copied.root, settings.embeddings, settings.compute)
    with pytest.raises(ShardError, match=rf"images were kept, but {result.rows} views of 3 each"):
        write_shards(copied.root, settings.shards, settings.query, views=3)
    run_shards(copied.settings)
