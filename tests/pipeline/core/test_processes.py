"""Children that must not outlive their parent, killed at the worst moment: before they could ask the kernel."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.core.processes import is_dead

PROJECT = Path(__file__).resolve().parents[3]

WORKER = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from pipeline.core.processes import die_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=die_with_parent)
    pool.submit(time.sleep, 600)
    print("started", flush=True)
    time.sleep(600)
else:
    time.sleep(1.5)  # the worker imports the script before anything else
"""

GROUP = """
import sys, time
from pathlib import Path
from pipeline.core.processes import start_group

start_group([sys.executable, "-c", "import time; time.sleep(600)"], log=Path("log"))
print("started", flush=True)
time.sleep(600)
"""

SLOW_TO_ASK = """
import os, sys, time
from pipeline.core.processes import die_with_parent

parent = os.getpid()
if os.fork() == 0:
    print("started", flush=True)
    time.sleep(1)
    die_with_parent(parent)
time.sleep(600)
"""


def at_work(folder: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cwd", "status"])
    return [p for p in found if p.info["cwd"] == str(folder) and p.info["status"] != psutil.STATUS_ZOMBIE]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's end")
@pytest.mark.parametrize("script", [WORKER, GROUP, SLOW_TO_ASK], ids=["worker", "group", "slow to ask"])
def test_a_killed_parent_leaves_no_child(tmp_path: Path, script: str) -> None:
    (tmp_path / "script.py").write_text(script)
    parent = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None and parent.stdout.readline() == "started\n"
    assert len(at_work(tmp_path)) > 1
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 120
    while at_work(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not at_work(tmp_path)


def test_a_process_of_this_machine_is_dead_once_it_has_ended() -> None:
    here = socket.gethostname()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_dead(here, child.pid)
    assert not is_dead("another-machine", child.pid)
    assert not is_dead(here, os.getpid())
    assert not is_dead(here, 1)
