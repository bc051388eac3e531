"""The downloader as img2dataset's distributors treat it: pickled, sent away, called with one shard."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compute.config import ComputeConfig
from pipeline.download.config import ImagesConfig
from pipeline.download.supervisor import _write_job
from tests.pipeline.download.hostile import WEB, Hostile, hostile_server

# What a Ray or Spark worker does, in a process that has nothing of ours: no job file, no variable, another folder.
WORKER = """
import pickle, sys
from pipeline.download.stub_imports import leave_out_unused
leave_out_unused()
number, path = 3, sys.argv[2]
print(pickle.load(open(sys.argv[1], "rb"))((number, path)))
"""
PICKLER = """
import json, pathlib, pickle, sys
from pipeline.download.stub_imports import leave_out_unused
leave_out_unused()
from pipeline.download.worker import FetchJob, Lists, make_downloader
job = FetchJob(**json.loads(pathlib.Path(sys.argv[1]).read_text()))
pathlib.Path(sys.argv[2]).write_bytes(pickle.dumps(make_downloader(job)))
lists = Lists([tuple(shard) for shard in job.shards], pathlib.Path(job.staging) / "lists", 4)
print([path for _, path in lists][0])
"""


@pytest.fixture
def server() -> Iterator[Hostile]:
    with hostile_server() as running:
        yield running


@pytest.mark.slow
def test_the_guard_travels_inside_the_downloader(server: Hostile, tmp_path: Path) -> None:
    urls = [f"http://{WEB}/good", f"http://127.0.0.1:{server.port}/secret", f"http://{WEB}/noai", "file:///etc/passwd"]
    pairs = pa.table({"image_id": [1, 2, 3, 4], "url": urls, "caption": ["a", "b", "c", "d"]})
    staging = tmp_path / "staging"
    staging.mkdir()
    pq.write_table(pairs, tmp_path / "00003.parquet")
    config, lists = ImagesConfig(connect_to=server.connect_to), {"00003": tmp_path / "00003.parquet"}
    job = _write_job(staging, config, ComputeConfig(), lists, 4)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}

    def python(script: str, *arguments: Path | str) -> str:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    arrow = python(PICKLER, job, tmp_path / "downloader.pickle")
    job.unlink()
    assert python(WORKER, tmp_path / "downloader.pickle", arrow).startswith("(True")
    statuses = pq.read_table(staging / "00003.parquet").sort_by("image_id").to_pylist()
    assert [(row["error_message"] or "ok").partition("]")[0] for row in statuses] == [
        "ok",
        "[refused_address",
        "[opted_out",
        "[refused_address",
    ]
    assert not [path for path in server.requests if path.startswith("/secret")]
    assert not Path(arrow).exists()
