"""What many tests read and none changes is made once, also where several processes share the tests."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name`` that ``make`` fills; whoever comes first does so, the others wait for it."""
    base = factory.getbasetemp()
    # Each worker of pytest-xdist has its own folder in the one of the whole run.
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def plain_embeddings(root: Path, folder: Path) -> None:
    """The image embeddings of a root as a user's folder of embeddings has them, whose ids are ``sample_id``."""
    import pyarrow.parquet as pq

    folder.mkdir()
    for path in sorted((root / "teacher_embeddings").glob("*.parquet")):
        table = pq.ParquetFile(path).read()
        pq.write_table(table.rename_columns(["sample_id", *table.column_names[1:]]), folder / path.name)
