"""Student and teacher on a sample of the training images, cluster by cluster, against plain open_clip and numpy."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from assets.page.cluster_accuracy_plot import cluster_accuracy_dots
from assets.page.pictures import cluster_accuracy_pictures
from pipeline.clip.model import LoadedClip
from pipeline.core import schema
from pipeline.core.errors import EmbeddingError, MissingInputError, ShardError
from pipeline.core.manifest import read_manifest
from pipeline.core.tars import TarReader, index_tar, read_index, write_tar
from pipeline.storage.catalog import write_catalog
from pipeline.storage.stage import Output, Stage
from tests.conftest import SmallRun
from training.config import EvaluationConfig
from training.evaluation import cluster_accuracy as measured
from training.evaluation import measure_clusters
from training.evaluation.cluster_accuracy import by_cluster, cluster_accuracy, first_shards, read_pool

SAMPLES = 60
PROJECT = Path(__file__).resolve().parents[3]


def _student(root: Path) -> None:
    """A student that knows as much as the teacher but for one layer."""
    from safetensors.torch import load_file, save_file

    def write(output: Output) -> None:
        for path in (root / "teacher").glob("open_clip*"):
            shutil.copy(path, output.path(f"student/{path.name}"))
        weights = output.path("student/open_clip_model.safetensors")
        state = load_file(weights)
        generator = torch.Generator().manual_seed(0)
        state["text_projection"] += 0.05 * torch.randn(state["text_projection"].shape, generator=generator)
        save_file(state, weights)

    Stage(root, "student", version=1, config={}, inputs={"student": 0}).each(write)


def _members(root: Path, count: int) -> list[dict[str, bytes]]:
    found = []
    for path in sorted((root / "training_shards" / "index").glob("*.parquet")):
        reader = TarReader(root / "training_shards" / f"{path.stem}.tar")
        found += [reader.sample(row["offset"], row["size"]) for row in read_index(path).to_pylist()]
    return found[:count]


def _hits(images: np.ndarray, texts: np.ndarray, captions: list[str]) -> np.ndarray:
    """By brute force: no caption that reads otherwise is as near as the own one."""
    hits = []
    for number, own in enumerate(captions):
        scores = texts @ images[number]
        right = [other == own for other in captions]
        hits.append(scores[right].max() > scores[np.logical_not(right)].max())
    return np.array(hits)


def test_accuracies_are_those_of_plain_open_clip_and_of_the_cache(copied: SmallRun) -> None:
    root = copied.root
    with pytest.raises(MissingInputError, match="'student' is not complete"):
        measure_clusters(root, EvaluationConfig())
    _student(root)
    config = EvaluationConfig(cluster_samples=SAMPLES, device="cpu", batch_size=32)
    result = measure_clusters(root, config)
    table = pq.read_table(root / "cluster_accuracy" / "cluster_accuracy.parquet")
    assert table.schema.equals(schema.CLUSTER_ACCURACY)
    digest = read_manifest(root / "training_shards").clusters_digest
    assert table.schema.metadata[b"clusters_digest"].decode() == digest

    samples = _members(root, SAMPLES)
    facts = [json.loads(sample["json"]) for sample in samples]
    captions, clusters = [fact["captions"][0] for fact in facts], np.array([fact["cluster_id"] for fact in facts])
    cached = [
        np.stack([np.atleast_2d(np.load(io.BytesIO(sample[name])))[0] for sample in samples]).astype(np.float64)
        for name in ("image.npy", "text.npy")
    ]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{root / 'student'}")
    model.eval()
    image = next(name for name in samples[0] if name in ("jpg", "png", "webp"))
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.open(io.BytesIO(sample[image]))) for sample in samples])
        tokens = open_clip.get_tokenizer(f"local-dir:{root / 'student'}")(captions)
        images, texts = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
    student = _hits(images.double().numpy(), texts.double().numpy(), captions)
    teacher = _hits(*cached, captions)
    assert table["images"].to_pylist() == np.unique(clusters, return_counts=True)[1].tolist()
    for row in table.to_pylist():
        own = clusters == row["cluster_id"]
        assert row["student_accuracy"] == pytest.approx(student[own].mean())
        assert row["teacher_accuracy"] == pytest.approx(teacher[own].mean())
        assert row["gap"] == pytest.approx(row["teacher_accuracy"] - row["student_accuracy"])
    assert result.stats["images"] == SAMPLES and result.stats["student_accuracy"] == pytest.approx(student.mean())

    assert measure_clusters(root, config).computed == 0
    assert measure_clusters(root, EvaluationConfig(cluster_samples=SAMPLES, tasks=["zero_shot"])).computed == 0
    shown = cluster_accuracy_pictures(result, copied.settings)
    assert len(shown["clusters in which the student falls behind"].records) == min(10, table.num_rows)
    assert (root / "pictures" / "cluster_accuracy.png").stat().st_size > 10_000
    connection = duckdb.connect()
    connection.execute(write_catalog(root).read_text())
    (asked,) = re.findall(r"```sql\n([^`]*FROM cluster_accuracy[^`]*)```", (PROJECT / "docs" / "tables.md").read_text())
    assert connection.sql(asked.replace(">= 10", ">= 1")).fetchall()


def test_the_table_counts_by_cluster() -> None:
    clusters = np.array([7, 3, 7, 7, 3])
    student, teacher = np.array([1, 0, 0, 0, 0], bool), np.array([1, 0, 1, 0, 1], bool)
    assert by_cluster(clusters, student=student, teacher=teacher).to_pylist() == [
        {"cluster_id": 3, "images": 2, "student_accuracy": 0.0, "teacher_accuracy": 0.5, "gap": 0.5},
        {
            "cluster_id": 7,
            "images": 3,
            "student_accuracy": pytest.approx(1 / 3),
            "teacher_accuracy": pytest.approx(2 / 3),
            "gap": pytest.approx(1 / 3),
        },
    ]
    assert len(cluster_accuracy_dots(schema.CLUSTER_ACCURACY.empty_table())) <= 100_000


def test_known_answers(
    monkeypatch: pytest.MonkeyPatch, color_clip: LoadedClip, one_sample: Callable[..., dict], tmp_path: Path
) -> None:
    """Colors that a student sees as they are, and a teacher that takes blue for green."""
    vectors = {"red": [1.0, 0, 0], "green": [0, 1.0, 0], "blue": [0, 0.9, 0.1]}
    pairs = [("red", "red", 0), ("green", "green", 0), ("blue", "blue", 1), ("red", "red", 1), ("blue", "green", 4)]
    samples = [
        {
            **one_sample(str(number), color),
            "json": {"image_id": number, "cluster_id": cluster, "captions": [caption]},
            "image.npy": np.array(vectors["green" if color == "blue" else color]),
            "text.npy": np.array([vectors[caption], vectors["red"]]),
        }
        for number, (color, caption, cluster) in enumerate(pairs)
    ]
    write_tar(tmp_path / "0.tar", samples)
    (tmp_path / "index").mkdir()
    pq.write_table(index_tar(tmp_path / "0.tar"), tmp_path / "index" / "0.parquet")
    monkeypatch.setattr(measured, "load_clip", lambda folder, *, device: color_clip)
    table = cluster_accuracy(tmp_path, read_pool(tmp_path, 9))
    # A blue image that is called green is wrong by the student, one that is called blue by the teacher.
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (0, 2, 1, 1, 0),
        (1, 2, 1, 0.5, -0.5),
        (4, 1, 0, 1, 1),
    ]


def test_the_pool_is_the_beginning_of_the_shards(finished: SmallRun) -> None:
    folder = finished.root / "training_shards"
    pool, longer = read_pool(folder, 60), read_pool(folder, 10**9)
    assert first_shards(folder, 60) == ["00000", "00001"] and len(first_shards(folder, 50)) == 1
    assert len(pool.captions) == len(pool.images) == 60 and longer.captions[:60] == pool.captions
    assert len(longer.captions) == read_manifest(folder).samples
    assert torch.allclose(pool.teacher_image.norm(dim=1), torch.ones(60))
    with Image.open(io.BytesIO(pool.images.images[59].read())) as image:
        assert image.size[0] > 8


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"image.npy": None}, ShardError, r"0\.tar, key a: 'image\.npy' is missing; members found: jpg, json"),
        ({"json": b"{}"}, ShardError, r"key a: 'txt' is missing"),
        ({"text.npy": b"no"}, EmbeddingError, r"key a: no readable \.json and \.npy"),
        ({"image.npy": np.array([np.nan])}, EmbeddingError, "key a: a teacher embedding is not finite"),
    ],
)
def test_a_sample_that_lacks_something_is_named(tmp_path: Path, change: dict, error: type, said: str) -> None:
    sample = {
        "__key__": "a",
        "jpg": b"x",
        "json": json.dumps({"image_id": 1, "cluster_id": 0, "captions": ["one"]}).encode(),
        "image.npy": np.ones(2),
        "text.npy": np.ones((1, 2)),
        **change,
    }
    if change.get("json"):
        sample["json"] = b'{"image_id": 1, "cluster_id": 0}'
    write_tar(tmp_path / "0.tar", [{name: value for name, value in sample.items() if value is not None}])
    (tmp_path / "index").mkdir()
    pq.write_table(index_tar(tmp_path / "0.tar"), tmp_path / "index" / "0.parquet")
    with pytest.raises(error, match=said):
        read_pool(tmp_path, 5)


def test_shards_without_a_sample(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no training sample in it"):
        read_pool(tmp_path, 5)
