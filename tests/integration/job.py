"""A whole job as a user starts it, and what it leaves behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import yaml

from pipeline.core import schema
from pipeline.core.files import file_digest
from tests.conftest import small_settings

PROJECT = Path(__file__).resolve().parents[2]
STAGES = tuple(
    "demo source_pairs images teacher teacher_embeddings near_duplicates balance clusters training_shards "
    "student baseline evaluation".split()
)
# Read by every Python that starts with this folder on its path.
_WATCH = """\
import atexit, os, sys
atexit.register(lambda: open(f"{os.path.dirname(__file__)}/{os.getpid()}.modules", "w").write("\\n".join(sys.modules)))
"""
MODELS = ("teacher", "student", "baseline")
TABLES = tuple(
    "source_pairs images teacher_embeddings near_duplicates balance_groups balanced_pairs removed_pairs centroids "
    "cluster_assignments training_metrics evaluation cluster_accuracy".split()
)


class Job:
    """`dagster job execute` in a folder of its own, so that runs and history of the checkout are left alone."""

    def __init__(self, folder: Path, **changes: Any):
        self.folder, self.root = folder, folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        self.configure(**changes)

    def configure(self, **changes: Any) -> None:
        self.configure_with(small_settings(self.root, **changes).model_dump(mode="json"))

    def configure_with(self, settings: dict[str, Any]) -> None:
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "run.yaml").write_text(yaml.safe_dump({"resources": {"settings": {"config": settings}}}))

    def start(self, job: str = "clip_cid") -> subprocess.Popen[str]:
        command = ["dagster", "job", "execute", "-m", "assets.definitions", "-j", job, "-c", "run.yaml"]
        return self._start(command)

    def start_stages(self, *last: str) -> subprocess.Popen[str]:
        """The same work in one process without Dagster, which takes seconds less to begin; up to the stage ``last``."""
        return self._start(["tests.integration.stages", "settings.json", *last])

    def _start(self, module: list[str]) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if key != "DAGSTER_HOME"}
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=self.folder,
                env={**environment, "PYTHONPATH": f"{self.folder / 'watch'}:{PROJECT}"},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                # pytest started in the background would pass on SIGINT as ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def run(self, job: str = "clip_cid") -> str:
        status = self.start(job).wait()
        assert status == 0, self.output()[-6000:]
        return self.output()

    def watch_modules(self) -> None:
        """From now on, note which modules the runs in this folder load."""
        (self.folder / "watch").mkdir()
        (self.folder / "watch" / "sitecustomize.py").write_text(_WATCH)

    def loaded_modules(self) -> set[str]:
        noted = list((self.folder / "watch").glob("*.modules"))
        assert noted
        return {name for path in noted for name in path.read_text().splitlines()}

    def output(self) -> str:
        """What the last run in this folder has printed."""
        return (self.folder / "output.txt").read_text()

    def tables(self) -> dict[str, list[dict]]:
        """All rows of all tables, without what no two runs share."""
        files = {table: sorted((self.root / table).glob("*.parquet")) for table in TABLES}
        rows = {
            table: [row for path in paths for row in pq.read_table(path).to_pylist()] for table, paths in files.items()
        }
        for row in rows["training_metrics"]:
            for name in schema.MACHINE_METRICS:
                row.pop(name)
        return rows

    def marks(self) -> dict[str, float]:
        paths = {stage: self.root / ".marks" / stage / "complete.json" for stage in STAGES}
        return {stage: path.stat().st_mtime_ns for stage, path in paths.items()}

    def assert_equals(self, other: "Job") -> None:
        """Tables in the order in which they are made, so that the first that differs is the one that is named."""
        mine, theirs = self.tables(), other.tables()
        for table in TABLES:
            assert mine[table] == theirs[table], f"{table} differs"
        assert self.weights() == other.weights()

    def pictures(self) -> dict[str, float]:
        return {path.name: path.stat().st_mtime_ns for path in (self.root / "pictures").iterdir()}

    def weights(self) -> dict[str, str]:
        """A digest of every trained model."""
        return {model: file_digest(self.root / model / "open_clip_model.safetensors") for model in MODELS}

    def processes(self) -> list[psutil.Process]:
        """Everything that was started by a run in this folder and still lives, orphans included: all of it works in
        the folder."""
        found = []
        for process in psutil.process_iter(["cwd", "status"]):
            ended = process.info["status"] == psutil.STATUS_ZOMBIE
            if process.info["cwd"] == str(self.folder.resolve()) and not ended:
                found.append(process)
        return found

    def at_work(self, *parts: str) -> list[psutil.Process]:
        """Processes with all of ``parts`` on their command line; Dagster alone has some of its own."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                found += [process] if all(part in line for part in parts) else []
        return found

    def assert_no_process_stays(self, within_s: float = 60) -> None:
        _, alive = psutil.wait_procs(self.processes(), timeout=within_s)
        alive += [process for process in self.processes() if process not in alive]
        assert not alive, [process.cmdline() for process in alive]
