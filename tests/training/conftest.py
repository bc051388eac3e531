"""Tiny training shards with real tars, images and embeddings, and a student that trains on them in seconds."""

import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core import schema
from pipeline.core.tars import index_tar, write_tar
from tests.shared import made_once
from training.config import LossesConfig, StudentConfig
from training.job.training_job import TrainingJob
from training.launch.launcher import TrainingResult, run_training

TEACHER_DIM = 24
CLUSTERS = 4
CLASSES = ("one", "two", "three")
STEPS = 40
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def no_gpu() -> Iterator[None]:
    """Ranks are started by the two and three, more than a machine may have GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


def write_training_shards(folder: Path, *, shards: int, rows: int, seed: int = 0, distil: bool = True) -> Path:
    """Shards as the stages write them; without ``distil`` as they come from the download."""
    random = np.random.default_rng(seed)
    (folder / "index").mkdir(parents=True)
    for shard in range(shards):
        samples = []
        for row in range(rows):
            image_id = shard * rows + row
            cluster = image_id % CLUSTERS
            pixels = random.integers(0, 90, (40, 36, 3), dtype=np.uint8)
            pixels[..., cluster % 3] += np.uint8(40 * cluster)
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "JPEG")
            sample: dict[str, object] = {"__key__": f"{shard:05d}{row:04d}", "jpg": image.getvalue()}
            sample["txt"] = f"a picture of {['one', 'two', 'three', 'four'][cluster]}"
            facts = {"image_id": image_id}
            if distil:
                facts["cluster_id"] = cluster
                for name in ("image.npy", "text.npy"):
                    vector = random.normal(0, 0.3, TEACHER_DIM) + np.eye(TEACHER_DIM)[cluster]
                    data = io.BytesIO()
                    np.save(data, (vector / np.linalg.norm(vector)).astype(np.float16))
                    sample[name] = data.getvalue()
            samples.append({**sample, "json": json.dumps(facts).encode()})
        path = folder / f"{shard:05d}.tar"
        write_tar(path, samples)
        pq.write_table(index_tar(path), folder / "index" / f"{shard:05d}.parquet")
    return folder


@pytest.fixture(scope="session")
def write_shards() -> Callable[..., Path]:
    return write_training_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 samples with everything that distillation needs."""
    return write_training_shards(tmp_path_factory.mktemp("data") / "training_shards", shards=3, rows=32)


@pytest.fixture(scope="session")
def centroids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("centroids") / "centroids.parquet"
    vectors = np.eye(CLUSTERS, TEACHER_DIM, dtype=np.float32)
    table = {"cluster_id": list(range(CLUSTERS)), "centroid": vectors.tolist()}
    pq.write_table(pa.table(table, schema=schema.centroids(TEACHER_DIM)), path)
    return path


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny-student.json"
    path.write_text(json.dumps(MODEL))
    return path


@pytest.fixture
def job(shards: Path, centroids: Path, model_file: Path, tmp_path: Path) -> TrainingJob:
    """All terms on, two ranks, twelve steps."""
    losses = LossesConfig.model_validate(
        {
            "cluster": {"label_weight": 0.5, "positives": 2},
            "instance": {"feature_weight": 1.0},
            "relation": {"weight": 0.5, "gradient_weight": 0.01, "teacher_temperature": 0.07},
        }
    )
    return TrainingJob(
        name="student",
        student=StudentConfig(
            model=str(model_file), losses=losses, batch_size=16, steps=12, ranks=2, checkpoint_every=4, log_every=2
        ),
        shards=shards,
        centroids=centroids,
        teacher_dim=TEACHER_DIM,
        output=tmp_path / "run",
    )


def with_steps(job: TrainingJob, output: Path, **student: Any) -> TrainingJob:
    """A job of 40 steps in another folder."""
    changes = {"steps": STEPS, "checkpoint_every": 8, **student}
    return job.model_copy(update={"output": output, "student": job.student.model_copy(update=changes)})


class WholeRun(NamedTuple):
    result: TrainingResult
    handed_on: list[dict[str, Any]]


@pytest.fixture
def uninterrupted(job: TrainingJob, tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """One run of all steps, shared by all tests that compare with it, and the rows that it handed on."""

    def make(folder: Path) -> None:
        rows: list[dict[str, Any]] = []
        result = run_training(with_steps(job, folder / "run"), on_metrics=rows.append)
        (folder / "whole_run").write_bytes(pickle.dumps((result, rows)))

    return WholeRun(*pickle.loads((made_once(tmp_path_factory, "whole_run", make) / "whole_run").read_bytes()))


@pytest.fixture
def whole_run(uninterrupted: WholeRun) -> TrainingResult:
    return uninterrupted.result


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An evaluation set of 20 images in three classes, each with a caption."""
    random, folder = np.random.default_rng(3), tmp_path / "shapes"
    samples: list[dict[str, object]] = []
    for number in range(20):
        picture = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (40, 32, 3), dtype=np.uint8)).save(picture, "PNG")
        label = number % len(CLASSES)
        members = {"png": picture.getvalue(), "cls": str(label).encode(), "txt": f"{CLASSES[label]} {number}".encode()}
        samples.append({"__key__": f"{number:03d}", **members})
    (folder / "test").mkdir(parents=True)
    write_tar(folder / "test" / "0.tar", samples)
    (folder / "classnames.txt").write_text("\n".join(CLASSES))
    (folder / "zeroshot_classification_templates.txt").write_text("a picture of {c}\n{c}\n")
    return folder
