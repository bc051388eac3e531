"""Several machines: what a hostfile says, and real runs on two loopback addresses that share nothing but the disk."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from pipeline.core.errors import ConfigError
from tests.training.conftest import with_steps
from training.job.training_job import TrainingJob
from training.launch.hosts import check_hosts, read_hostfile
from training.launch.launcher import TrainingResult, run_training
from training.launch.ports import reserved_port

PROJECT = Path(__file__).parents[3]
WEIGHTS = "open_clip_model.safetensors"

# As pdsh does over ssh: a shell on every host, with an environment of its own, that signals from here do not reach.
PDSH = """
import os, subprocess, sys
words = sys.argv[sys.argv.index("-w") + 1 :]
assert "pkill" not in " ".join(words), "would end the launchers of other runs"
clean = {name: os.environ[name] for name in ("PATH", "HOME")}
shells = [
    subprocess.Popen(["bash", "-c", " ".join(words[1:]).replace("%n", str(number))], env=clean, start_new_session=True)
    for number in range(len(words[0].split(",")))
]
sys.exit(max(shell.wait() for shell in shells))
"""
SSH = "import sys; print('127.0.0.1' if sys.argv[-1] == '-I' else 'here')"


def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# two machines\nalpha slots=8\n\nbeta  slots=4 # the smaller\n")
    assert read_hostfile(path) == {"alpha": 8, "beta": 4}
    for text, message in (("alpha\n", "line 1: .*got 'alpha'"), ("a slots=1\na slots=1", "line 2"), ("#\n", "no host")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_hostfile(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hostfile(tmp_path / "nowhere")


def _on_hosts(job: TrainingJob, folder: Path, **student: Any) -> TrainingJob:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    changes = {"hostfile": str(folder / "hosts"), **student}
    return job.model_copy(update={"output": folder / "run", "student": job.student.model_copy(update=changes)})


def test_slots_and_pdsh_must_be_there(job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _on_hosts(job, tmp_path, ranks=4)
    with pytest.raises(ConfigError, match=r"ranks is 4, but .* has 2 slots"):
        check_hosts(run)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs pdsh"):
        check_hosts(_on_hosts(job, tmp_path))


@pytest.fixture
def two_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("pdsh", PDSH), ("ssh", SSH)):
        (tools / name).write_text(f"#!{sys.executable}\n{script}")
        (tools / name).chmod(0o755)
    # What ranks on every machine need is in DeepSpeed's own file.
    (tmp_path / "environment").write_text("GLOO_SOCKET_IFNAME=lo\nOMP_NUM_THREADS=1\n")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DS_ENV_FILE", str(tmp_path / "environment"))


def _ranks(job: TrainingJob) -> list[psutil.Process]:
    """Launchers and ranks of a run on all hosts, which here are one."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(job.output.parent) in line and "training" in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _all_end(job: TrainingJob, within_s: float = 30) -> bool:
    deadline = time.monotonic() + within_s
    while _ranks(job) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not _ranks(job)


def _wait_for_rows(job: TrainingJob) -> None:
    deadline = time.monotonic() + 120
    while not (job.metrics_file.exists() and job.metrics_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("two_hosts")
def test_two_hosts_stop_when_asked_and_end_like_one(
    job: TrainingJob, whole_run: TrainingResult, tmp_path: Path
) -> None:
    run, asked = _on_hosts(with_steps(job, tmp_path, checkpoint_every=1000), tmp_path), []

    def interrupt(row: dict[str, Any]) -> None:
        if not asked:
            asked.append(row["step"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(run, on_metrics=interrupt)
    assert _all_end(run, within_s=25)
    stopped = [int(path.parent.name.removeprefix("step-")) for path in run.checkpoints.glob("step-*/complete.json")]
    result = run_training(run)
    assert [result.resumed_from] == stopped, "the ranks wrote a checkpoint before they ended"
    expected, found = (load_file(trained.export / WEIGHTS) for trained in (whole_run, result))
    assert all(expected[name].equal(found[name]) for name in expected)


@pytest.mark.slow
def test_plain_commands_without_ssh_end_together(job: TrainingJob, tmp_path: Path) -> None:
    """The script itself, a YAML file, and one command on each machine, as where no machine may log in to another."""
    run = _on_hosts(job, tmp_path, steps=100_000)
    (tmp_path / "training.yaml").write_text(run.model_dump_json())
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(tmp_path / "hosts"), "--no_ssh"]
    script = [str(PROJECT / "training/train.py"), "--config", str(tmp_path / "training.yaml")]
    with reserved_port() as port, (tmp_path / "log").open("wb") as log:
        command += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
        runners = [
            subprocess.Popen([*command, f"--node_rank={node}", *script], env=environment, stdout=log, stderr=log)
            for node in range(2)
        ]
        _wait_for_rows(run)
    assert all(runner.poll() is None for runner in runners), (tmp_path / "log").read_text()[-4000:]
    runners[1].kill()
    runners[1].wait()
    assert runners[0].wait(60) != 0
    assert _all_end(run)
