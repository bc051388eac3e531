"""Real runs: DeepSpeed's launcher, two ranks, tiny shards."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from pipeline.core import schema
from pipeline.core.errors import ConfigError, NonFiniteLossError, ShardError, StorageError, TrainingError
from tests.training.conftest import STEPS, WholeRun, with_steps
from training import train
from training.config import EvaluateConfig
from training.evaluation.run import evaluate as evaluate_models
from training.export.check import export_cosine
from training.job.metrics import is_evaluation
from training.job.training_job import TrainingJob
from training.launch.launcher import TrainingResult, _devices, _raise_failure, run_training

PROJECT = Path(__file__).parents[3]


def _processes(job: TrainingJob) -> list[psutil.Process]:
    """Launcher and ranks of a run, by the job file on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(job.output / "job.json") in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _all_end(job: TrainingJob, within_s: float) -> bool:
    """Sooner than a grace period could be over, which is 30 s at least."""
    deadline = time.monotonic() + within_s
    while _processes(job) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not _processes(job)


def _metrics(result: TrainingResult) -> list[dict[str, Any]]:
    return pq.read_table(result.metrics).drop_columns(list(schema.MACHINE_METRICS)).to_pylist()


@pytest.mark.slow
def test_two_ranks_train_and_report(uninterrupted: WholeRun) -> None:
    whole_run, handed_on = uninterrupted
    rows = pq.read_table(whole_run.metrics).to_pylist()
    assert handed_on == rows, "every row was handed on while the run went on"
    assert [row["step"] for row in rows] == [1, *range(2, STEPS + 1, 2)]
    assert list(rows[0])[:4] == ["step", "samples_seen", "loss", "contrastive"]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert (whole_run.steps, whole_run.resumed_from) == (STEPS, 0)


