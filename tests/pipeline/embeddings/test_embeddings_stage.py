import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.clip.model import load_clip
from pipeline.compute.config import ComputeConfig
from pipeline.core import schema
from pipeline.core.errors import MissingInputError, ShardError, TeacherError
from pipeline.core.tars import TarReader, index_tar, write_tar
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.encoder import Encoder
from pipeline.embeddings.shard import ShardTask, embed_shard
from pipeline.embeddings.stage import embed_images, loader_stall
from pipeline.storage.result import read_result
from pipeline.storage.stage import Stage
from pipeline.teacher.stage import check_teacher, read_info, resolve_teacher
from tests.conftest import SmallRun, small_settings


def test_one_unit_vector_for_every_downloaded_image(finished: SmallRun) -> None:
    from pipeline.vectors.read import read_vectors

    files = read_result(finished.root, "teacher_embeddings").parquet("teacher_embeddings")
    vectors = read_vectors(files, id_column="image_id")
    images = [pq.read_table(path) for path in read_result(finished.root, "images").parquet("images")]
    wanted = [row["image_id"] for table in images for row in table.to_pylist() if row["status"] == "success"]
    assert vectors.ids.tolist() == sorted(wanted)
    assert np.abs(np.linalg.norm(vectors.matrix, axis=1) - 1).max() < 2e-3
    assert not pq.read_schema(files[0]).field("image_embedding").nullable


def test_embeddings_equal_plain_open_clip(finished: SmallRun) -> None:
    import open_clip
    import torch
    from PIL import Image

    name = f"local-dir:{finished.root / 'teacher'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    stored = pq.read_table(finished.root / "teacher_embeddings" / "00000.parquet").to_pylist()[:16]
    described = pq.read_table(finished.root / "caption_embeddings" / "00000.parquet").to_pylist()
    texts = {row["image_id"]: row["text_embedding"] for row in described}
    index = {row["image_id"]: row for row in pq.read_table(finished.root / "images/index/00000.parquet").to_pylist()}
    reader = TarReader(finished.root / "images" / "00000.tar")
    for row in stored:
        sample = reader.sample(index[row["image_id"]]["offset"], index[row["image_id"]]["size"])
        with torch.no_grad(), Image.open(io.BytesIO(sample["jpg"])) as image:
            live_image = model.encode_image(preprocess(image)[None], normalize=True)[0].numpy()
            live_text = model.encode_text(tokenizer([sample["txt"].decode()]), normalize=True)[0].numpy()
        assert float(np.dot(live_image, row["image_embedding"])) > 0.999
        assert float(np.dot(live_text, texts[row["image_id"]])) > 0.999


