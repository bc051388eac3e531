"""Embeddings made elsewhere. ``clip_retrieval_output`` was written by clip-retrieval 2.45.0 (``clip_inference`` with
metadata) from ten pairs of the demo and a teacher of its size."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from clip_cid.app import app
from pipeline.core.errors import EmbeddingError, SourceError
from pipeline.import_embeddings.stage import import_embeddings
from pipeline.neighbors.search import near_duplicate_forest
from pipeline.vectors.read import read_vectors

REAL = Path(__file__).parent / "clip_retrieval_output"


def in_parts(
    folder: Path, parts: list[list[tuple[str | None, str | None]]], *, dim: int = 6, text: bool = True
) -> Path:
    """The layout of clip-retrieval; vectors count the rows of the whole."""
    count = 0
    for name in ("img_emb", "metadata", *(["text_emb"] if text else [])):
        (folder / name).mkdir(parents=True)
    for number, rows in enumerate(parts):
        vectors = np.random.default_rng(number).normal(size=(len(rows), dim)).astype(np.float16)
        vectors[:, 0] = np.arange(count, count + len(rows)) + 1
        count += len(rows)
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors)
        if text:
            np.save(folder / "text_emb" / f"text_emb_{number}.npy", vectors[:, ::-1].copy())
        columns = {"image_path": [str(n) for n in range(len(rows))]}
        columns |= {"url": [url for url, _ in rows], "caption": [caption for _, caption in rows]}
        pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def rows_of(root: Path) -> list[dict[str, Any]]:
    """Each pair with the vectors of its image and of its caption, if there are such."""
    tables = {name: f"'{root}/{name}/*.parquet'" for name in ("teacher_embeddings", "caption_embeddings")}
    text = f"SELECT * FROM '{root}/source_pairs/*.parquet' JOIN {tables['teacher_embeddings']} USING (image_id)"
    if list(root.glob("caption_embeddings/*.parquet")):
        text += f" JOIN {tables['caption_embeddings']} USING (sample_id, image_id)"
    return duckdb.sql(text).to_arrow_table().to_pylist()


def test_a_real_output_keeps_its_vectors_and_gets_the_ids_of_the_source(tmp_path: Path) -> None:
    result = import_embeddings(REAL, tmp_path / "root", teacher="demo")
    metadata = pq.read_table(REAL / "metadata" / "metadata_0.parquet").to_pylist()
    image, text = np.load(REAL / "img_emb" / "img_emb_0.npy"), np.load(REAL / "text_emb" / "text_emb_0.npy")
    assert result.rows == len(metadata) == len(image) == 10
    found = {row["sample_id"]: row for row in rows_of(tmp_path / "root")}
    # Our tars carry sample_id in their json, which clip-retrieval has passed on.
    assert sorted(found) == sorted(row["sample_id"] for row in metadata)
    for number, row in enumerate(metadata):
        mine = found[row["sample_id"]]
        assert (mine["url"], mine["caption"]) == (row["url"], row["caption"])
        assert np.abs(np.asarray(mine["image_embedding"]) - image[number]).max() < 1e-3
        assert np.abs(np.asarray(mine["text_embedding"]) - text[number]).max() < 1e-3
    assert pq.read_schema(tmp_path / "root/teacher_embeddings/0.parquet").metadata == {b"name": b"demo"}
    assert import_embeddings(REAL, tmp_path / "root", teacher="demo").computed == 0
    embeddings, forest = tmp_path / "root/teacher_embeddings", tmp_path / "forest.parquet"
    near_duplicate_forest(embeddings, forest, max_distance=1.0, id_column="image_id")


def test_repeats_and_unusable_rows_are_dropped_wherever_they_stand(tmp_path: Path) -> None:
    a, b, c = (f"http://x/{name}.jpg" for name in "abc")
    source = in_parts(
        tmp_path / "source",
        [[(a, "one"), (b, "two"), (None, "no url"), (a, "one")], [(b, " "), (c, "three"), (a, "one"), (a, "other")]],
    )
    result = import_embeddings(source, tmp_path / "root")
    counts = {"listed": 8, "captions": 8, "unusable": 2, "filtered": 0, "exact_repeats": 2}
    assert result.stats == counts | {"id_collisions": 0, "image_id_collisions": 0, "images": 3, "pairs": 4}
    assert result.rows == 3
    rows = sorted(rows_of(tmp_path / "root"), key=lambda row: row["caption"])
    assert [(row["url"], row["caption"]) for row in rows] == [(a, "one"), (a, "other"), (c, "three"), (b, "two")]
    places = {"one": 0, "two": 1, "three": 5, "other": 7}
    whole = np.concatenate([np.load(source / "img_emb" / f"img_emb_{n}.npy") for n in (0, 1)]).astype(np.float32)
    for row in rows:
        # The image of two captions has the vector beside the first of them.
        image, text = whole[places[{"other": "one"}.get(row["caption"], row["caption"])]], whole[places[row["caption"]]]
        beside = text.astype(float) @ text[::-1] / np.linalg.norm(text.astype(float)) ** 2
        image, text = image / np.linalg.norm(image), text[::-1] / np.linalg.norm(text)
        assert np.abs(np.asarray(row["image_embedding"]) - image).max() < 1e-3
        assert np.abs(np.asarray(row["text_embedding"]) - text).max() < 1e-3
        assert row["image_text_similarity"] == pytest.approx(beside, abs=1e-6)
    vectors = read_vectors(tmp_path / "root/teacher_embeddings", id_column="image_id")
    assert len(vectors.ids) == len({row["image_id"] for row in rows}) == 3
    assert np.abs(np.linalg.norm(vectors.matrix, axis=1) - 1).max() < 1e-3


def test_ten_parts_are_taken_by_their_numbers(tmp_path: Path) -> None:
    source = in_parts(tmp_path / "source", [[(f"http://x/{n}", "caption")] for n in range(11)], text=False)
    assert import_embeddings(source, tmp_path / "root").rows == 11
    table = pq.read_table(tmp_path / "root/teacher_embeddings")
    assert table.column_names == ["image_id", "image_embedding"]


def test_plain_parquet_of_any_float_and_any_list(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number, type_ in enumerate((pa.list_(pa.float64()), pa.list_(pa.float32(), 3), pa.large_list(pa.float16()))):
        vectors = pa.array(np.eye(3).tolist(), pa.list_(pa.float64())).cast(type_)
        columns = {"link": [f"images/{number}/{n}.jpg" for n in range(3)], "text": ["caption"] * 3, "vector": vectors}
        pq.write_table(pa.table(columns), tmp_path / "source" / f"{number}.parquet")
    names = {"url_column": "link", "caption_column": "text", "image_column": "vector"}
    with pytest.raises(SourceError, match=r"no usable pair in .*: 9 rows, 9 of them without a URL"):
        import_embeddings(tmp_path / "source", tmp_path / "root", **names)
    result = import_embeddings(tmp_path / "source", tmp_path / "root", **names, url_prefix="file://")
    assert result.rows == 9
    assert {row["url"] for row in rows_of(tmp_path / "root")} >= {"file://images/2/2.jpg"}


def save(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


NAN = np.full((2, 6), np.nan, np.float16)
CASES: dict[str, Callable[[Path], Any]] = {
    r"img_emb_0\.npy: 3 vectors, but 2 rows in .*metadata_0\.parquet": save("img_emb/img_emb_0.npy", np.ones((3, 6))),
    r"text_emb_1\.npy: 1 vectors, but 2 rows": save("text_emb/text_emb_1.npy", np.ones((1, 6))),
    r"part 1, .*metadata_1\.parquet, row 0 .*http://x/10\): its image vector is not 6 finite numbers": save(
        "img_emb/img_emb_1.npy", NAN
    ),
    r"part 0, .*metadata_0\.parquet, row 0 .*: its text vector is not 6 finite numbers, or is zero": save(
        "text_emb/text_emb_0.npy", np.zeros((2, 6))
    ),
    r"mixed widths \(image, text\): \(6, 6\) in part 0, \(5, 6\) in part 1": save(
        "img_emb/img_emb_1.npy", np.ones((2, 5))
    ),
    r"expected rows of floats, got shape \(2,\) of float64": save("img_emb/img_emb_0.npy", np.ones(2)),
    r"expected rows of floats, got .* int64": save("img_emb/img_emb_0.npy", np.ones((2, 6), int)),
    r"img_emb_0\.npy: not a readable \.npy array": lambda folder: (folder / "img_emb/img_emb_0.npy").write_bytes(b"x"),
    r"img_emb and metadata have no common part 1": lambda folder: (folder / "metadata/metadata_1.parquet").unlink(),
    r"img_emb and text_emb have no common part 0": lambda folder: (folder / "text_emb/text_emb_0.npy").unlink(),
    r"metadata_0\.parquet: not a readable Parquet": lambda folder: (folder / "metadata/metadata_0.parquet").write_text(
        ""
    ),
    r"no column \['url'\], from which sample_id is made; it has \['image_path'": lambda folder: pq.write_table(
        pa.table({"image_path": ["a", "b"], "caption": ["a", "b"]}), folder / "metadata/metadata_1.parquet"
    ),
}


@pytest.mark.parametrize("message", CASES)
def test_what_does_not_fit_together_is_named(message: str, tmp_path: Path) -> None:
    source = in_parts(tmp_path / "source", [[(f"http://x/{p}{n}", "caption") for n in range(2)] for p in range(2)])
    CASES[message](source)
    with pytest.raises(EmbeddingError, match=message):
        import_embeddings(source, tmp_path / "root")
    assert not list((tmp_path / "root").glob(".marks/*/complete.json"))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbeddingError, match="neither img_emb/ and metadata/ of clip-retrieval nor a Parquet file"):
        import_embeddings(tmp_path / "empty", tmp_path / "root")
    pq.write_table(pa.table({"url": ["http://x"], "caption": ["a"]}), tmp_path / "empty" / "a.parquet")
    with pytest.raises(EmbeddingError, match=r"no column 'image_embedding'; it has \['url', 'caption'\]"):
        import_embeddings(tmp_path / "empty", tmp_path / "root")


def test_the_command_line_says_what_is_wrong_and_what_was_done(tmp_path: Path) -> None:
    source = in_parts(tmp_path / "source", [[(f"http://x/{p}{n}", "caption") for n in range(2)] for p in range(2)])
    good = np.load(source / "img_emb/img_emb_1.npy")
    np.save(source / "img_emb/img_emb_1.npy", NAN)
    command = ["import", str(source), str(tmp_path / "root")]
    failed = CliRunner().invoke(app, command)
    assert failed.exit_code == 1 and "row 0" in failed.stderr and "--drop-bad" in failed.stderr
    np.save(source / "img_emb/img_emb_1.npy", good)
    done = CliRunner().invoke(app, command)
    assert done.stdout == (
        f"{tmp_path / 'root'}: 4 embeddings (listed 4, captions 4, unusable 0, filtered 0, exact_repeats 0, "
        "id_collisions 0, image_id_collisions 0, images 4, pairs 4)\n"
    )
    shutil.rmtree(tmp_path / "root")
    good[1] = 0
    np.save(source / "img_emb/img_emb_1.npy", good)
    dropped = CliRunner().invoke(app, [*command, "--drop-bad"])
    assert dropped.exit_code == 0 and "root: 3 embeddings" in dropped.stdout and "bad_vectors 1" in dropped.stdout
    again = CliRunner().invoke(app, [*command, "--drop-bad"])
    assert again.stdout == dropped.stdout


def test_bad_rows_of_any_kind_are_dropped_and_counted(tmp_path: Path) -> None:
    good = [3.0, 4.0]
    vectors = [[1.0], good, None, [0.0, 0.0], [np.nan, 1.0], [1.0, np.inf], [None, 1.0], [1e30, 0.0], [1.0, 2.0, 3.0]]
    columns = {"url": [f"http://x/{n}" for n in range(9)], "caption": ["caption"] * 9, "image_embedding": vectors}
    pq.write_table(pa.table(columns), tmp_path / "source.parquet")
    with pytest.raises(EmbeddingError, match=r"source\.parquet, row 0 .*its image vector is not 2 finite numbers"):
        import_embeddings(tmp_path / "source.parquet", tmp_path / "root")
    result = import_embeddings(tmp_path / "source.parquet", tmp_path / "root", drop_bad=True)
    assert result.rows == 2 and result.stats["bad_vectors"] == 7
    found = {row["url"]: np.asarray(row["image_embedding"], np.float32).tolist() for row in rows_of(tmp_path / "root")}
    assert found.keys() == {"http://x/1", "http://x/7"}
    assert np.allclose(found["http://x/1"], [0.6, 0.8], atol=1e-3) and np.allclose(found["http://x/7"], [1, 0])
    assert pq.read_table(tmp_path / "root/source_pairs").num_rows == 2


def test_the_width_is_that_of_most_rows_and_nothing_is_none(tmp_path: Path) -> None:
    columns = {"url": ["http://x/1"] * 2, "caption": ["a", "b"], "image_embedding": [None, None]}
    table = pa.table(columns).cast(
        pa.schema({"url": pa.string(), "caption": pa.string(), "image_embedding": pa.list_(pa.float32())})
    )
    pq.write_table(table, tmp_path / "source.parquet")
    with pytest.raises(EmbeddingError, match="no vector in its first 2 rows"):
        import_embeddings(tmp_path / "source.parquet", tmp_path / "root")
