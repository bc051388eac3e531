"""What is killed, hangs, or has no room left: the stage says so, and the next run ends with the same tables."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import DownloadError, StorageError
from pipeline.core.query import QueryConfig
from pipeline.core.tars import index_tar
from pipeline.download import watchdog
from pipeline.download.config import ImagesConfig
from pipeline.download.jpeg_scans import MOST_SCANS
from pipeline.download.stage import download_images
from pipeline.source.stage import import_pairs
from pipeline.storage.result import read_result
from tests.pipeline.download.hostile import GATE, WEB, Hostile, _Handler, hostile_server
from tests.pipeline.download.pictures import jpeg_of_scans
from tests.pipeline.download.test_hostile import write_list

pytestmark = pytest.mark.slow

PAIRS, PER_SHARD = 205, 40
# The last shard is so short that its keys would be, if their width followed from what is left to do.


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile_server() as running:
        yield running


def config_for(server: Hostile, **changes: Any) -> ImagesConfig:
    values = {"connect_to": server.connect_to, "threads": 4, "processes": 1, "timeout_s": 5, "sample_timeout_s": 20}
    return ImagesConfig(**(values | changes))


def make_pairs(root: Path, paths: list[str]) -> None:
    """An image of its own for each path, however often that stands there."""
    root.parent.mkdir(parents=True, exist_ok=True)
    pairs = [(f"http://{WEB}{path}?image={number}", f"pair {number}") for number, path in enumerate(paths)]
    source = write_list(root.parent / f"{root.name}.parquet", pairs).model_copy(update={"samples_per_shard": PER_SHARD})
    import_pairs(root, source, QueryConfig(), lists=source.lists)


def number_of(row: dict[str, Any]) -> int:
    return int(row["url"].partition("?image=")[2])


def captions(root: Path) -> dict[int, list[str]]:
    """The captions of each image, by their ids."""
    found: dict[int, list[str]] = {}
    for path in read_result(root, "source_pairs").parquet("source_pairs"):
        for row in sorted(pq.read_table(path).to_pylist(), key=lambda row: row["sample_id"]):
            found.setdefault(row["image_id"], []).append(row["caption"])
    return found


def tables(root: Path) -> list[dict[str, Any]]:
    return [row for path in read_result(root, "images").parquet("images") for row in pq.read_table(path).to_pylist()]


def assert_whole(root: Path) -> None:
    """Every tar that is there can be read to its end and agrees with its table; nothing temporary is left."""
    for tar in (root / "images").glob("*.tar"):
        table = pq.read_table(tar.with_suffix(".parquet")).to_pylist()
        assert index_tar(tar)["image_id"].to_pylist() == [
            row["image_id"] for row in table if row["status"] == "success"
        ]
    assert not list((root / ".tmp").glob("images/staging-*"))


@pytest.fixture(scope="module")
def expected(server: Hostile, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The tables of an undisturbed run."""
    root = tmp_path_factory.mktemp("undisturbed") / "root"
    make_pairs(root, PATHS)
    download_images(root, config_for(server))
    return tables(root)


PATHS = ["/good" if number % 7 else "/missing" for number in range(PAIRS)]


