"""Start img2dataset, follow it shard by shard, and know when it has died, hung or filled the disk."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.compute.config import ComputeConfig
from pipeline.core.disk import FULL, full_disk
from pipeline.core.errors import DownloadError
from pipeline.core.processes import end_group, is_dead, start_group, tail
from pipeline.download.config import ImagesConfig
from pipeline.download.heartbeat import read_states

log = logging.getLogger(__name__)

_POLL_S = 0.05
_LOOK_S = 1.0
# Workers import libraries before they can say anything; on a busy machine that takes its time.
_START_S = 120.0
_SHARDS_NAMED = 5


class _WorkerLostError(Exception):
    def __init__(self, shard: str):
        super().__init__(shard)
        self.shard = shard


@contextlib.contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """A folder for img2dataset to work in, removed at the end."""
    folder = root / ".tmp" / "images" / f"staging-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch_shards(
    staging: Path, config: ImagesConfig, compute: ComputeConfig, lists: Mapping[str, Path], *, samples_per_shard: int
) -> Iterator[str]:
    """Fetch the pairs of ``lists`` (Parquet by shard name) and yield each shard as soon as it is finished.

    Its ``.tar`` and ``.parquet`` then lie in ``staging``. The width of keys follows from ``samples_per_shard``: the
    most that any shard of the data set has, whether it is fetched now or not. A worker that died, for want of memory
    perhaps, is replaced and its shard begun anew. Raises :class:`DownloadError` if that happens to a shard too often,
    if img2dataset ends early, or if nothing moves for ``config.stall_timeout_s``; :class:`StorageError` if the disk
    is full.
    """
    waiting, losses = dict(lists), Counter[str]()
    while waiting:
        try:
            for shard in _run(staging, config, compute, waiting, samples_per_shard):
                del waiting[shard]
                yield shard
        except _WorkerLostError as lost:
            losses[lost.shard] += 1
            if losses[lost.shard] > config.worker_restarts:
                raise DownloadError(
                    f"shard {lost.shard}: its worker was killed {losses[lost.shard]} times, by the system for want of "
                    f"memory perhaps; fewer images.processes or images.threads need less. Last lines:\n"
                    + tail(_log(staging))
                ) from None
            log.warning("images: the worker of shard %s was killed; starting it again", lost.shard)


def _run(
    staging: Path, config: ImagesConfig, compute: ComputeConfig, waiting: Mapping[str, Path], samples_per_shard: int
) -> Iterator[str]:
    """One run of img2dataset, over the shards that an earlier one did not finish before it was ended."""
    for leftover in staging.glob("*.beat"):
        leftover.unlink()
    for shard in sorted(shard for shard in waiting if (staging / f"{shard}_stats.json").exists()):
        (staging / f"{shard}_stats.json").unlink()
        yield shard
    left = set(waiting)
    if not left:
        return
    job = _write_job(staging, config, compute, waiting, samples_per_shard)
    process = start_group([sys.executable, "-m", "pipeline.download.worker", str(job)], log=_log(staging))
    watchdog = _Watchdog(staging, config, distributor(config, compute))
    try:
        while left:
            ended = process.poll() is not None
            names = {entry.name for entry in os.scandir(staging)}
            finished = sorted(shard for shard in left if f"{shard}_stats.json" in names)
            for shard in finished:
                left.remove(shard)
                (staging / f"{shard}_stats.json").unlink()
                yield shard
                watchdog.moved()
            if finished:
                continue
            _raise_failure(staging, names)
            if ended:
                raise _ended(staging, process, left)
            watchdog.look(left, names)
            time.sleep(_POLL_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # All is there: let it close its own books, but do not depend on it.
            process.wait(10)
    finally:
        end_group(process, grace_s=2)


class _Watchdog:
    """Raises when a worker is gone, or when for too long no sample of any shard was answered."""

    def __init__(self, staging: Path, config: ImagesConfig, distributor: str):
        self._staging, self._timeout_s = staging, config.stall_timeout_s
        # Ray and Spark start a lost task again by themselves.
        self._replace_dead = distributor == "multiprocessing"
        self._finished: dict[str, int] = {}
        self._begun = False
        self._last = self._looked = time.monotonic()

    def moved(self) -> None:
        self._last = time.monotonic()

    def look(self, shards: set[str], names: set[str]) -> None:
        now = time.monotonic()
        if now - self._looked < min(_LOOK_S, self._timeout_s / 4):
            return
        self._looked = now
        states = read_states(self._staging, sorted(name[:-5] for name in names if name.endswith(".beat")))
        for shard, state in states.items():
            dead = self._replace_dead and is_dead(state.machine, state.process)
            if dead and not (self._staging / f"{shard}_stats.json").exists():
                raise _WorkerLostError(shard)
        finished = {shard: state.finished for shard, state in states.items()}
        if finished != self._finished:
            self._finished = finished
            self.moved()
        self._begun = self._begun or bool(states)
        if now - self._last > (self._timeout_s if self._begun else max(self._timeout_s, _START_S)):
            at_work = [
                f"{shard} ({state.finished} samples answered; asking "
                + (", ".join(f"{host} x{count} for {age:.0f} s" for host, count, age in state.hosts) or "no host")
                + ")"
                for shard, state in list(states.items())[:_SHARDS_NAMED]
            ]
            raise DownloadError(
                f"no progress for {now - self._last:.0f} s (images.stall_timeout_s) with {len(shards)} shards to do; "
                f"at work: {'; '.join(at_work) or 'no worker has begun a shard'}. Finished shards stay; run again to "
                "go on"
            )


def _raise_failure(staging: Path, names: set[str]) -> None:
    """A shard that a worker gave up ends the stage, at once."""
    for name in sorted(names):
        shard, mark, number = name.partition(".failed-")
        if mark:
            if int(number) in FULL:
                raise full_disk(staging.parents[2])
            raise DownloadError(f"shard {shard} failed in its worker; last lines:\n{tail(_log(staging))}")


def _ended(staging: Path, process: subprocess.Popen[bytes], left: set[str]) -> Exception:
    if shutil.disk_usage(staging).free < 1 << 20:
        return full_disk(staging.parents[2])
    return DownloadError(
        f"img2dataset ended with status {process.returncode} before shards {sorted(left)[:_SHARDS_NAMED]} "
        f"({len(left)} in all) were done; its last lines:\n{tail(_log(staging))}"
    )


def _log(staging: Path) -> Path:
    return staging.parent / "img2dataset.log"


def distributor(config: ImagesConfig, compute: ComputeConfig) -> str:
    """img2dataset's distributor: the one that is asked for, else the one that goes with the engine."""
    if config.distributor != "auto":
        return config.distributor
    return "ray" if compute.engine == "ray" else "multiprocessing"


