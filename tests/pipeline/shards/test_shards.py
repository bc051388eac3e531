import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ShardError
from pipeline.core.tars import TarReader, index_tar
from pipeline.shards.stage import read_manifest
from pipeline.storage.result import read_result
from pipeline.storage.stage import Stage
from pipeline.teacher.stage import read_info
from tests.conftest import SmallRun, run_balance, run_clusters, run_embeddings, run_shards, small_settings


def samples(run: SmallRun) -> list[dict]:
    found = []
    for path in read_result(run.root, "training_shards").parquet("index"):
        reader = TarReader(run.root / "training_shards" / f"{path.stem}.tar")
        rows = pq.read_table(path).to_pylist()
        found += [row | {"members": reader.sample(row["offset"], row["size"])} for row in rows]
    return found


def test_samples_are_the_kept_pairs_with_their_own_embedding_and_label(finished: SmallRun) -> None:
    assert_samples_are_kept_images(finished)


def assert_samples_are_kept_images(run: SmallRun) -> dict[int, dict]:
    """Every kept image once, with all its captions, each beside its own embedding; returns the samples by image_id."""

    def rows(table: str) -> list[dict]:
        return [row for path in sorted((run.root / table).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]

    kept: dict[int, list[dict]] = {}
    for row in sorted(rows("balanced_pairs"), key=lambda row: row["sample_id"]):
        kept.setdefault(row["image_id"], []).append(row)
    labels = {row["image_id"]: row["cluster_id"] for row in rows("cluster_assignments")}
    vectors = {row["image_id"]: row["image_embedding"] for row in rows("teacher_embeddings")}
    texts = {row["sample_id"]: row["text_embedding"] for row in rows("caption_embeddings")}
    images = {row["image_id"]: row for row in rows("images/index")}
    found = samples(run)
    assert sorted(sample["image_id"] for sample in found) == sorted(kept)
    for sample in found:
        id_, members, pairs = sample["image_id"], sample["members"], kept[sample["image_id"]]
        assert json.loads(members["json"]) == {
            "image_id": id_,
            "cluster_id": labels[id_],
            "sample_ids": [pair["sample_id"] for pair in pairs],
            "captions": [pair["caption"] for pair in pairs],
        }
        assert members["txt"].decode() == pairs[0]["caption"]
        source = TarReader(run.root / "images" / f"{pairs[0]['shard']}.tar")
        assert members["jpg"] == source.sample(images[id_]["offset"], images[id_]["size"])["jpg"]
        image, text = (np.load(io.BytesIO(members[f"{name}.npy"]), allow_pickle=False) for name in ("image", "text"))
        assert image.dtype == text.dtype == np.float16
        assert image.tolist() == vectors[id_]
        assert text.tolist() == [texts[pair["sample_id"]] for pair in pairs]
    return {sample["image_id"]: sample["members"] for sample in found}


def test_an_image_of_several_captions_is_one_sample(copied: SmallRun) -> None:
    settings = small_settings(copied.root, balance={"captions": "group"})
    run_balance(settings)
    run_clusters(settings)
    result = run_shards(settings)
    found = assert_samples_are_kept_images(copied)
    balance = read_result(copied.root, "balance")
    pairs = sum(pq.read_table(path).num_rows for path in balance.parquet("balanced_pairs"))
    assert result.rows == len(found) == balance.stats["kept"] < pairs
    counts = [len(json.loads(members["json"])["captions"]) for members in found.values()]
    assert sum(counts) == pairs and max(counts) > 2
    assert read_manifest(copied.root / "training_shards").samples == len(found)


def test_order_is_a_shuffle_that_the_seed_decides(copied: SmallRun) -> None:
    first = [sample["image_id"] for sample in samples(copied)]
    assert first != sorted(first)
    changed = SmallRun(small_settings(copied.root, shards={"samples_per_shard": 50, "seed": 1}))
    run_shards(changed.settings)
    assert [sample["image_id"] for sample in samples(changed)] != first
    run_shards(copied.settings)
    assert [sample["image_id"] for sample in samples(copied)] == first


def test_manifest_names_what_the_shards_were_made_with(finished: SmallRun) -> None:
    manifest, info = read_manifest(finished.root / "training_shards"), read_info(finished.root)
    assert manifest.weights_hash == info.weights_hash
    assert manifest.embed_dim == info.embed_dim
    assert manifest.clusters_digest == read_result(finished.root, "clusters").digest
    assert manifest.samples == len(samples(finished))


def test_a_truncated_training_shard_is_written_again(copied: SmallRun) -> None:
    tar = copied.root / "training_shards" / "00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"truncated|not a readable"):
        index_tar(tar)
    assert run_shards(copied.settings).computed == 1
    assert tar.read_bytes() == whole


def test_index_notices_a_missing_end_of_archive(finished: SmallRun, tmp_path: object) -> None:
    from pathlib import Path

    source = finished.root / "training_shards" / "00000.tar"
    last = pq.read_table(finished.root / "training_shards/index/00000.parquet").to_pylist()[-1]
    cut = Path(str(tmp_path)) / "cut.tar"
    cut.write_bytes(source.read_bytes()[: last["offset"] + last["size"]])
    with pytest.raises(ShardError, match="end-of-archive"):
        index_tar(cut)


@pytest.mark.parametrize("table", ["teacher_embeddings", "caption_embeddings"])
def test_no_damaged_embedding_gets_into_a_training_shard(copied: SmallRun, table: str) -> None:
    """DuckDB, which joins them, looks at no checksum: a flipped bit in a vector would be a number like any other."""
    path = copied.root / table / "00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:])
    before = read_result(copied.root, "training_shards").digest
    shutil.rmtree(copied.root / ".marks" / "training_shards")
    said = rf"{table}/00001\.parquet.*: damaged.*shard 00001 of stage teacher_embeddings is made anew"
    with pytest.raises(ShardError, match=said):
        run_shards(copied.settings)
    assert run_embeddings(copied.settings).computed == 1
    assert path.read_bytes() == whole
    run_shards(copied.settings)
    assert read_result(copied.root, "training_shards").digest == before


def test_an_overwritten_training_shard_is_made_anew(copied: SmallRun) -> None:
    """By the stage that reads it, here one that stands for the training."""
    tar = copied.root / "training_shards" / "00002.tar"
    whole = tar.read_bytes()
    tar.write_bytes(bytes(len(whole)))
    stage = Stage(copied.root, "reader", version=1, config=1, inputs={"a": 1})
    row = pq.read_table(copied.root / "training_shards/index/00002.parquet").to_pylist()[3]
    with (
        pytest.raises(ShardError, match=r"00002\.tar, .*shard 00002 of stage training_shards is made anew"),
        stage.running(),
    ):
        TarReader(tar).sample(row["offset"], row["size"], row["crc32"])
    assert run_shards(copied.settings).computed == 1
    assert tar.read_bytes() == whole