class Background:
    """The stage in a process of its own, to be killed."""

    def __init__(self, root: Path, config: ImagesConfig, prepare: Callable[[], None] | None = None):
        script = (
            "import sys; from pathlib import Path\n"
            "from pipeline.download import ImagesConfig, download_images\n"
            "if __name__ == '__main__':\n"
            "    download_images(Path(sys.argv[1]), ImagesConfig.model_validate_json(sys.argv[2]))"
        )
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(root), config.model_dump_json()],
            env={**os.environ, "PYTHONPATH": "."},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,
        )

    def wait_for(self, met: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline:
            if found := met():
                return found
            time.sleep(0.01)
        self.process.kill()
        raise AssertionError(f"{what} did not happen: {self.process.communicate()[1]}")

    def kill_worker_at_gate(self, server: Hostile) -> None:
        """SIGKILL the one worker while it waits for ``/gate``; then open the gate."""
        asked = server.requests.count("/gate")
        self.wait_for(lambda: server.requests.count("/gate") > asked, "a request for /gate")
        beat = self.wait_for(lambda: list((self.root / ".tmp" / "images").glob("staging-*/*.beat")), "a beat")[0]
        os.kill(json.loads(beat.read_text())["process"], signal.SIGKILL)
        GATE.set()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors


@pytest.fixture
def gate() -> Iterator[None]:
    GATE.clear()
    yield
    GATE.set()


@pytest.mark.usefixtures("gate")
def test_a_killed_worker_is_replaced(server: Hostile, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    root = tmp_path / "root"
    # Other URLs have other ids, so compared are the statuses and what the tars hold.
    make_pairs(root, ["/gate", *PATHS[1:]])
    stage = Background(root, config_for(server, timeout_s=60, sample_timeout_s=60))
    stage.kill_worker_at_gate(server)
    status, errors = stage.end()
    assert status == 0, errors
    assert_whole(root)
    found = {number_of(row): row["status"] for row in tables(root)}
    assert len(found) == PAIRS
    assert found == {number_of(row): row["status"] for row in expected} | {0: "success"}


@pytest.mark.usefixtures("gate")
def test_a_worker_that_is_killed_too_often_ends_the_stage(server: Hostile, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_pairs(root, ["/gate"])
    stage = Background(root, config_for(server, worker_restarts=0, timeout_s=60, sample_timeout_s=60))
    stage.kill_worker_at_gate(server)
    status, errors = stage.end()
    assert status != 0
    assert "DownloadError: shard 00000: its worker was killed, and was lost 1 times" in errors
    assert not list((root / "images").glob("*.tar"))


def test_a_killed_stage_leaves_no_process_and_goes_on(
    server: Hostile, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    root = tmp_path / "root"
    make_pairs(root, PATHS)
    stage = Background(root, config_for(server))
    stage.wait_for(lambda: list((root / ".marks" / "images").glob("0*.json")), "a shard done")
    family = psutil.Process(stage.process.pid).children(recursive=True)
    stage.process.send_signal(signal.SIGKILL)
    stage.process.communicate()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert download_images(root, config_for(server)).computed <= PAIRS // PER_SHARD
    assert tables(root) == expected
    assert_whole(root)


def test_a_hang_ends_with_what_hung(server: Hostile, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_pairs(root, ["/good"] * PER_SHARD + ["/drip"] * PER_SHARD)
    config = config_for(server, stall_timeout_s=3, sample_timeout_s=300, threads=8)
    with pytest.raises(
        DownloadError, match=rf"no progress for \d+ s .*at work: 0000\d \(\d+ samples.* asking {WEB} x\d"
    ):
        download_images(root, config)
    assert_whole(root)


def test_a_sample_that_keeps_its_worker_busy_fails_alone(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As many scans as are allowed, each over 64 megapixels: ten seconds of libjpeg. The next attempt knows better."""
    root = tmp_path / "root"
    monkeypatch.setitem(_Handler.files, "/slow", jpeg_of_scans(MOST_SCANS, side=8000))
    monkeypatch.setattr(watchdog, "_GRACE_S", 1.0)
    make_pairs(root, ["/good"] * 15 + ["/slow"] + ["/good"] * (PER_SHARD - 16))
    result = download_images(root, config_for(server, sample_timeout_s=2, worker_restarts=1))
    assert result.stats == {"downloaded": PER_SHARD - 1, "failed": 1, "failed_in_worker": 1}
    [failed] = [row for row in tables(root) if row["status"] != "success"]
    assert (failed["url"], failed["error"]) == (f"http://{WEB}/slow?image=15", "decoding did not end in time: 2 s")
    assert f"decoding sample {failed['image_id']} (http://{WEB}/slow?image=15)" in caplog.text
    assert_whole(root)


def test_bad_shards_in_a_row_stop_the_stage_and_do_not_count_as_done(
    server: Hostile, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    root = tmp_path / "root"
    make_pairs(root, PATHS)
    lost = {name: address for name, address in server.connect_to.items() if name != WEB}
    config = config_for(server, connect_to=lost, bad_shards=2, threads=16)
    with pytest.raises(
        DownloadError, match=r"2 shards in a row.*DNS is the cause: of 1 hosts .* host not found \(80\)"
    ):
        download_images(root, config)
    assert not list((root / "images").glob("*.tar"))
    download_images(root, config_for(server))
    assert tables(root) == expected


def test_bad_shards_between_good_ones_are_published(server: Hostile, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_pairs(root, ["/missing"] * PAIRS)
    result = download_images(root, config_for(server, bad_shards=PAIRS // PER_SHARD + 2))
    assert result.stats == {"downloaded": 0, "failed": PAIRS, "failed_to_download": PAIRS}


def test_limit_on_file_size_is_a_full_disk(server: Hostile, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    root = tmp_path / "root"
    make_pairs(root, PATHS)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    status, errors = Background(root, config_for(server), limit).end()
    assert status != 0
    assert "StorageError: no space left under" in errors
    assert not list((root / "images").glob("*.tar"))
    download_images(root, config_for(server))
    assert tables(root) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_disk_and_resume(server: Hostile, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed")
    try:
        root = disk / "root"
        make_pairs(root, PATHS)
        ballast = disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with ballast.open("r+b") as file:
            file.truncate(max(0, ballast.stat().st_size - 700_000))
        with pytest.raises(StorageError, match="no space left under"):
            download_images(root, config_for(server))
        assert_whole(root)
        ballast.unlink()
        download_images(root, config_for(server))
        assert tables(root) == expected
        assert_whole(root)
    finally:
        # Lazily: a worker that was just ended may still be on its way out.
        subprocess.run(["umount", "-l", disk], check=True)
