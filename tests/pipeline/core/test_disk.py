import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from pipeline.core.disk import storage_error, storage_errors
from pipeline.core.errors import DownloadError, StorageError
from pipeline.core.query import QueryConfig, connect

NUMBERS = np.random.default_rng(0).random(400_000)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def spill(path: Path) -> None:
    with connect(QueryConfig(memory_limit="60MB", threads=1), scratch=path.parent) as connection:
        connection.execute("CREATE TABLE t AS SELECT hash(range) AS h FROM range(20_000_000)")
        connection.execute("CREATE TABLE sorted AS FROM t ORDER BY h")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(NUMBERS.tobytes()),
        lambda path: pq.write_table(pa.table({"numbers": NUMBERS}), path),
        lambda path: np.save(path, NUMBERS),
        lambda path: np.savez(path, numbers=NUMBERS),
        lambda path: safetensors.numpy.save_file({"numbers": NUMBERS}, str(path)),
        spill,
    ],
    ids=["bytes", "parquet", "npy", "npz", "safetensors", "duckdb"],
)
def test_a_full_disk_is_the_same_error_whoever_writes(small_disk: Path, write: Callable[[Path], object]) -> None:
    path = small_disk / "numbers.npy"
    try:
        with pytest.raises(StorageError, match=f"no space left under {small_disk}"), storage_errors(small_disk):
            write(path)
    finally:
        for left in small_disk.iterdir():
            left.unlink()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.ECONNRESET])
def test_other_errors_of_the_system_stay_what_they_are(number: int) -> None:
    with pytest.raises(OSError, match="as it was") as raised, storage_errors("x"):
        raise OSError(number, "as it was")
    assert not isinstance(raised.value, StorageError)


def test_an_error_that_has_a_type_keeps_it_whatever_it_quotes() -> None:
    with pytest.raises(DownloadError), storage_errors("x"):
        raise DownloadError(f"its last lines: {os.strerror(errno.ENOSPC)}")


def test_what_is_no_full_disk_says_what_it_is() -> None:
    assert str(storage_error("x", OSError(errno.EIO, "broken"))) == "x cannot be written: [Errno 5] broken"
