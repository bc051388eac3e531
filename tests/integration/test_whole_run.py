"""The commands that users and their CI run, on a small corpus: a whole job, again, another threshold, bad input."""

import json
import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.storage.result import read_result
from tests.conftest import SMALL
from tests.integration.job import STAGES, TABLES, Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_first_run_makes_every_table_and_remembers_it(reference: Job) -> None:
    connection = duckdb.connect()
    connection.execute((reference.root / "catalog.sql").read_text())
    for table in TABLES:
        assert connection.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0] > 0, table
    models = {row["model"] for row in pq.read_table(reference.root / "evaluation").to_pylist()}
    assert models == {"teacher", "student", "baseline"}
    assert (reference.folder / ".dagster" / "storage").is_dir()
    assert not [path for path in reference.root.rglob("*") if ".tmp/" in str(path) and path.is_file()]


def test_unchanged_second_run_recomputes_nothing(reference: Job, tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    shutil.copytree(reference.root, job.root)
    before, tables, pictures = job.marks(), job.tables(), job.pictures()
    job.watch_modules()
    output = job.run()
    # The end says what there is; nobody is warned of what had not to be done, and nothing is said twice.
    lines = output.splitlines()
    assert lines[-1].endswith(f" report: {job.root}/report.html") and (job.root / "report.html").is_file()
    assert lines[-2].startswith("Next: ") and f"Tables: duckdb -init {job.root}/catalog.sql" in lines[-6:]
    assert "WARNING" not in output and "INFO:" not in output and "[pipes]" not in output
    assert job.marks() == before
    assert job.tables() == tables
    # Nothing is drawn, and no model is loaded: these would take most of the time.
    assert job.pictures() == pictures
    assert not job.loaded_modules() & {"torch", "open_clip", "matplotlib", "faiss"}


def test_changed_threshold_recomputes_from_the_balance_on(reference: Job, tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    shutil.copytree(reference.root, job.root)
    before = job.marks()
    job.configure(balance={"target_removal": 0.4})
    job.run()
    changed = {stage for stage, moment in job.marks().items() if moment != before[stage]}
    assert changed == {"balance", "clusters", "training_shards", "student", "evaluation"}


def test_two_runs_at_once_share_one_root(reference: Job, tmp_path: Path) -> None:
    jobs = [Job(tmp_path / name) for name in ("a", "b")]
    jobs[1].root = jobs[0].root
    jobs[1].configure()
    # From the search on: what comes before is done once for all tests, and who works on a stage locks it alike in all.
    shutil.copytree(reference.root, jobs[0].root)
    for stage in STAGES[STAGES.index("near_duplicates") :]:
        shutil.rmtree(jobs[0].root / ".marks" / stage)
    processes = [job.start("curate") for job in jobs]
    assert [process.wait() for process in processes] == [0, 0], jobs[1].output()[-4000:]
    assert pq.read_table(jobs[0].root / "balanced_pairs").equals(pq.read_table(reference.root / "balanced_pairs"))


def test_failed_blocking_check_stops_the_job(reference: Job, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", checks={"min_success_rate": 1.0})
    shutil.copytree(reference.root, job.root)
    assert job.start("curate").wait() == 1
    assert "enough_downloaded" in job.output()


def test_bad_input_fails_with_a_sentence(reference: Job, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", source={"lists": ["missing.parquet"]})
    # The teacher, which does not need the list, is there already.
    shutil.copytree(reference.root, job.root)
    assert job.start().wait() == 1
    assert "list 'missing.parquet': no such file" in job.output()


def test_root_that_cannot_be_written(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    (tmp_path / "file").write_text("")
    config = {
        "resources": {"settings": {"config": {**json.loads(json.dumps(SMALL)), "root": str(tmp_path / "file/x")}}}
    }
    (job.folder / "run.yaml").write_text(yaml.safe_dump(config))
    assert job.start("curate").wait() == 1
    assert "cannot be written" in job.output()


def test_student_export_loads_in_plain_open_clip(reference: Job) -> None:
    """Both ways; that no code of this project is needed for it is seen where ranks write an export."""
    import open_clip
    from safetensors.torch import load_file

    folder = reference.root / "student"
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    plain = open_clip.CLIP(**json.loads((folder / "open_clip_config.json").read_text())["model_cfg"])
    plain.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    assert all(model.state_dict()[name].equal(value) for name, value in plain.state_dict().items())
    assert read_result(reference.root, "student").rows == SMALL["student"]["steps"]
