"""Stage `scores`: rows of embeddings in, the same rows of scores out, and what is computed anew."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from pipeline.core import schema
from pipeline.core.errors import ConfigError, EmbeddingError, MissingInputError
from pipeline.heads import HeadConfig, score_images
from pipeline.storage.stage import Output, Stage
from pipeline.vectors.write import EmbeddingWriter

ROWS = {"00000": 9000, "00001": 5, "00002": 0}


def embedded(root: Path, *, seed: int = 0, shards: dict[str, int] = ROWS) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A root whose teacher embeddings, 8 wide, are complete; ids and vectors of each shard."""
    rng = np.random.default_rng(seed)
    made = {}

    def write(output: Output) -> None:
        ids, vectors = rng.integers(-(2**63), 2**63, rows := shards[output.shard]), rng.normal(size=(rows, 8))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        with EmbeddingWriter(
            output.path(f"teacher_embeddings/{output.shard}.parquet"), schema.teacher_embeddings(8)
        ) as file:
            if rows:
                file.add({"image_id": ids, "image_embedding": vectors})
        made[output.shard] = (ids, vectors)

    Stage(root, "teacher_embeddings", version=100, config=seed, inputs=dict.fromkeys(shards)).each(write)
    return made


def head(path: Path, scale: float = 1, **settings: object) -> HeadConfig:
    save_file({"weight": np.full((1, 8), scale, np.float32)}, str(path))
    return HeadConfig(weights=str(path), **settings)


def test_every_image_has_a_score_of_each_head(tmp_path: Path) -> None:
    made = embedded(tmp_path / "root")
    heads = {"nsfw": head(tmp_path / "n", 3, output="sigmoid"), "aesthetic": head(tmp_path / "a", 2)}
    result = score_images(tmp_path / "root", heads)
    assert (result.rows, result.shards, result.computed) == (9005, 3, 3)
    for shard, (ids, vectors) in made.items():
        table = pq.read_table(tmp_path / "root" / "scores" / f"{shard}.parquet")
        assert table.schema.names == ["image_id", "aesthetic", "nsfw"]
        assert table["image_id"].to_pylist() == ids.tolist()
        wide = vectors.astype(np.float64)
        total = wide.sum(axis=1) / np.linalg.norm(wide, axis=1)
        assert np.allclose(table["aesthetic"], 2 * total, atol=1e-5)
        assert np.allclose(table["nsfw"], 1 / (1 + np.exp(-3 * total)), atol=1e-5)


def test_only_what_changed_is_scored_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    embedded(root)
    one = {"aesthetic": head(tmp_path / "a", 2)}
    score_images(root, one)
    assert score_images(root, one).computed == 0
    # The same weights from another place.
    assert score_images(root, {"aesthetic": head(tmp_path / "b", 2)}).computed == 0
    assert score_images(root, {"aesthetic": head(tmp_path / "b", 3)}).computed == 3
    assert score_images(root, one | {"nsfw": head(tmp_path / "n")}).computed == 3
    (root / "scores" / "00001.parquet").unlink()
    assert score_images(root, one | {"nsfw": head(tmp_path / "n")}).computed == 1
    embedded(root, seed=1)
    # The shard without a row is what it was.
    assert score_images(root, one | {"nsfw": head(tmp_path / "n")}).computed == 2


def test_without_heads_the_stage_is_complete_and_scores_are_gone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert score_images(root, {}).rows == 0
    embedded(root)
    score_images(root, {"aesthetic": head(tmp_path / "a")})
    result = score_images(root, {})
    assert result.rows == 0 and not list((root / "scores").glob("*.parquet"))


def test_a_head_that_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(MissingInputError, match="teacher_embeddings"):
        score_images(root, {"aesthetic": head(tmp_path / "a")})
    embedded(root, shards={"00000": 5})
    save_file({"weight": np.ones((1, 9), np.float32)}, str(tmp_path / "wide"))
    with pytest.raises(ConfigError, match=r"tensor weight \[1, 9\] takes 9 numbers, the teacher's embeddings have 8"):
        score_images(root, {"aesthetic": HeadConfig(weights=str(tmp_path / "wide"))})
    with pytest.raises(
        EmbeddingError, match=r"shard 00000: [1-5] scores of head aesthetic are not finite, e.g. of image_id"
    ):
        score_images(root, {"aesthetic": head(tmp_path / "a", 3e38)})
    assert not list(root.glob("scores/*"))
