"""The explorer as files, the map, and their command."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from assets.explore.explorer import Explorer
from assets.explore.map import principal_axes
from clip_cid.app import app
from tests.assets.explored import HOSTILE, Explored, whole_root


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    return whole_root(tmp_path_factory.mktemp("explored") / "root")


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["explore", *map(str, arguments)], prog_name="clip-cid")
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_pages_lead_to_pages_that_are_there(explored: Explored, tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    said = call(explored.root, "--export", folder)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert f"{len(files)} files" in said.replace(",", "")
    pages = {name: (folder / name).read_text() for name in files if name.endswith(".html")}
    for name, text in pages.items():
        for address in re.findall(r'(?:href|src)="([^"]*)"', text):
            assert address == "data:," or address in files, (name, address)
        (found,) = re.findall(r'data-pages="([^"]*)"', text) or [""]
        assert set(found.split()) <= files
        assert "<form method" not in text and 'href="/' not in text and "<script>" not in text
    index = pages["index.html"]
    assert "Content-Security-Policy" in index and "<b>stays</b>" in index and "thumbs/" in index
    thresholds = sorted(name for name in pages if name.startswith("threshold-"))
    assert len(thresholds) == 25 and index.count("threshold-") >= 25
    removed = [int(re.findall(r"<b>(\d+)</b> images go", pages[name])[0]) for name in thresholds]
    assert removed == sorted(removed) and removed[0] == int((explored.edges.distance <= 0).sum())
    with Image.open(folder / f"thumbs/{explored.ids[2]}.jpg") as nothing:
        assert nothing.size == (8, 8)
    assert "exists; --overwrite replaces it" in call(explored.root, "--export", folder, code=2)
    assert "is not between 0 and" in call(explored.root, "--export", tmp_path / "x", "--threshold", "1", code=2)
    assert not (tmp_path / "x").exists()


def test_a_map_has_a_row_for_each_embedding(explored: Explored, tmp_path: Path) -> None:
    path = tmp_path / "map.parquet"
    said = json.loads(call(explored.root, "--map", path, "--threshold", 0.25, "--json"))
    assert said["rows"] == 60 and [entry.name for entry in tmp_path.iterdir()] == ["map.parquet"]
    rows = pq.read_table(path).to_pylist()
    assert [row["id"] for row in rows] == explored.ids.tolist()
    assert rows[0]["caption"] == HOSTILE and rows[7]["cluster"] == 2
    assert rows[2]["thumbnail"] is None
    with Image.open(io.BytesIO(rows[3]["thumbnail"]["bytes"])) as small:
        assert small.format == "JPEG" and rows[3]["thumbnail"]["path"] == f"{rows[3]['id']}.jpg"
    with Explorer(explored.root) as explorer:
        assert explorer.forest is not None and explorer.vectors is not None
        groups = explorer.forest.groups(0.25)
        expected = {int(image): int(image) for image in explored.ids}
        for start, end in zip(groups.start, groups.end):
            members = explorer.forest.members(start, end)
            expected |= dict.fromkeys(members.tolist(), int(members.min()))
        mean, axes = principal_axes(explorer.vectors)
    assert [row["group"] for row in rows] == [expected[row["id"]] for row in rows]
    exact = explored.vectors.astype(np.float64)
    flat = (exact - exact.mean(axis=0)) @ np.linalg.svd(exact - exact.mean(axis=0))[2][:2].T
    found = np.array([[row["x"], row["y"]] for row in rows])
    np.testing.assert_allclose(np.abs(found), np.abs(flat), atol=1e-4)
    np.testing.assert_allclose(mean, exact.mean(axis=0), atol=1e-6)
    assert (axes[np.abs(axes).argmax(axis=0), [0, 1]] > 0).all()


def test_what_is_missing_is_a_line(tmp_path: Path) -> None:
    assert "no table of a root is there yet" in call(tmp_path, "--map", tmp_path / "m.parquet", code=1)
    assert "--memory-limit" in call(tmp_path, "--memory-limit", "much", code=2)
