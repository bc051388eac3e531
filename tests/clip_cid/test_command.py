"""The command as a user meets it: what it prints, how it fails, what it leaves behind."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from assets.definitions import defs as code_location
from assets.jobs import JOBS as DAGSTER_JOBS
from clip_cid import __version__
from clip_cid.app import app
from clip_cid.commands.run import JOBS
from pipeline.balance.semantic_balance import semantic_balance
from pipeline.neighbors.between import near_pairs_between
from pipeline.neighbors.search import near_duplicate_forest
from tests.conftest import small_settings
from tests.integration.job import Job

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "clip_cid"]


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # pytest started in the background would pass on SIGINT as ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def call(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = start(folder, *arguments, **environment)
    out, err = process.communicate()
    return process.returncode, out, err


def call_here(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """The same in this process, which has loaded everything."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(app, arguments, prog_name="clip-cid")
    return result.exit_code, result.stdout, result.stderr


def refused(folder: Path, *arguments: str) -> str:
    """The line of a setting, option or file that is wrong."""
    code, out, err = call_here(folder, *arguments)
    assert code == 2 and out == "" and "Traceback" not in err, err
    return err.strip().splitlines()[-1]


def write_embeddings(path: Path, *, rows: int = 300, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, 16)).astype(np.float32)
    matrix[1::2] = matrix[::2] + 0.05 * random.normal(size=(rows // 2, 16)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), 16)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"sample_id": np.arange(rows), "image_embedding": vectors}), path)
    return path


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    for arguments in (["--help"], ["forest", "--help"], ["--version"]):
        code, out, err = call(tmp_path, *arguments, PYTHONPROFILEIMPORTTIME="1")
        loaded = set(re.findall(r"\| +([\w.]+)$", err, re.MULTILINE))
        assert code == 0 and out and "clip_cid.app" in loaded
        assert not loaded & {"torch", "dagster", "duckdb", "pyarrow", "numpy", "faiss", "rich"}
    assert out == f"clip-cid {__version__}\n"


def test_jobs_are_those_of_the_code_location() -> None:
    assert sorted(JOBS) == sorted(job.name for job in DAGSTER_JOBS)
    checked = {"images", "student", "baseline", "ablation_results"}
    for job in DAGSTER_JOBS:
        resolved = code_location.resolve_job_def(job.name).asset_layer.selected_asset_keys
        assert checked & {key.path[-1] for key in resolved} == set(JOBS[job.name]), job.name


def test_forest_and_balance_are_the_librarys(tmp_path: Path) -> None:
    files = write_embeddings(tmp_path / "embeddings" / "0.parquet")
    code, out, err = call(tmp_path, "forest", "embeddings", "forest.parquet", "--max-distance", "0.6")
    assert code == 0 and re.fullmatch(r"forest\.parquet: [\d,]+ edges of 300 images within 0\.6, .* s\n", out), err
    near_duplicate_forest(files, tmp_path / "expected.parquet", max_distance=0.6)
    assert pq.read_table(tmp_path / "forest.parquet").equals(pq.read_table(tmp_path / "expected.parquet"))
    arguments = ("balance", "embeddings", "forest.parquet", "balanced", "--threshold", "0.4")
    code, out, err = call(tmp_path, *arguments)
    report = semantic_balance(files, tmp_path / "expected.parquet", tmp_path / "expected", threshold=0.4)
    assert out.startswith(f"balanced: {report.kept} of 300 images kept at 0.4"), err
    for table in ("balance_groups", "removed_pairs"):
        name = f"{table}.parquet"
        assert pq.read_table(tmp_path / "balanced" / name).equals(pq.read_table(tmp_path / "expected" / name))
    assert "threshold" in refused(tmp_path, *arguments[:3], "other", "--rule", "random")
    assert refused(tmp_path, *arguments) == "clip-cid: balanced exists; --overwrite replaces it"
    code, out, _ = call_here(tmp_path, *arguments, "--overwrite", "--json")
    assert code == 0 and json.loads(out)["kept"] == report.kept
    assert {path.name for path in tmp_path.iterdir()} >= {"balanced", "forest.parquet"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_leaks_are_the_librarys(tmp_path: Path) -> None:
    a, b = (write_embeddings(tmp_path / name / "0.parquet", rows=rows) for name, rows in (("a", 40), ("b", 300)))
    table = pq.read_table(a)
    pq.write_table(table.rename_columns(["number", "vector"]), a)
    arguments = ("leaks", "a", "b", "out/leaks.parquet", "--id-column-a", "number", "--column-a", "vector")
    code, out, err = call_here(tmp_path, *arguments, "--max-distance", "0.3", "--json")
    near_pairs_between(a, b, tmp_path / "expected.parquet", max_distance=0.3, id_column_a="number", column_a="vector")
    expected = pq.read_table(tmp_path / "expected.parquet")
    assert code == 0 and json.loads(out)["near"] == expected.num_rows >= 40, err
    assert pq.read_table(tmp_path / "out" / "leaks.parquet").equals(expected)
    assert json.loads(out)["summary"].startswith(
        f"out/leaks.parquet: {expected.num_rows} pairs within 0.3 of 40 and 300"
    )
    assert refused(tmp_path, *arguments, "--max-distance", "0.3") == (
        "clip-cid: out/leaks.parquet exists; --overwrite replaces it"
    )
    assert "in (0, 2), the distances of unit vectors; got 2.0" in refused(
        tmp_path, *arguments, "--max-distance", "2", "--overwrite"
    )
    assert "--max-distance" in refused(tmp_path, *arguments)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_clusters_and_import(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "e" / "0.parquet")
    code, out, err = call(tmp_path, "clusters", "e", "clusters", "--clusters", "7", "--json")
    assert code == 0 and json.loads(out)["clusters"] == 7, err
    assert pq.read_table(tmp_path / "clusters" / "cluster_assignments.parquet").num_rows == 300
    source = PROJECT / "tests" / "pipeline" / "import_embeddings" / "clip_retrieval_output"
    code, out, err = call(tmp_path, "import", str(source), "root")
    assert code == 0 and "root: " in out and "embeddings (" in out, err
    assert list((tmp_path / "root" / "teacher_embeddings").glob("*.parquet"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["foresst"], "Error: No such command 'foresst'. Did you mean 'forest'?"),
        (["forest", "e", "f.parquet", "--max-distanse", "1"], "--max-distance"),
        (["forest", "nowhere", "f.parquet"], "does not exist"),
        (["forest", "e", "f.parquet", "--max-distance", "3"], "clip-cid: max_distance must lie in (0, 2)"),
        (["forest", "e", "f.parquet", "--memory-limit", "lots"], "memory_limit: Input should be a size"),
        (["clusters", "e", "out", "--clusters", "9999"], "9999 clusters asked of 300 images"),
        (["run", "clip_cit"], "clip-cid: no job 'clip_cit'; did you mean 'clip_cid'?"),
        (["run", "-c", "missing.yaml"], "does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    write_embeddings(tmp_path / "e" / "0.parquet")
    assert message in refused(tmp_path, *arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"e"}


def test_a_folder_without_embeddings_and_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no table")
    for name in ("empty", "text.parquet"):
        code, out, err = call_here(tmp_path, "forest", name, "forest.parquet")
        (line,) = [line for line in err.splitlines() if line.startswith("clip-cid: ")]
        assert code == 1 and out == "" and name in line and "Traceback" not in err
        code, _, err = call_here(tmp_path, "forest", name, "forest.parquet", "--json")
        assert json.loads(err.splitlines()[-1])["exit_code"] == code == 1
    assert "Traceback" in call(tmp_path, "forest", "text.parquet", "forest.parquet", "--debug")[2]


def test_interrupted_and_called_again(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "e" / "0.parquet", rows=60_000)
    arguments = ("forest", "e", "forest.parquet", "--max-distance", "0.4")
    process = start(tmp_path, *arguments)
    while not (tmp_path / ".forest.parquet.work").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and err.splitlines()[-1] == "clip-cid: interrupted"
    assert not (tmp_path / "forest.parquet").exists()
    code, out, err = call_here(tmp_path, *arguments)
    assert code == 0 and "of 60,000 images" in out, err
    assert {path.name for path in tmp_path.iterdir()} == {"e", "forest.parquet"}


def test_a_reader_that_goes_is_no_error_to_explain(tmp_path: Path) -> None:
    process = start(tmp_path, "config", "reference")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1


def test_no_color_and_no_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    code, out, err = call(tmp_path, "doctor", NO_COLOR="1", HOME=str(home))
    assert code == 0 and "\x1b" not in out + err and "cores" in out
    found = json.loads(call_here(tmp_path, "doctor", "--json")[1])
    assert found["clip-cid"]["version"] == __version__ and found["cpu"]["cores"] >= 1


def test_a_run_config_is_checked_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("resources:\n  settings:\n    config:\n      neighbors: {max_distance: 7}\n")
    line = refused(tmp_path, "run", "-c", "run.yaml")
    assert line.startswith("clip-cid: run.yaml:4: neighbors.max_distance: Input should be less than")
    assert {path.name for path in tmp_path.iterdir()} == {"run.yaml"}


def test_settings_that_contradict_each_other_are_refused_before_anything_starts(tmp_path: Path) -> None:
    student = "{model: ViT-B-32, precision: bf16, zero_stage: 0, batch_size: 32, ranks: 4, micro_batches: 3}"
    (tmp_path / "run.yaml").write_text(f"resources:\n  settings:\n    config:\n      student: {student}\n")
    for command in (["config", "validate", "run.yaml"], ["run", "-c", "run.yaml"]):
        text = refused(tmp_path, *command)
        assert "ranks x micro_batches, 4 x 3" in text and "student.precision bf16 needs ZeRO" in text
    assert not (tmp_path / "data").exists()


def test_export_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    code, _, err = call_here(tmp_path, "export", "onnx", "student", "out")
    assert code in (1, 2) and "clip-cid: " in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_runs_and_is_interrupted(reference: Job, tmp_path: Path) -> None:
    root = shutil.copytree(reference.root, tmp_path / "root")
    config = {"resources": {"settings": {"config": small_settings(root).model_dump(mode="json")}}}
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    code, out, err = call(tmp_path, "run", "curate", "-c", "run.yaml", "--json")
    assert code == 0 and json.loads(out)["root"] == str(root), err[-3000:]
    process = start(tmp_path, "run", "curate", "-c", "run.yaml")
    assert process.stderr is not None
    # As a terminal does, to the whole group; the job's own processes are in it.
    for line in process.stderr:
        if "RUN_START" in line:
            break
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    for pid in (*children.split(), process.pid):
        os.kill(int(pid), signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