@pytest.mark.slow
def test_the_export_loads_with_plain_open_clip(whole_run: TrainingResult, tmp_path: Path) -> None:
    """In another process and folder, without this project; both ways to load give equal embeddings."""
    script = """
import json, sys, torch, open_clip
from safetensors.torch import load_file
folder = sys.argv[1]
a, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
config = json.load(open(folder + "/open_clip_config.json"))
json.dump(config["model_cfg"], open("plain-student.json", "w"))
open_clip.add_model_config("plain-student.json")
b = open_clip.create_model("plain-student")
b.load_state_dict(load_file(folder + "/open_clip_model.safetensors"))
tokens = open_clip.get_tokenizer("local-dir:" + folder)(["a picture of one"])
torch.manual_seed(0)
image = torch.randn(2, 3, 32, 32)
with torch.no_grad():
    for model in (a.eval(), b.eval()):
        print(json.dumps([model.encode_image(image).tolist(), model.encode_text(tokens).tolist()]))
print(preprocess.transforms[0].size, "training" in sys.modules or "pipeline" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", script, str(whole_run.export)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    one, other, facts = done.stdout.strip().splitlines()
    assert one == other and facts == "32 False"
    state = load_file(whole_run.export / "open_clip_model.safetensors")
    assert not any(name.startswith("projection") for name in state)
    assert state["logit_scale"].shape == ()


@pytest.mark.slow
def test_a_run_that_is_measured_killed_and_resumed_trains_the_same_weights(
    job: TrainingJob, whole_run: TrainingResult, images: Path, tmp_path: Path
) -> None:
    """On two ranks, of which none stays; exported are the weights of the best step, though a later one was trained."""
    evaluate = EvaluateConfig(datasets=[str(images)], tasks=["zero_shot", "retrieval"])
    measure = "retrieval/shapes/image_to_text_recall@10"
    run = with_steps(job, tmp_path / "run", evaluate=evaluate, evaluate_every=4, keep_best=measure)
    seen: list[dict[str, Any]] = []

    def kill_launcher(row: dict[str, Any]) -> None:
        seen.append(row)
        if is_evaluation(row) and row["step"] >= 20:
            for process in _processes(run):
                with contextlib.suppress(psutil.Error):
                    if "deepspeed.launcher.launch" in process.cmdline():
                        process.send_signal(signal.SIGKILL)

    with pytest.raises(TrainingError, match="status -9"):
        run_training(run, on_metrics=kill_launcher)
    assert _all_end(run, within_s=25)
    # Another way to load the same samples changes nothing.
    result = run_training(with_steps(run, run.output, loader_workers=1), on_metrics=seen.append)
    assert 16 <= result.resumed_from < STEPS

    trained = load_file(run.checkpoints / f"step-{STEPS}" / "state.safetensors")
    expected = load_file(whole_run.export / "open_clip_model.safetensors")
    for name, value in expected.items():
        assert trained[f"weight/model.{name}"].reshape(value.shape).equal(value), name
    assert _metrics(result) == _metrics(whole_run)

    assert result.evaluations
    rows = pq.read_table(result.evaluations).to_pylist()
    assert sorted({row["step"] for row in rows}) == list(range(4, STEPS + 1, 4))
    assert {row["step"] for row in seen if is_evaluation(row)} == set(range(4, STEPS + 1, 4)), "handed on live"
    values = {row["step"]: row["value"] for row in rows if row["metric"] == measure.rpartition("/")[2]}
    assert result.exported_step == max(values, key=lambda step: (values[step], -step))
    for row in evaluate_models({"student": result.export}, [images], evaluate.tasks).to_pylist():
        (one,) = [
            other["value"]
            for other in rows
            if other["step"] == result.exported_step
            and (other["task"], other["metric"]) == (row["task"], row["metric"])
        ]
        assert row["value"] == pytest.approx(one), row["metric"]
    assert export_cosine(result.export) > 0.9999
    card = (result.export / "README.md").read_text()
    assert f"Weights of step {result.exported_step}, the best by `{measure}`" in card and str(images.parent) not in card


@pytest.mark.slow
def test_sigterm_of_the_caller_checkpoints_and_ends_all_ranks(job: TrainingJob, tmp_path: Path) -> None:
    run = with_steps(job, tmp_path / "run", steps=100_000, checkpoint_every=100_000)
    job_file = tmp_path / "given.json"
    job_file.write_text(run.model_dump_json())
    script = (
        "import sys; from training.job import TrainingJob; from training.launch import run_training\n"
        "run_training(TrainingJob.model_validate_json(open(sys.argv[1]).read()))"
    )
    caller = subprocess.Popen([sys.executable, "-c", script, str(job_file)], cwd=PROJECT)
    deadline = time.monotonic() + 120
    while not (run.metrics_file.exists() and run.metrics_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    caller.send_signal(signal.SIGTERM)
    assert caller.wait(60) == 128 + signal.SIGTERM
    assert _all_end(run, within_s=25)
    (mark,) = run.checkpoints.glob("step-*/complete.json")
    assert json.loads(mark.read_text())["step"] < 100_000


def test_ranks_take_the_gpus_that_are_visible() -> None:
    assert _devices(2, None) == ["0", "1"]
    assert _devices(2, "2, 3,5") == ["2", "3"]
    assert _devices(1, "GPU-8a1f") == ["GPU-8a1f"]
    assert _devices(2, "") == _devices(2, "-1") == ["-1", "-1"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_reported_as_such(job: TrainingJob, tmp_path: Path) -> None:
    optimizer = job.student.optimizer.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(NonFiniteLossError, match=r"student: step \d+: .*image ids: \d+"):
        run_training(with_steps(job, tmp_path / "run", optimizer=optimizer, ranks=1))


@pytest.mark.slow
def test_a_disk_that_fills_up_while_ranks_are_at_work_is_a_storage_error(job: TrainingJob, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed")
    try:
        run = with_steps(job, disk / "run", ranks=1)
        run.output.mkdir()
        # Of an earlier run, which this one must not be taken for.
        run.failure_file.write_text('{"type": "ShardError", "message": "of another day"}')

        def fill(_row: dict[str, Any]) -> None:
            with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
                while True:
                    os.write(file.fileno(), bytes(4096))

        with pytest.raises(StorageError, match=f"no space left under {run.output}"):
            run_training(run, on_metrics=fill)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("limit", [0, 20])
def test_a_failure_that_could_not_be_written_down_is_one_of_the_disk(
    job: TrainingJob, tmp_path: Path, limit: int
) -> None:
    job = job.model_copy(update={"output": tmp_path})
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        train._report(job, StorageError("full"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert job.failure_file.stat().st_size == limit
    ended = subprocess.Popen(["false"])
    ended.wait()
    with pytest.raises(StorageError, match=f"no space left under {tmp_path}"):
        _raise_failure(job, ended, tmp_path / "training.log")


def test_a_rank_passes_on_which_file_is_damaged(job: TrainingJob, tmp_path: Path) -> None:
    job = job.model_copy(update={"output": tmp_path})
    train._report(job, ShardError("a.tar: damaged", damaged=tmp_path / "a.tar"))
    ended = subprocess.Popen(["false"])
    ended.wait()
    with pytest.raises(ShardError, match=r"student: a\.tar: damaged") as raised:
        _raise_failure(job, ended, tmp_path / "training.log")
    assert raised.value.damaged == tmp_path / "a.tar"


@pytest.mark.slow
def test_bad_input_is_a_typed_error_of_the_caller(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a multiple of ranks"):
        run_training(with_steps(job, tmp_path / "a", ranks=3))
    with pytest.raises(ConfigError, match="precision bf16 needs ZeRO stage 1, 2 or 3"):
        run_training(with_steps(job, tmp_path / "a", precision="bf16", zero_stage=0))
    with pytest.raises(ConfigError, match="not a multiple of ranks x micro_batches, 2 x 3"):
        run_training(with_steps(job, tmp_path / "a", micro_batches=3))
    with pytest.raises(ConfigError, match="needs centroids"):
        run_training(job.model_copy(update={"centroids": None}))
    with pytest.raises(ShardError, match="no index"):
        run_training(job.model_copy(update={"shards": tmp_path / "nowhere"}))
