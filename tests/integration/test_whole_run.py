"""The commands that users and their CI run, on a small corpus: a whole job, again, with another threshold, killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import schema
from pipeline.store import read_result
from tests.conftest import SMALL, small_settings

PROJECT = Path(__file__).resolve().parents[2]
STAGES = tuple(
    "demo source_pairs images teacher teacher_embeddings near_duplicates balance clusters training_shards "
    "student baseline evaluation".split()
)
TABLES = tuple(
    "source_pairs images teacher_embeddings near_duplicates balance_groups balanced_pairs removed_pairs centroids "
    "cluster_assignments training_metrics evaluation".split()
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Job:
    """`dagster job execute` in a folder of its own, so that runs and history of the checkout are left alone."""

    def __init__(self, folder: Path, **changes: Any):
        self.folder, self.root = folder, folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        self.configure(**changes)

    def configure(self, **changes: Any) -> None:
        settings = small_settings(self.root, **changes).model_dump(mode="json")
        (self.folder / "run.yaml").write_text(yaml.safe_dump({"resources": {"settings": {"config": settings}}}))

    def start(self, job: str = "clip_cid") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "assets.definitions", "-j", job]
        environment = {key: value for key, value in os.environ.items() if key != "DAGSTER_HOME"}
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [*command, "-c", "run.yaml"],
                cwd=self.folder,
                env={**environment, "PYTHONPATH": str(PROJECT)},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                # pytest started in the background would pass on SIGINT as ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def run(self, job: str = "clip_cid") -> str:
        status = self.start(job).wait()
        output = (self.folder / "output.txt").read_text()
        assert status == 0, output[-6000:]
        return output

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


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = Job(tmp_path_factory.mktemp("reference"))
    job.run()
    return job


def test_first_run_makes_every_table_and_remembers_it(reference: Job) -> None:
    connection = duckdb.connect()
    connection.execute((reference.root / "catalog.sql").read_text())
    for table in TABLES:
        assert connection.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0] > 0, table
    models = {row["model"] for row in pq.read_table(reference.root / "evaluation").to_pylist()}
    assert models == {"teacher", "student", "baseline"}
    assert (reference.folder / ".dagster" / "storage").is_dir()
    assert not [path for path in reference.root.rglob("*") if ".tmp/" in str(path) and path.is_file()]


def test_unchanged_second_run_recomputes_nothing(reference: Job) -> None:
    before, tables = reference.marks(), reference.tables()
    started = time.monotonic()
    reference.run()
    assert time.monotonic() - started <= 40
    assert reference.marks() == before
    assert reference.tables() == tables


def test_changed_threshold_recomputes_from_the_balance_on(reference: Job, tmp_path: Path) -> None:
    import shutil

    job = Job(tmp_path / "job")
    shutil.copytree(reference.root, job.root)
    before = job.marks()
    job.configure(balance={"target_removal": 0.4})
    job.run()
    changed = {stage for stage, moment in job.marks().items() if moment != before[stage]}
    # The list lies elsewhere in the copy, so it is read again; nothing follows, since the same comes out.
    assert changed - {"source_pairs"} == {"balance", "clusters", "training_shards", "student", "evaluation"}


@pytest.mark.parametrize("stage", ["images"])
def test_killed_anywhere_and_started_again_gives_the_same_tables(reference: Job, tmp_path: Path, stage: str) -> None:
    job = Job(tmp_path / "job")
    process = job.start()
    # Work on the stage has begun once its folder of marks is there; the student is killed after its first checkpoint.
    begun = job.root / ".marks" / stage
    if stage == "student":
        begun = job.root / "runs" / "student" / "checkpoints" / "step-3" / "complete.json"
    deadline = time.monotonic() + 240
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert begun.exists(), (job.folder / "output.txt").read_text()[-4000:]
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, [child.cmdline() for child in alive]
    job.run()
    assert job.tables() == reference.tables()


def test_two_runs_at_once_share_one_root(reference: Job, tmp_path: Path) -> None:
    jobs = [Job(tmp_path / name) for name in ("a", "b")]
    jobs[1].root = jobs[0].root
    jobs[1].configure()
    processes = [job.start("curate") for job in jobs]
    assert [process.wait() for process in processes] == [0, 0], (jobs[1].folder / "output.txt").read_text()[-4000:]
    assert pq.read_table(jobs[0].root / "balanced_pairs").equals(pq.read_table(reference.root / "balanced_pairs"))


def test_failed_blocking_check_stops_the_job(reference: Job, tmp_path: Path) -> None:
    import shutil

    job = Job(tmp_path / "job", checks={"min_success_rate": 1.0})
    shutil.copytree(reference.root, job.root)
    assert job.start("curate").wait() == 1
    assert "enough_downloaded" in (job.folder / "output.txt").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balance": {"target_removal": 0.999}}, "out of reach"),
        ({"clusters": {"clusters": 100_000}}, "100000 clusters asked of"),
        ({"source": {"lists": ["missing.parquet"]}}, "no such file"),
        ({"evaluation": {"datasets": ["missing"]}}, "no folder"),
    ],
)
def test_bad_input_fails_with_a_sentence(reference: Job, tmp_path: Path, changes: dict, message: str) -> None:
    import shutil

    job = Job(tmp_path / "job", **changes)
    shutil.copytree(reference.root, job.root)
    assert job.start().wait() == 1
    assert message in (job.folder / "output.txt").read_text()


def test_root_that_cannot_be_written(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    (tmp_path / "file").write_text("")
    config = {
        "resources": {"settings": {"config": {**json.loads(json.dumps(SMALL)), "root": str(tmp_path / "file/x")}}}
    }
    (job.folder / "run.yaml").write_text(yaml.safe_dump(config))
    assert job.start("curate").wait() == 1
    assert "cannot be written" in (job.folder / "output.txt").read_text()


def test_student_export_loads_in_plain_open_clip(reference: Job, tmp_path: Path) -> None:
    script = (
        "import sys, json, open_clip, safetensors.torch\n"
        "folder = sys.argv[1]\n"
        "model, _, preprocess = open_clip.create_model_and_transforms('local-dir:' + folder)\n"
        "plain = open_clip.CLIP(**json.load(open(folder + '/open_clip_config.json'))['model_cfg'])\n"
        "plain.load_state_dict(safetensors.torch.load_file(folder + '/open_clip_model.safetensors'))\n"
        "assert 'pipeline' not in sys.modules and 'training' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(reference.root / "student")], cwd=tmp_path, check=True)
    assert read_result(reference.root, "student").rows == SMALL["student"]["steps"]
