import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.errors import ConfigError
from pipeline.core.tars import TarReader
from pipeline.download.config import ImagesConfig
from pipeline.download.stage import download_images, retry_images
from pipeline.storage.result import read_result
from tests.pipeline.download.hostile import WEB, Hostile, _Handler, hostile_server
from tests.pipeline.download.test_faults import PER_SHARD, assert_whole, captions, config_for, make_pairs, tables

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile_server() as running:
        yield running


def samples(root: Path) -> dict[int, dict[str, bytes]]:
    """Every sample's members, through the index."""
    found = {}
    for path in read_result(root, "images").parquet("index"):
        reader = TarReader(root / "images" / f"{path.stem}.tar")
        for row in pq.read_table(path).to_pylist():
            found[row["image_id"]] = reader.sample(row["offset"], row["size"])
    return found


def by_path(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["url"].removeprefix(f"http://{WEB}").partition("?image=")[0], []).append(row)
    return found


def test_retry_fetches_chosen_statuses_alone(server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    paths = ["/good", "/plain", "/late", "/never", "/page.jpg"]
    make_pairs(root, paths * 20 + ["/good"] * 60)
    config = config_for(server)
    first = download_images(root, config)
    assert (first.shards, first.stats["failed_to_download"], first.stats["failed_to_resize"]) == (4, 40, 20)
    before, before_samples = tables(root), samples(root)

    monkeypatch.setitem(_Handler.files, "/late", _Handler.files["/good"])
    server.requests.clear()
    result = retry_images(root, config, statuses=["failed_to_download"])
    assert set(server.requests) == {"/late", "/never"}
    assert len(server.requests) == 40
    after, after_samples = by_path(tables(root)), samples(root)
    assert {row["status"] for row in after["/late"]} == {"success"}
    assert {row["status"] for row in after["/never"]} == {"failed_to_download"}
    for path in ("/good", "/plain", "/page.jpg", "/never"):
        assert after[path] == by_path(before)[path], path
    for image_id, members in before_samples.items():
        assert after_samples[image_id] == members
    texts = captions(root)
    for row in after["/late"]:
        members = after_samples[row["image_id"]]
        assert json.loads(members["json"])["key"] == row["key"]
        assert [members["txt"].decode()] == texts[row["image_id"]]
        assert Image.open(io.BytesIO(members["jpg"])).size == (row["width"], row["height"])
    keys = [row["key"] for row in tables(root)]
    assert keys == [row["key"] for row in before]
    assert_whole(root)
    with tarfile.open(root / "images" / "00000.tar") as tar:
        assert (
            len(tar.getnames())
            == len(set(tar.getnames()))
            == 3 * sum(row["status"] == "success" for row in tables(root) if row["shard"] == "00000")
        )

    assert result.digest != first.digest
    assert result.stats["downloaded"] == first.stats["downloaded"] + 20
    assert download_images(root, config).computed == 0
    assert retry_images(root, config, statuses=["too_slow"]).digest == result.digest


def test_retry_statuses_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such status \['success'\]"):
        retry_images(tmp_path, ImagesConfig(), statuses=["success"])


def test_bytes_are_compared_with_the_table_before(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    monkeypatch.setitem(_Handler.files, "/changes", _Handler.files["/good"])
    monkeypatch.setitem(_Handler.files, "/goes", _Handler.files["/good"])
    make_pairs(root, ["/good", "/changes", "/goes", "/never"] * (PER_SHARD // 4))
    assert "bytes_match" not in download_images(root, config_for(server)).stats
    monkeypatch.setitem(_Handler.files, "/changes", _Handler.files["/dot"])
    monkeypatch.delitem(_Handler.files, "/goes")
    stats = download_images(root, config_for(server, image_size=32)).stats
    count = PER_SHARD // 4
    assert {name: stats[name] for name in stats if name.startswith("bytes_")} == {
        "bytes_match": count,
        "bytes_mismatch": count,
        "bytes_gone": count,
    }