def _write_job(
    staging: Path, config: ImagesConfig, compute: ComputeConfig, lists: Mapping[str, Path], samples_per_shard: int
) -> Path:
    from pipeline.compute.ray_cluster import address_of
    from pipeline.web.rules import Guard

    chosen = distributor(config, compute)
    address = address_of(compute) if chosen == "ray" else None
    guard = Guard(
        connect_to=config.connect_to,
        allow_private_addresses=config.allow_private_addresses,
        schemes=tuple(config.schemes),
        max_bytes=config.max_bytes,
        max_redirects=config.max_redirects,
        sample_timeout_s=config.sample_timeout_s,
        retries=config.retries,
        agent=config.user_agent_token,
        contact=config.user_agent_contact,
        opt_out=tuple(config.disallowed_header_directives),
        robots_txt=config.robots_txt,
    )
    values = {
        "shards": [[int(shard), str(path.resolve())] for shard, path in sorted(lists.items())],
        "staging": str(staging.resolve()),
        "guard": dataclasses.asdict(guard),
        "resizer": {
            "image_size": config.image_size,
            "mode": config.resize_mode,
            "only_if_bigger": config.resize_only_if_bigger,
            "quality": config.encode_quality,
            "min_size": config.min_image_size,
            "max_area": config.max_image_area,
            "max_aspect_ratio": config.max_aspect_ratio,
        },
        "distributor": chosen,
        "compute": (compute.model_copy(update={"address": address}) if address else compute).model_dump(),
        "processes": config.processes,
        "threads": config.threads,
        "timeout_s": config.timeout_s,
        "samples_per_shard": samples_per_shard,
    }
    job = staging / "job.json"
    job.write_text(json.dumps(values))
    return job
