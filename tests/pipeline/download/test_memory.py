"""The memory of a worker, as the kernel counts it, while a server sends it all that it can."""

import contextlib
import threading
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipeline.core.query import QueryConfig
from pipeline.download.config import ImagesConfig
from pipeline.download.stage import download_images
from pipeline.source.stage import import_pairs
from pipeline.storage.result import read_result
from tests.pipeline.download.test_hostile import write_list
from tests.pipeline.web.floods import FLOODS, HOST, flood_server

pytestmark = pytest.mark.slow

THREADS, MAX_BYTES = 8, 1_000_000
# A worker that fetches ordinary images takes about 210 MB, nearly all of it for the libraries that it imports.
CONSTANT = 260_000_000


class Peaks:
    """The most memory that each process below this one has had, while the block lasts."""

    def __enter__(self) -> "Peaks":
        self.bytes: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(OSError, IndexError):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    self.bytes[process.pid] = int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's count is read from /proc")
def test_a_worker_stays_within_its_bound(tmp_path: Path) -> None:
    root = tmp_path / "root"
    paths = [path for path in FLOODS for _ in range(2)]
    source = write_list(
        tmp_path / "list.parquet", [(f"http://{HOST}{path}?image={n}", f"{n} {path}") for n, path in enumerate(paths)]
    )
    import_pairs(root, source, QueryConfig(), lists=source.lists)
    with flood_server() as server, Peaks() as peaks:
        config = ImagesConfig(
            connect_to={HOST: server.address}, max_bytes=MAX_BYTES, threads=THREADS, processes=1, bad_shards=0
        )
        download_images(root, config)
    assert max(peaks.bytes.values()) < THREADS * 3 * MAX_BYTES + CONSTANT, peaks.bytes
    [table] = read_result(root, "images").parquet("images")
    rows = pq.read_table(table).to_pylist()
    assert len(rows) == len(paths)
    for row in rows:
        flood = FLOODS[row["url"].partition(HOST)[2].partition("?image=")[0]]
        assert (row["status"], row["error"].partition(": ")[0]) == (flood.status, flood.reason), row["url"]
