"""The connection between whoever started a run and ranks on other machines, with real processes."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from training.launch.lifeline import Held, Lifeline, address_towards

RANK = """
import sys, time
from training.launch.lifeline import Held
asked = []
held = Held(sys.argv[1], on_stop=lambda: asked.append(True))
print("held", flush=True)
while not asked:
    time.sleep(0.01)
if sys.argv[2] == "polite":
    held.release()
    sys.exit(7)
time.sleep(600)
"""


class Run:
    """A lifeline and a few ranks in processes of their own."""

    def __init__(self) -> None:
        self.lost = threading.Event()
        self.lifeline = Lifeline("127.0.0.1", on_lost=self.lost.set)
        self.ranks: list[subprocess.Popen[str]] = []

    def start(self, manner: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RANK, self.lifeline.address, manner]
        rank = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert rank.stdout is not None and rank.stdout.readline() == "held\n"
        self.ranks.append(rank)
        return rank


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run()
    yield run
    run.lifeline.close(grace_s=0)
    for rank in run.ranks:
        rank.kill()
        rank.communicate()


def test_ranks_are_asked_to_stop_and_those_that_do_not_end(run: Run) -> None:
    polite, deaf = run.start("polite"), run.start("deaf")
    run.lifeline.stop(grace_s=1)
    assert (polite.wait(300), deaf.wait(300)) == (7, 1)
    assert not run.lost.is_set()


def test_a_killed_rank_ends_all_others(run: Run) -> None:
    first, second = run.start("polite"), run.start("deaf")
    first.kill()
    assert second.wait(300) == 1
    assert run.lost.wait(300)


def test_ranks_end_with_what_started_them() -> None:
    """Killed, it closes no connection by itself; the kernel does."""
    starter = """
import subprocess, sys, time
from training.launch.lifeline import Lifeline
lifeline = Lifeline("127.0.0.1", on_lost=lambda: None)
print(subprocess.Popen([sys.executable, "-c", sys.argv[1], lifeline.address, "deaf"]).pid, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", starter, RANK], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "held\n"
    process.kill()
    # The end of the file: no process holds the other side of the pipe any more.
    assert process.communicate(timeout=300)[0] == ""


def test_a_rank_that_comes_too_late_is_told_so(run: Run) -> None:
    address = run.lifeline.address
    run.lifeline.close(grace_s=0)
    with pytest.raises(OSError):
        Held(address, on_stop=lambda: None)


def test_strangers_are_not_taken_for_ranks(run: Run) -> None:
    host, port, token = json.loads(run.lifeline.address)
    with socket.create_connection((host, port)) as stranger:
        stranger.sendall(b"0" * len(token))
        assert stranger.recv(1) == b"", "hung up"
    assert not run.lost.wait(0.2)


def test_an_address_towards_loopback_is_loopback() -> None:
    assert address_towards("127.0.0.2").startswith("127.")
