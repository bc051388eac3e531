"""Batches out of a tar: the teacher's own pixels, in the order asked for, and errors that name the sample."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.clip.preprocessing import Preprocessing, decode_image
from pipeline.clip.views import AugmentationConfig
from pipeline.core.errors import ShardError, TeacherError
from pipeline.core.tars import Place, TarReader, index_tar, write_tar
from pipeline.embeddings.loader import Loader

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def preprocess(resize_mode: str = "shortest", size: int = 24) -> Any:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(size=size, mean=MEAN, std=STD, resize_mode=resize_mode), is_train=False)


def tokenizer(captions: list[str]) -> torch.Tensor:
    return torch.tensor([[int(caption)] for caption in captions])


def loader(batch_size: int = 4, views: int = 0, threads: int = 2) -> Loader:
    return Loader(
        preprocessing=Preprocessing.of(preprocess()),
        tokenizer=tokenizer,
        batch_size=batch_size,
        threads=threads,
        augmentation=AugmentationConfig(),
        views=views,
    )


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples whose order in the tar is not that of their keys, as a download writes them."""
    path, random = tmp_path_factory.mktemp("tar") / "00000.tar", np.random.default_rng(0)
    samples = []
    for number in random.permutation(23):
        data = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(data, "JPEG")
        key = f"{number:05d}"
        samples.append({"__key__": key, "jpg": data.getvalue(), "txt": str(number), "json": {"image_id": int(number)}})
    write_tar(path, samples)
    return path


def rows_of(tar: Path, captions: int = 1) -> list[dict[str, Any]]:
    """Rows of its index, each with captions and their ids: those of image 3 are 300, 301..."""
    rows = index_tar(tar).to_pylist()
    return [
        row | {"captions": [(100 * row["image_id"] + n, str(row["image_id"])) for n in range(captions)]} for row in rows
    ]


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_both_parts_of_the_preprocessing_are_the_whole(mode: str) -> None:
    whole = preprocess(mode)
    parts = Preprocessing.of(whole)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 33, 3), dtype=np.uint8))
    pixels = torch.from_numpy(parts.pixels(image).copy())
    assert pixels.shape == (parts.height, parts.width, 3) and pixels.dtype == torch.uint8
    assert torch.equal(parts.normalize(pixels[None])[0], whole(image))


def test_preprocessing_of_another_form_is_refused() -> None:
    with pytest.raises(TeacherError, match="must end with ToTensor and Normalize"):
        Preprocessing.of(lambda image: image)


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_in_the_order_asked_for(tar: Path, threads: int) -> None:
    rows = rows_of(tar)
    batches = list(loader(threads=threads).batches(TarReader(tar), rows))
    assert [len(batch.image_ids) for batch in batches] == [4, 4, 4, 4, 4, 3]
    assert [id_ for batch in batches for id_ in batch.image_ids] == list(range(23))
    assert [id_ for batch in batches for id_ in batch.sample_ids] == list(range(0, 2300, 100))
    assert torch.cat([batch.tokens for batch in batches]).flatten().tolist() == list(range(23))
    whole, reader, pixels = preprocess(), TarReader(tar), torch.cat([batch.pixels for batch in batches])
    for row, found in zip(rows, pixels):
        image = Image.open(io.BytesIO(reader.sample(row["offset"], row["size"])["jpg"]))
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
        assert torch.equal((found.permute(2, 0, 1).float() / 255 - mean) / std, whole(image))


def test_an_image_is_decoded_once_whatever_captions_it_has(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From none to a hundred captions: every one is beside its own image."""
    decoded = []
    whole = decode_image
    monkeypatch.setattr("pipeline.embeddings.loader.decode_image", lambda data: (decoded.append(1), whole(data))[1])
    numbers = [2, 0, 1, 100, *[1] * 18, 3]
    rows = [row | {"captions": more["captions"][:n]} for n, row, more in zip(numbers, rows_of(tar), rows_of(tar, 100))]
    batches = list(loader().batches(TarReader(tar), rows))
    assert [len(batch.pixels) for batch in batches] == [4, 4, 4, 4, 4, 3] and len(decoded) == 23
    for batch in batches:
        assert len(batch.sample_ids) == len(batch.image_of) == len(batch.tokens)
        own = [batch.image_ids[place] for place in batch.image_of]
        assert own == [sample_id // 100 for sample_id in batch.sample_ids] == batch.tokens.flatten().tolist()
    assert [id_ for batch in batches for id_ in batch.sample_ids] == [id_ for row in rows for id_, _ in row["captions"]]


def test_views_take_the_place_of_images_and_captions(tar: Path) -> None:
    rows = rows_of(tar, captions=0)
    batches = list(loader(batch_size=6, views=3).batches(TarReader(tar), rows[:5]))
    assert [(len(batch.image_ids), len(batch.pixels), len(batch.views)) for batch in batches] == [
        *[(2, 6, 6)] * 2,
        (1, 3, 3),
    ]
    assert all(batch.tokens is None for batch in batches)
    assert len({pixels.numpy().tobytes() for pixels in batches[0].pixels}) == 6


def test_a_consumer_may_stop_early(tar: Path) -> None:
    batches = loader(batch_size=1).batches(TarReader(tar), rows_of(tar))
    assert next(batches).image_ids == [0]
    batches.close()


def test_what_cannot_be_decoded_is_named(tar: Path, tmp_path: Path) -> None:
    rows = rows_of(tar)
    data = bytearray(tar.read_bytes())
    start = data.index(b"\xff\xd8\xff", rows[9]["offset"])
    for length in (2, 300):
        damaged = bytearray(data)
        damaged[start : start + length] = bytes(length)
        (tmp_path / "damaged.tar").write_bytes(damaged)
        with pytest.raises(ShardError, match=r"damaged\.tar, key 00009: no readable image"):
            list(loader().batches(TarReader(tmp_path / "damaged.tar"), rows_of(tmp_path / "damaged.tar")))
        with pytest.raises(ShardError, match=r"damaged\.tar, offset \d+: .* damaged since it was written"):
            list(loader().batches(TarReader(tmp_path / "damaged.tar"), rows))
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError, match=r"cut\.tar: truncated, wanted \d+ bytes at \d+, got \d+"):
        list(loader().batches(TarReader(tmp_path / "cut.tar"), rows))
    write_tar(tmp_path / "bare.tar", [{"__key__": "a", "txt": "1", "json": {"image_id": 1}}])
    with pytest.raises(ShardError, match=r"bare\.tar, key a: .*a sample without an image"):
        list(loader().batches(TarReader(tmp_path / "bare.tar"), rows_of(tmp_path / "bare.tar")))


def test_neighbors_in_a_tar_are_read_in_one_go(tar: Path) -> None:
    class Counting(TarReader):
        reads = 0

        def _read(self, offset: int, size: int) -> bytes:
            self.reads += 1
            return super()._read(offset, size)

    places = [Place.of(row) for row in index_tar(tar).to_pylist()]
    reader, plain = Counting(tar), TarReader(tar)
    assert reader.samples(places) == [plain.sample(*place) for place in places]
    assert reader.reads == 1


def test_a_table_of_an_index_is_what_rows_come_from(tar: Path, tmp_path: Path) -> None:
    pq.write_table(index_tar(tar), tmp_path / "index.parquet")
    rows = [row | {"captions": [(7, "7")]} for row in pq.read_table(tmp_path / "index.parquet").to_pylist()]
    assert next(loader().batches(TarReader(tar), rows)).image_ids == [0, 1, 2, 3]
