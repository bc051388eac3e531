"""How workers tell the stage that they are alive: small files beside the shards that they fetch.

``<shard>.beat`` is JSON, replaced every second while a worker is at a shard; ``<shard>.lost`` says that a worker left
one behind; ``<shard>.failed-<errno>`` is what is left of a shard that a worker gave up. Files, not pipes, because they
work on any distributor that shares the storage.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.files import write_text_atomically
from pipeline.web.addresses import host_of

if TYPE_CHECKING:
    from pipeline.download.decoder import Decoder
    from pipeline.web.opener import GuardedOpener

_EVERY_S = 1.0
_HOSTS_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What one worker is at, for the ``number``-th time that it says so.

    ``finished``: samples of the shard answered so far; ``hosts``: those asked right now, with the number of their
    connections and the seconds that the oldest has taken, most connections first; ``longest``: the URL that has taken
    most of all, and its seconds; ``decoding``: the id of the sample that is decoded right now, and the seconds that it
    has taken.
    """

    machine: str
    process: int
    number: int
    finished: int
    hosts: list[tuple[str, int, float]]
    longest: tuple[str, float] | None
    decoding: tuple[int, float] | None


class Beat:
    """Writes a worker's state every second while the block lasts, and removes it at the end."""

    def __init__(self, folder: Path, shard: str, opener: "GuardedOpener", decoder: "Decoder"):
        self._path, self._opener, self._decoder = folder / f"{shard}.beat", opener, decoder
        self._number = 0
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
        now, self._number = time.monotonic(), self._number + 1
        in_flight, decoding = list(self._opener.in_flight.values()), self._decoder.current
        for url, start in in_flight:
            host = host_of(url)
            connections[host] += 1
            oldest[host] = max(oldest.get(host, 0.0), round(now - start, 1))
        longest = min(in_flight, key=lambda asked: asked[1], default=None)
        state = State(
            machine=socket.gethostname(),
            process=os.getpid(),
            number=self._number,
            finished=self._opener.finished,
            hosts=[(host, count, oldest[host]) for host, count in connections.most_common(_HOSTS_NAMED)],
            longest=(longest[0], round(now - longest[1], 1)) if longest else None,
            decoding=(decoding[0], round(now - decoding[1], 1)) if decoding else None,
        )
        # A full disk shows where the shard itself is written.
        with contextlib.suppress(OSError):
            write_text_atomically(self._path, json.dumps(dataclasses.asdict(state)))


def note_lost(folder: Path) -> None:
    """Let what workers left behind that were ended say just that."""
    for beat in folder.glob("*.beat"):
        beat.replace(beat.with_suffix(".lost"))


def was_lost(folder: Path, shard: str) -> bool:
    """Whether a worker was lost at this shard; asked before the next one begins it. Clusters replace theirs unseen."""
    return any((folder / f"{shard}{ending}").exists() for ending in (".beat", ".lost"))


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
