"""Watch workers by their beats: one that is gone, one that a sample keeps busy, and when nothing moves at all."""

import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import DownloadError
from pipeline.core.processes import is_dead
from pipeline.download.config import ImagesConfig
from pipeline.download.heartbeat import State, read_states

SHARDS_NAMED = 5
_LOOK_S = 1.0
# Workers import libraries before they can say anything; on a busy machine that takes its time.
_START_S = 120.0
# Beyond the time for one sample: beats are a second old, and the machine may be busy.
_GRACE_S = 5.0
# A resolver keeps to no deadline of ours, only to its own; and the robots.txt of a site may take a sample's time too.
_FETCH_GRACE_S, _FETCH_TIMES = 60.0, 2
_URL_LETTERS = 200


class WorkerLostError(Exception):
    """``how``: what became of the worker of ``shard``, to follow the word "worker"."""

    def __init__(self, shard: str, how: str):
        super().__init__(shard)
        self.shard, self.how = shard, how


class Watchdog:
    """Raises when a worker is lost, or when for too long no sample of any shard was answered.

    ``lists`` holds the pairs of each shard, to name a sample. Without ``replace_dead`` a worker that is gone is its
    cluster's to replace.
    """

    def __init__(self, staging: Path, config: ImagesConfig, lists: Mapping[str, Path], *, replace_dead: bool):
        self._staging, self._lists, self._replace_dead = staging, dict(lists), replace_dead
        self._timeout_s, self._sample_s = config.stall_timeout_s, config.sample_timeout_s + _GRACE_S
        self._fetch_s = _FETCH_TIMES * config.sample_timeout_s + _FETCH_GRACE_S
        self._finished: dict[str, int] = {}
        self._beats: dict[str, tuple[int, float]] = {}
        self._begun = False
        self._last = self._looked = time.monotonic()

    def moved(self) -> None:
        self._last = time.monotonic()

    def look(self, shards: set[str], names: set[str]) -> None:
        """Look at the beats among ``names`` (files of the staging folder), while ``shards`` are to do."""
        now = time.monotonic()
        if now - self._looked < min(_LOOK_S, self._timeout_s / 4):
            return
        self._looked = now
        states = read_states(self._staging, sorted(name[:-5] for name in names if name.endswith(".beat")))
        for shard, state in states.items():
            how = self._lost(shard, state, now)
            if how and not (self._staging / f"{shard}_stats.json").exists():
                raise WorkerLostError(shard, how)
        finished = {shard: state.finished for shard, state in states.items()}
        if finished != self._finished:
            self._finished = finished
            self.moved()
        self._begun = self._begun or bool(states)
        if now - self._last > (self._timeout_s if self._begun else max(self._timeout_s, _START_S)):
            at_work = [self._described(shard, state) for shard, state in list(states.items())[:SHARDS_NAMED]]
            raise DownloadError(
                f"no progress for {now - self._last:.0f} s (images.stall_timeout_s) with {len(shards)} shards to do; "
                f"at work: {'; '.join(at_work) or 'no worker has begun a shard'}. Finished shards stay; run again to "
                "go on"
            )

    def _lost(self, shard: str, state: State, now: float) -> str | None:
        """What became of a worker, if it is lost."""
        at = f" while it was {self._decoding(shard, state)}" if state.decoding else ""
        if self._replace_dead and is_dead(state.machine, state.process):
            return f"was killed{at}"
        if state.decoding and state.decoding[1] > self._sample_s:
            return f"did not get on{at}"
        if state.longest and state.longest[1] > self._fetch_s:
            url, age = state.longest
            return f"did not get on while it was asking for {url[:_URL_LETTERS]} for {age:.0f} s"
        number, since = self._beats.get(shard, (0, now))
        if number != state.number:
            self._beats[shard] = state.number, now
        elif self._replace_dead and now - since > self._sample_s:
            # A decoder that keeps Python's lock stops the thread that beats, too.
            return f"gave no sign for {now - since:.0f} s{at}"
        return None

    def _described(self, shard: str, state: State) -> str:
        asking = ", ".join(f"{host} x{count} for {age:.0f} s" for host, count, age in state.hosts) or "no host"
        longest = f", longest {state.longest[0][:_URL_LETTERS]}" if state.longest else ""
        decoding = f"; {self._decoding(shard, state)}" if state.decoding else ""
        return f"{shard} ({state.finished} samples answered; asking {asking}{longest}{decoding})"

    def _decoding(self, shard: str, state: State) -> str:
        assert state.decoding is not None
        image_id, age = state.decoding
        return f"decoding sample {image_id} ({self._url(shard, image_id)[:_URL_LETTERS]}) for {age:.0f} s"

    def _url(self, shard: str, image_id: int) -> str:
        try:
            table = pq.read_table(self._lists[shard], columns=["image_id", "url"])
            return str(table.filter(pc.equal(table["image_id"], image_id))["url"][0].as_py())
        except (OSError, pa.ArrowException, LookupError):
            return "its list cannot be read"