def test_an_image_is_embedded_once_and_each_of_its_captions(
    finished: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 300 captions, more than there are images; each is beside its own image, as in a pass of its own."""
    counts = [1, 2, 300, 1, 7]
    root = tmp_path / "root"
    shutil.copytree(finished.root / "teacher", root / "teacher")
    shutil.copytree(finished.root / ".marks/teacher", root / ".marks/teacher")
    reader = TarReader(finished.root / "images" / "00000.tar")
    places = pq.read_table(finished.root / "images/index/00000.parquet").to_pylist()[: len(counts)]
    pictures = {row["image_id"]: reader.sample(row["offset"], row["size"])["jpg"] for row in places}
    (root / "images/index").mkdir(parents=True)
    (root / "source_pairs").mkdir()
    tar = root / "images/00000.tar"
    write_tar(tar, [{"__key__": str(n), "jpg": pictures[n], "json": {"image_id": n}} for n in pictures])
    pq.write_table(index_tar(tar), root / "images/index/00000.parquet")
    pairs = [
        {"sample_id": 1000 * place + n, "image_id": image_id, "url": "http://x", "caption": f"{n} red circles"}
        for place, (image_id, count) in enumerate(zip(pictures, counts))
        for n in range(count)
    ]
    # One image failed: it has captions, but is not in the tar.
    pairs.append({"sample_id": -1, "image_id": -1, "url": "http://y", "caption": "lost"})
    pq.write_table(pa.Table.from_pylist(pairs, schema=schema.SOURCE_PAIRS), root / "source_pairs/00000.parquet")
    passed = []
    whole = Encoder.images

    def images(self: Encoder, pixels: torch.Tensor, **options: Any) -> torch.Tensor:
        passed.append(len(pixels))
        return whole(self, pixels, **options)

    monkeypatch.setattr(Encoder, "images", images)
    report = embed_shard(
        ShardTask(
            shard="00000",
            root=root,
            stage=Stage(root, "teacher_embeddings", version=0, config=None, inputs={"00000": 1}),
            output=tmp_path / "00000.parquet",
            config=EmbeddingsConfig(batch_size=2),
            files=(),
        )
    )
    assert passed == [2, 2, 1]
    assert (report.rows, report.captions) == (len(counts), sum(counts))
    vectors = {row["image_id"]: row["image_embedding"] for row in pq.read_table(report.task.output).to_pylist()}
    assert list(vectors) == [row["image_id"] for row in index_tar(tar).to_pylist()] and len(vectors) == len(counts)
    captions = pq.read_table(report.task.captions)
    assert captions.schema.equals(schema.caption_embeddings(read_info(root).embed_dim))
    described = {row["sample_id"]: row for row in captions.to_pylist()}
    assert len(described) == captions.num_rows == len(pairs) - 1
    clip = load_clip(root / "teacher", device="cpu")
    for pair in pairs[:-1]:
        row = described[pair["sample_id"]]
        assert row["image_id"] == pair["image_id"]
        cosine = np.asarray(vectors[row["image_id"]], np.float64) @ np.asarray(row["text_embedding"], np.float64)
        assert row["image_text_similarity"] == pytest.approx(cosine, abs=1e-6)
    for pair in [pairs[0], pairs[2], pairs[150], pairs[-2]]:
        with torch.no_grad():
            live = clip.model.encode_text(clip.tokenizer([pair["caption"]]), normalize=True)[0].double().numpy()
        assert np.abs(live - described[pair["sample_id"]]["text_embedding"]).max() < 1e-3


def test_metadata_names_teacher_weights_and_preprocessing(finished: SmallRun) -> None:
    metadata = pq.read_schema(finished.root / "teacher_embeddings" / "00000.parquet").metadata
    info = read_info(finished.root)
    assert metadata[b"weights_hash"].decode() == info.weights_hash
    assert metadata[b"preprocessing_hash"].decode() == info.preprocessing_hash
    assert metadata[b"name"] == b"demo"


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(copied: SmallRun) -> None:
    folder = copied.root / "teacher_embeddings"
    before = {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}
    for path in folder.glob("*.parquet"):
        path.unlink()
    result = embed_images(copied.root, copied.settings.embeddings, ComputeConfig(engine="processes", workers=2))
    assert result.computed == len(before)
    assert {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))} == before


def test_threads_are_those_of_the_config_whatever_the_process_has(copied: SmallRun) -> None:
    folder = copied.root / "teacher_embeddings"
    before = {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}
    shutil.rmtree(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        embed_images(copied.root, copied.settings.embeddings, ComputeConfig())
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))} == before


def test_embedding_without_images_says_what_is_missing(finished: SmallRun, tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "root")
    for name in ("source_pairs", "teacher", "images"):
        with pytest.raises(MissingInputError, match=f"'{name}' is not complete"):
            embed_images(settings.path, settings.embeddings, settings.compute)
        for folder in (name, f".marks/{name}"):
            shutil.copytree(finished.root / folder, settings.path / folder)


def test_a_truncated_image_shard_is_refused_before_any_embedding(copied: SmallRun) -> None:
    shutil.rmtree(copied.root / "teacher_embeddings")
    tar = copied.root / "images" / "00001.tar"
    size = tar.stat().st_size
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(MissingInputError, match=rf"images/00001\.tar .* the {size} bytes that were written"):
        embed_images(copied.root, copied.settings.embeddings, copied.settings.compute)
    assert not (copied.root / "teacher_embeddings").exists()


def resolve(root: Path, model: str, pretrained: str | None = None) -> None:
    from pipeline.teacher.config import TeacherConfig

    resolve_teacher(root, TeacherConfig(model=model, pretrained=pretrained), demo=lambda folder: None)


def test_bad_teachers_are_named(finished: SmallRun, tmp_path: Path) -> None:
    config = json.loads((finished.root / "teacher" / "open_clip_config.json").read_text())["model_cfg"]
    weights = str(finished.root / "teacher" / "open_clip_model.safetensors")
    (tmp_path / "wider.json").write_text(json.dumps({**config, "embed_dim": config["embed_dim"] * 2}))
    (tmp_path / "broken.json").write_text("{")
    cases = [
        (("ViT-Z-99", None), "neither a file nor an open_clip model"),
        (("ViT-B-32", None), "has no weights"),
        (("ViT-B-32", "no_such_tag"), "no_such_tag"),
        (("ViT-B-32", "openai"), "-quickgelu"),
        ((str(tmp_path / "wider.json"), weights), r"(?s)wider\.json.*shape torch\.Size\(\[64, 64\]\) from checkpoint"),
        ((str(tmp_path / "broken.json"), weights), "not a readable open_clip config"),
    ]
    for (model, pretrained), message in cases:
        with pytest.raises(TeacherError, match=message):
            resolve(tmp_path / "root", model, pretrained)
    assert not (tmp_path / "root" / "teacher").exists()


def test_a_name_is_checked_before_anything_is_loaded(finished: SmallRun, tmp_path: Path) -> None:
    from pipeline.teacher.config import TeacherConfig

    folder = finished.root / "teacher"
    good = [("demo", None), ("ViT-B-32", "laion2b_s34b_b79k"), ("hf-hub:a/b", None), (str(folder), None)]
    good.append(("ViT-B-32", str(folder / "open_clip_model.safetensors")))
    for model, pretrained in good:
        check_teacher(TeacherConfig(model=model, pretrained=pretrained))
    cases = {
        "'ViT-Z-99': neither a file nor an open_clip model": TeacherConfig(model="ViT-Z-99"),
        "similar names: .*ViT-L-14": TeacherConfig(model="ViT-L-15"),
        "no checkpoint file 'mine.pt'": TeacherConfig(model="ViT-B-32", pretrained="mine.pt"),
        "has no weights": TeacherConfig(model="ViT-B-32"),
        "neither a file nor a tag of this model, which has: .*laion2b": TeacherConfig(
            model="ViT-B-32", pretrained="laion3b"
        ),
        "-quickgelu": TeacherConfig(model="ViT-B-32", pretrained="openai"),
    }
    for message, config in cases.items():
        with pytest.raises(TeacherError, match=message):
            check_teacher(config)


def test_checkpoint_file_and_folder_give_the_same_teacher(finished: SmallRun, tmp_path: Path) -> None:
    folder = finished.root / "teacher"
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "mine.json").write_text(json.dumps(config))
    resolve(tmp_path / "a", str(folder))
    resolve(tmp_path / "b", str(tmp_path / "mine.json"), str(folder / "open_clip_model.safetensors"))
    hashes = {read_info(root).weights_hash for root in (finished.root, tmp_path / "a", tmp_path / "b")}
    assert len(hashes) == 1


@pytest.mark.slow
def test_killed_in_the_middle_of_a_shard_and_started_again_gives_the_same_bytes(copied: SmallRun) -> None:
    config = EmbeddingsConfig(batch_size=32)
    embed_images(copied.root, config, copied.settings.compute)
    folder = copied.root / "teacher_embeddings"
    expected = {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}
    shutil.rmtree(folder)
    shutil.rmtree(copied.root / ".marks" / "teacher_embeddings")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline.compute import ComputeConfig\n"
        "from pipeline.embeddings import EmbeddingsConfig, embed_images, encoder\n"
        "whole, batches = encoder.Encoder.batch, iter(range(100))\n"
        "def batch(self, *args, **kwargs):\n"
        "    if next(batches) == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return whole(self, *args, **kwargs)\n"
        "encoder.Encoder.batch = batch\n"
        "embed_images(Path(sys.argv[1]), EmbeddingsConfig(batch_size=32), ComputeConfig())\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(copied.root)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in folder.glob("*.parquet")] == ["00000.parquet"]
    assert embed_images(copied.root, config, copied.settings.compute).computed == len(expected) - 1
    assert {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))} == expected


def test_an_image_that_was_damaged_is_named_and_nothing_of_its_shard_appears(copied: SmallRun) -> None:
    shutil.rmtree(copied.root / ".marks" / "teacher_embeddings")
    shutil.rmtree(copied.root / "teacher_embeddings")
    row = pq.read_table(copied.root / "images/index/00001.parquet").to_pylist()[40]
    tar = copied.root / "images" / "00001.tar"
    data = bytearray(tar.read_bytes())
    start = data.index(b"\xff\xd8\xff", row["offset"])
    data[start : start + 300] = bytes(300)
    tar.write_bytes(data)
    said = rf"images/00001\.tar, offset {row['offset']}: .* run again: shard 00001 of stage images is made anew"
    with pytest.raises(ShardError, match=said):
        embed_images(copied.root, copied.settings.embeddings, copied.settings.compute)
    with pytest.raises(MissingInputError, match="stage 'images' is not complete"):
        read_result(copied.root, "images")
    assert [path.name for path in (copied.root / "teacher_embeddings").glob("*.parquet")] == ["00000.parquet"]


def test_the_stage_says_how_long_the_model_waited(copied: SmallRun, caplog: pytest.LogCaptureFixture) -> None:
    result = read_result(copied.root, "teacher_embeddings")
    assert 0 <= result.stats["loader_wait_s"] < result.stats["embedding_s"]
    assert loader_stall(result) == pytest.approx(result.stats["loader_wait_s"] / result.stats["embedding_s"])
    with caplog.at_level("INFO", logger="pipeline.embeddings.stage"):
        embed_images(copied.root, EmbeddingsConfig(batch_size=64), copied.settings.compute)
    assert re.search(r"teacher_embeddings: \d+ rows, loader stall \d+\.\d% of \d+\.\d s", caplog.text)


def test_the_live_teacher_agrees_and_another_one_does_not(copied: SmallRun) -> None:
    import safetensors.torch

    from pipeline.embeddings.verify import live_cosines

    found = live_cosines(copied.root, samples=9)
    assert found["samples"] == 9
    assert min(found["min_cosine_image"], found["min_cosine_text"]) >= 0.999
    path = copied.root / "teacher" / "open_clip_model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["text_projection"] = weights["text_projection"].flip(1).contiguous()
    safetensors.torch.save_file(weights, path)
    found = live_cosines(copied.root, samples=9)
    assert found["min_cosine_image"] >= 0.999 > found["min_cosine_text"]
