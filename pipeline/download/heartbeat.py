"""How workers tell the stage that they are alive: small files beside the shards that they fetch.

``<shard>.beat`` is JSON, replaced every second while a worker is at a shard; ``<shard>.failed-<errno>`` is what is left
of a shard that a worker gave up. Files, not pipes, because they work on any distributor that shares the storage.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.files import write_text_atomically

if TYPE_CHECKING:
    from pipeline.web.opener import GuardedOpener

_EVERY_S = 1.0
_HOSTS_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What one worker is at. ``finished``: samples of the shard answered so far; ``hosts``: those asked right now, with
    the number of their connections and the seconds that the oldest has taken, most connections first."""

    machine: str
    process: int
    finished: int
    hosts: list[tuple[str, int, float]]


class Beat:
    """Writes a worker's state every second while the block lasts, and removes it at the end."""

    def __init__(self, folder: Path, shard: str, opener: "GuardedOpener"):
        self._path, self._opener = folder / f"{shard}.beat", opener
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._write()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._write()

    def _write(self) -> None:
        connections: Counter[str] = Counter()
        oldest: dict[str, float] = {}
        now = time.monotonic()
        for url, start in list(self._opener.in_flight.values()):
            host = urllib.parse.urlsplit(url).netloc
            connections[host] += 1
            oldest[host] = max(oldest.get(host, 0.0), round(now - start, 1))
        hosts = [(host, count, oldest[host]) for host, count in connections.most_common(_HOSTS_NAMED)]
        state = State(machine=socket.gethostname(), process=os.getpid(), finished=self._opener.finished, hosts=hosts)
        # A full disk shows where the shard itself is written.
        with contextlib.suppress(OSError):
            write_text_atomically(self._path, json.dumps(dataclasses.asdict(state)))


def write_failure(folder: Path, shard: str, error: Exception) -> None:
    """Leave word that a shard was given up. The name says it all: the disk may be full."""
    number = getattr(error, "errno", None) or 0
    with contextlib.suppress(OSError):
        os.close(os.open(folder / f"{shard}.failed-{number}", os.O_CREAT | os.O_WRONLY))


def read_states(folder: Path, shards: Iterable[str]) -> dict[str, State]:
    """The state of each of ``shards`` that a worker is at."""
    states = {}
    for shard in shards:
        # Between the look into the folder and this one a shard may be done.
        with contextlib.suppress(FileNotFoundError, ValueError):
            states[shard] = State(**json.loads((folder / f"{shard}.beat").read_text()))
    return states
