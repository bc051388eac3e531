"""A finished root that may only be read, mounted so: permissions do not bind root, who may run the tests."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core import parquet, query
from pipeline.core.errors import StorageError
from pipeline.core.query import QueryConfig
from pipeline.storage.result import read_result
from pipeline.storage.stage import Output, Stage
from pipeline.storage.verify import verify_root


def stage(root: Path, value: int = 1) -> Stage:
    return Stage(root, "numbers", version=1, config=value, inputs={"a": 1})


def write(output: Output) -> None:
    parquet.write_table(pa.table({"value": [1]}), output.path("numbers/a.parquet"))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """The same files under another path, so that the root has moved, too."""
    made, mounted = tmp_path / "made", tmp_path / "mounted"
    stage(made).each(write)
    mounted.mkdir()
    commands = (["mount", "--bind", made, mounted], ["mount", "-o", "remount,bind,ro", mounted])
    if os.geteuid() or any(
        subprocess.run(command, check=False, capture_output=True).returncode for command in commands
    ):
        subprocess.run(["umount", "-l", mounted], check=False, capture_output=True)
        pytest.skip("mounting is not allowed")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


def test_it_can_be_run_again_queried_and_verified(read_only: Path) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "new").touch()
    assert stage(read_only).each(write).computed == 0
    files = query.files(read_result(read_only, "numbers").parquet("numbers"))
    with query.connect(QueryConfig(), scratch=read_only / ".tmp") as connection:
        assert query.one(connection, "SELECT sum(value) AS sum FROM read_parquet($files)", {"files": files}) == {
            "sum": 1
        }
    assert verify_root(read_only).damage == []


def test_what_is_to_do_there_is_a_storage_error(read_only: Path) -> None:
    with pytest.raises(StorageError, match=f"root {read_only} cannot be written: .*Read-only"):
        stage(read_only, value=2).each(write)
