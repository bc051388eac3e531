import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.errors import DownloadError
from pipeline.storage.result import read_result
from tests.conftest import SmallRun, run_images, run_source, small_settings


def rows(root: Path) -> list[dict]:
    return [row for path in read_result(root, "images").parquet("images") for row in pq.read_table(path).to_pylist()]


def test_every_pair_has_a_status_that_the_truth_explains(finished: SmallRun) -> None:
    truth = {row["url"]: row["kind"] for row in pq.read_table(finished.root / "demo/truth.parquet").to_pylist()}
    found = rows(finished.root)
    source = [
        row
        for path in read_result(finished.root, "source_pairs").parquet("source_pairs")
        for row in pq.read_table(path).to_pylist()
    ]
    assert sorted(row["image_id"] for row in found) == sorted({row["image_id"] for row in source})
    expected = {"missing": "failed_to_download", "not_an_image": "failed_to_resize", "truncated": "failed_to_resize"}
    for row in found:
        assert row["status"] == expected.get(truth[row["url"]], "success"), row
        assert (row["error"] is None) == (row["status"] == "success")


def test_images_are_what_was_served_and_resized_as_asked(finished: SmallRun) -> None:
    captions: dict[int, list[str]] = {}
    for path in read_result(finished.root, "source_pairs").parquet("source_pairs"):
        for pair in sorted(pq.read_table(path).to_pylist(), key=lambda pair: pair["sample_id"]):
            captions.setdefault(pair["image_id"], []).append(pair["caption"])
    for row in [row for row in rows(finished.root) if row["status"] == "success"][:40]:
        served = finished.root / "demo" / "images" / row["url"].rpartition("/")[2]
        assert row["sha256"] == hashlib.sha256(served.read_bytes()).hexdigest()
        with tarfile.open(finished.root / "images" / f"{row['shard']}.tar") as tar:
            content = tar.extractfile(f"{row['key']}.jpg").read()
            assert tar.extractfile(f"{row['key']}.txt").read().decode() == captions[row["image_id"]][0]
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (row["width"], row["height"])
            assert min(image.size) <= 64


@pytest.mark.slow
def test_truncated_shard_is_fetched_again_and_nothing_else(copied: SmallRun) -> None:
    before = rows(copied.root)
    tar = copied.root / "images" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    result = run_images(copied.settings)
    assert result.computed == 1
    assert rows(copied.root) == before


@pytest.mark.slow
def test_killed_download_goes_on_where_it_was(finished: SmallRun, tmp_path: Path) -> None:
    settings = small_settings(tmp_path / "root", images={"processes": 1})
    run_source(settings)
    script = (
        "import sys; from tests.conftest import *; from pathlib import Path\n"
        "run_images(small_settings(Path(sys.argv[1]), images={'processes': 1}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(settings.path)], env={**os.environ, "PYTHONPATH": "."}
    )
    mark = settings.path / ".marks" / "images" / "00000.json"
    deadline = time.monotonic() + 300
    while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert mark.exists()
    result = run_images(settings)
    assert result.computed < result.shards
    assert rows(settings.path) == rows(finished.root)


@pytest.mark.slow
def test_unreachable_hosts_are_failures_not_errors(tmp_path: Path) -> None:
    from pipeline.download.stage import download_images
    from pipeline.source.config import SourceConfig
    from pipeline.source.stage import import_pairs

    (tmp_path / "list.csv").write_text("URL,TEXT\nhttp://127.0.0.1:9/x.jpg,a\nhttp://[::1]:9/x.jpg,b\n")
    settings = small_settings(tmp_path / "root")
    config = SourceConfig(lists=[str(tmp_path / "list.csv")])
    import_pairs(settings.path, config, settings.query, lists=config.lists)
    assert download_images(settings.path, settings.images).stats == {"downloaded": 0, "failed": 2, "refused_address": 2}
    assert all("not public" in row["error"] for row in rows(settings.path))


def test_a_downloader_that_dies_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(tmp_path / "root")
    run_source(settings)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DownloadError, match="ended with status 1 before shards"):
        run_images(settings)
    assert not list(settings.path.glob("images/*"))
