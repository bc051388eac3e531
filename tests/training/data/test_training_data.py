"""Reading, checking and batching of training samples."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline.clip.preprocessing import Preprocessing
from pipeline.core import schema
from pipeline.core.errors import EmbeddingError, ShardError
from pipeline.core.tars import index_tar
from training.config import LossesConfig
from training.data.dataset import TrainingSet, preflight
from training.data.loader import batches
from training.data.order import SampleOrder
from training.losses.active import Needs
from training.losses.centroid_table import CentroidTable

ALL = Needs(teacher_image=True, teacher_text=True, cluster_id=True, centroids=True)
NONE = Needs(teacher_image=False, teacher_text=False, cluster_id=False, centroids=False)


PREPROCESSING = Preprocessing(
    to_image=lambda image: image.resize((4, 4)), height=4, width=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
)


def _tokenizer(captions: list[str]) -> torch.Tensor:
    return torch.tensor([[len(caption), ord(caption[-1])] for caption in captions])


def _open(folder: Path, needs: Needs = ALL, **checks: int) -> TrainingSet:
    return TrainingSet(
        folder, folder / "index", needs=needs, preprocessing=PREPROCESSING, tokenizer=_tokenizer, **checks
    )


def test_needs_follow_the_weights() -> None:
    alone = LossesConfig.model_validate({"cluster": {"weight": 0}, "instance": {"weight": 0}})
    assert Needs.of(alone) == NONE
    labels = LossesConfig.model_validate(
        {"cluster": {"label_weight": 1, "divergence_weight": 0}, "instance": {"weight": 0}}
    )
    needs = {"teacher_text": False, "cluster_id": True, "centroids": True, "teacher_space": True}
    assert Needs.of(labels) == Needs(teacher_image=False, **needs)
    several = labels.model_copy(update={"cluster": labels.cluster.model_copy(update={"positives": 2})})
    assert Needs.of(several) == Needs(teacher_image=True, **needs)


def test_a_sample_has_what_its_members_say(shards: Path) -> None:
    sample = _open(shards).sample(2, 5)
    assert sample["image_id"] == 2 * 32 + 5
    assert sample["cluster_id"] == sample["image_id"] % 4
    assert sample["pixels"].shape == (4, 4, 3) and sample["teacher_text"].shape == (24,)
    assert sample["text"].tolist() == [len("a picture of two"), ord("o")]


def test_raw_downloads_suffice_for_the_contrastive_term(tmp_path: Path, write_shards: Callable[..., Path]) -> None:
    folder = write_shards(tmp_path / "images", shards=1, rows=4, distil=False)
    samples = _open(folder, NONE)
    preflight(samples)
    assert set(samples.sample(0, 0)) == {"image_id", "pixels", "text"}
    with pytest.raises(ShardError, match=r"image\.npy.*members found: jpg, json, txt"):
        preflight(_open(folder))


def test_ranks_and_workers_share_one_order_of_samples(shards: Path) -> None:
    samples = _open(shards)
    order = SampleOrder(samples.shard_rows, batch_size=12, seed=0)
    alone = [set(b.image_ids) for b in batches(samples, order, start=0, stop=10, rank=0, ranks=1, workers=0)]
    assert all(len(ids) == 12 for ids in alone)
    resumed = [set(b.image_ids) for b in batches(samples, order, start=6, stop=10, rank=0, ranks=1, workers=1)]
    assert resumed == alone[6:]
    parts = [
        [set(b.image_ids) for b in batches(samples, order, start=0, stop=10, rank=rank, ranks=2, workers=0)]
        for rank in range(2)
    ]
    assert [first | second for first, second in zip(*parts)] == alone


def test_samples_are_compared_with_teacher_and_centroids(shards: Path) -> None:
    preflight(_open(shards, teacher_dim=24, clusters=4))
    with pytest.raises(EmbeddingError, match=r"00000\.tar, key 000000000: .*shape \(24,\), expected \(32,\)"):
        preflight(_open(shards, teacher_dim=32))
    with pytest.raises(ShardError, match=r"\.tar, key \d+: cluster_id 3 is none of the 3 centroids"):
        preflight(_open(shards, clusters=3))


def _index_again(folder: Path) -> None:
    """What the first tar holds now is what was written."""
    pq.write_table(index_tar(folder / "00000.tar"), folder / "index" / "00000.parquet")


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_that_a_process_of_the_loader_meets_is_the_same_error(
    tmp_path: Path, write_shards: Callable[..., Path], workers: int
) -> None:
    folder = write_shards(tmp_path / "shards", shards=1, rows=8)
    data = bytearray((folder / "00000.tar").read_bytes())
    data[data.index(b"\xff\xd8\xff") + 300] ^= 1
    (folder / "00000.tar").write_bytes(data)
    samples = _open(folder)
    order = SampleOrder(samples.shard_rows, batch_size=8, seed=0)
    with pytest.raises(ShardError, match=r"^[^\n]*00000\.tar, offset 0: [^\n]*$") as raised:
        list(batches(samples, order, start=0, stop=1, rank=0, ranks=1, workers=workers))
    assert raised.value.damaged == folder / "00000.tar"


def test_an_index_of_an_earlier_version_leaves_samples_unverified(
    tmp_path: Path, write_shards: Callable[..., Path]
) -> None:
    folder = write_shards(tmp_path / "shards", shards=2, rows=2)
    index = folder / "index" / "00000.parquet"
    pq.write_table(pq.read_table(index).drop_columns("crc32"), index)
    assert [_open(folder).sample(shard, 0)["image_id"] for shard in (0, 1)] == [0, 2]


def test_an_embedding_that_is_not_finite_names_tar_and_key(tmp_path: Path, write_shards: Callable[..., Path]) -> None:
    folder = write_shards(tmp_path / "shards", shards=1, rows=3)
    data = bytearray((folder / "00000.tar").read_bytes())
    last = data.rindex(b"\x93NUMPY")
    start = last + 10 + int.from_bytes(data[last + 8 : last + 10], "little")
    data[start : start + 2] = np.float16(np.nan).tobytes()
    (folder / "00000.tar").write_bytes(data)
    _index_again(folder)
    with pytest.raises(EmbeddingError, match=r"00000\.tar, key 000000002: .* is not a finite vector"):
        preflight(_open(folder))


def test_one_shard_serves_any_number_of_ranks_and_workers(tmp_path: Path, write_shards: Callable[..., Path]) -> None:
    """Samples are divided, not shards: there is nothing to wait for, or to see twice, where shards are few."""
    samples = _open(write_shards(tmp_path / "shards", shards=1, rows=24))
    order = SampleOrder(samples.shard_rows, batch_size=12, seed=0)
    seen = [
        image_id
        for rank in range(3)
        for batch in batches(samples, order, start=0, stop=2, rank=rank, ranks=3, workers=2)
        for image_id in batch.image_ids
    ]
    assert sorted(seen) == list(range(24))


def test_missing_shards_and_damaged_images_are_named(tmp_path: Path, write_shards: Callable[..., Path]) -> None:
    folder = write_shards(tmp_path / "shards", shards=2, rows=2)
    data = bytearray((folder / "00000.tar").read_bytes())
    start = data.index(b"\xff\xd8\xff")
    data[start : start + 200] = b"\0" * 200
    (folder / "00000.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"00000\.tar, offset 0: .* damaged since it was written") as raised:
        _open(folder).sample(0, 0)
    assert raised.value.damaged == folder / "00000.tar"
    _index_again(folder)
    with pytest.raises(ShardError, match=r"00000\.tar, key 000000000: cannot be decoded"):
        _open(folder).sample(0, 0)
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "00000.tar").write_bytes(whole)
    _index_again(folder)
    with pytest.raises(ShardError, match=r"00001\.tar: truncated, wanted \d+ bytes at \d+, got \d+"):
        preflight(_open(folder, teacher_dim=24, clusters=4))
    (folder / "00001.tar").unlink()
    with pytest.raises(ShardError, match=r"1 of 2 training shards are missing.*00001\.tar"):
        _open(folder)
    with pytest.raises(ShardError, match="no index"):
        _open(tmp_path / "nowhere")


def test_centroids_are_read_in_the_order_of_their_ids(tmp_path: Path) -> None:
    columns = {"cluster_id": [1, 0, 2], "centroid": [[3.0, 4.0], [1.0, 2.0], [5.0, 6.0]]}
    pq.write_table(pa.table(columns, schema=schema.centroids(2)), tmp_path / "c.parquet")
    table = CentroidTable.open(tmp_path / "c.parquet")
    assert (table.total, table.width) == (3, 2)
    assert table.read().tolist() == [[1, 2], [3, 4], [5, 6]]
    part = table.read(range(1, 3), dtype=torch.float16)
    assert part.tolist() == [[3, 4], [5, 6]] and part.dtype == torch.float16
    gap = {"cluster_id": [0, 2], "centroid": [[3.0, 4.0], [1.0, 2.0]]}
    pq.write_table(pa.table(gap, schema=schema.centroids(2)), tmp_path / "gap.parquet")
    with pytest.raises(ShardError, match="from 0 to 1 without gaps"):
        CentroidTable.open(tmp_path / "gap.parquet").read()
    with pytest.raises(ShardError, match="not a table of cluster_id and centroid"):
        CentroidTable.open(tmp_path / "nowhere.parquet")


def test_the_loader_pins_every_tensor_of_a_batch(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a method of its own it would be handed on unpinned, and every copy to a GPU would wait."""
    from torch.utils.data._utils.pin_memory import pin_memory

    samples = _open(shards)
    order = SampleOrder(samples.shard_rows, batch_size=12, seed=0)
    (batch,) = batches(samples, order, start=0, stop=1, rank=0, ranks=1, workers=0)
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: pinned.append(self) or self)
    assert pin_memory(batch) == batch
    assert {id(tensor) for tensor in pinned} == {id(v) for v in vars(batch).values() if isinstance(v, torch.Tensor)}
    assert batch.image.dtype == torch.uint8 and len(pinned) == 5


def test_the_probe_is_taken_where_samples_are(tmp_path: Path, write_shards: Callable[..., Path]) -> None:
    """Of the first shard all may be blocked."""
    from training.export.check import PROBE_FILE, write_probe

    folder = write_shards(tmp_path / "data", shards=3, rows=4)
    index = folder / "index/00000.parquet"
    pq.write_table(pq.read_table(index).slice(0, 0), index)

    class Engine:
        rank, device = 0, torch.device("cpu")

        @contextlib.contextmanager
        def exported(self) -> Iterator[Any]:
            yield lambda image, text: SimpleNamespace(image=image.flatten(1), text=text)

    write_probe(tmp_path, Engine(), _open(folder))
    assert len(load_file(tmp_path / PROBE_FILE)["image"]) == 8
