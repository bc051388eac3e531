"""Start img2dataset, follow it shard by shard, and know when it has died, hung or filled the disk."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
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
from pipeline.core.processes import end_group, start_group, tail
from pipeline.download.config import ImagesConfig
from pipeline.download.heartbeat import note_lost
from pipeline.download.suspects import left_unanswered, write_suspects
from pipeline.download.watchdog import SHARDS_NAMED, Watchdog, WorkerLostError

log = logging.getLogger(__name__)

_POLL_S = 0.05
# The shard in which suspects are fetched.
_ALONE = "00000"


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
    perhaps, is replaced and its shard begun anew; a sample that costs a worker that fetches nothing else is not asked
    for again. Raises :class:`DownloadError` if workers of a shard are lost too often with no such sample to blame,
    if img2dataset ends early, or if nothing moves for ``config.stall_timeout_s``; :class:`StorageError` if the disk
    is full.
    """
    waiting, losses, refused = dict(lists), Counter[str](), dict[str, str]()
    while waiting:
        try:
            for shard in _run(staging, config, compute, waiting, samples_per_shard, refused=refused):
                del waiting[shard]
                yield shard
        except WorkerLostError as lost:
            suspects = left_unanswered(staging, lost.shard)
            found = _culprits(staging, config, compute, waiting[lost.shard], suspects)
            if found:
                refused |= found
                continue
            losses[lost.shard] += 1
            if losses[lost.shard] > config.worker_restarts:
                raise DownloadError(
                    f"shard {lost.shard}: its worker {lost.how}, and was lost {losses[lost.shard]} times "
                    "(images.worker_restarts); if the system killed it for want of memory, fewer images.processes or "
                    "images.threads need less. Last lines:\n" + tail(_log(staging))
                ) from None
            log.warning(
                "images: the worker of shard %s %s; it is started again, to decode in a process of its own",
                lost.shard, lost.how,
            )  # fmt: skip


def _culprits(
    staging: Path, config: ImagesConfig, compute: ComputeConfig, source: Path, suspects: list[str]
) -> dict[str, str]:
    """Those URLs of ``suspects`` that cost a worker of their own, fetched one at a time, and what became of it.

    ``source``: the list that they are of. What is fetched here is thrown away: the next run of the shard fetches all
    but the culprits, under the keys that they would have had anyway.
    """
    alone = config.model_copy(update={"threads": 1, "processes": 1})
    found: dict[str, str] = {}
    while suspects:
        with staging_folder(staging.parents[2]) as folder:
            # Decoded elsewhere, so that what costs this worker is fetching; and with notes of what was asked for.
            (folder / f"{_ALONE}.lost").touch()
            write_suspects(source, suspects, folder / "suspects.parquet")
            lists = {_ALONE: folder / "suspects.parquet"}
            try:
                list(_run(folder, alone, compute, lists, len(suspects), alone=True))
                break
            except WorkerLostError as lost:
                last = left_unanswered(folder, _ALONE)
                if len(last) != 1:
                    break
                [url] = last
                found[url] = lost.how
                log.warning("images: %s is not asked for again: fetched by itself, its worker %s", url, lost.how)
                suspects = suspects[suspects.index(url) + 1 :]
    return found


def _run(
    staging: Path,
    config: ImagesConfig,
    compute: ComputeConfig,
    waiting: Mapping[str, Path],
    samples_per_shard: int,
    *,
    refused: Mapping[str, str] | None = None,
    alone: bool = False,
) -> Iterator[str]:
    """One run of img2dataset, over the shards that an earlier one did not finish before it was ended.

    Args:
        staging: The folder to work in.
        config: The download's settings.
        compute: Where distributors find their machines.
        waiting: The list of each shard that is to do.
        samples_per_shard: The most that any shard has; keys are as wide as that needs.
        refused: URLs not to be asked for, and what came of it before.
        alone: Fetch the shards one after the other in the process of img2dataset itself, whose end then says more.
    """
    note_lost(staging)
    for shard in sorted(shard for shard in waiting if (staging / f"{shard}_stats.json").exists()):
        (staging / f"{shard}_stats.json").unlink()
        yield shard
    left = set(waiting)
    if not left:
        return
    job = _write_job(staging, config, compute, waiting, samples_per_shard, refused=refused, alone=alone)
    process = start_group([sys.executable, "-m", "pipeline.download.worker", str(job)], log=_log(staging))
    ours = alone or distributor(config, compute) == "multiprocessing"
    watchdog = Watchdog(staging, config, waiting, replace_dead=ours)
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
            at_work = [name.removesuffix(".beat") for name in names if name.endswith(".beat")]
            if ended and alone and at_work:
                raise WorkerLostError(at_work[0], _how_ended(process.returncode))
            if ended:
                raise _ended(staging, process, left)
            watchdog.look(left, names)
            time.sleep(_POLL_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # All is there: let it close its own books, but do not depend on it.
            process.wait(10)
    finally:
        end_group(process, grace_s=2)


def _raise_failure(staging: Path, names: set[str]) -> None:
    """A shard that a worker gave up ends the stage, at once."""
    for name in sorted(names):
        shard, mark, number = name.partition(".failed-")
        if mark:
            if int(number) in FULL:
                raise full_disk(staging.parents[2])
            raise DownloadError(f"shard {shard} failed in its worker; last lines:\n{tail(_log(staging))}")


def _how_ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"


def _ended(staging: Path, process: subprocess.Popen[bytes], left: set[str]) -> Exception:
    if shutil.disk_usage(staging).free < 1 << 20:
        return full_disk(staging.parents[2])
    return DownloadError(
        f"img2dataset ended with status {process.returncode} before shards {sorted(left)[:SHARDS_NAMED]} "
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
    staging: Path,
    config: ImagesConfig,
    compute: ComputeConfig,
    lists: Mapping[str, Path],
    samples_per_shard: int,
    *,
    refused: Mapping[str, str] | None = None,
    alone: bool = False,
) -> Path:
    """The file by which the process of img2dataset learns what to do; arguments as of :func:`_run`."""
    from pipeline.compute.ray_cluster import address_of
    from pipeline.web.rules import Guard

    chosen = distributor(config, compute)
    address = address_of(compute) if chosen == "ray" and not alone else None
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
        "resizer": config.resizing(),
        "distributor": chosen,
        "compute": (compute.model_copy(update={"address": address}) if address else compute).model_dump(),
        "processes": config.processes,
        "threads": config.threads,
        "timeout_s": config.timeout_s,
        "samples_per_shard": samples_per_shard,
        "refused": dict(refused or {}),
        "alone": alone,
    }
    job = staging / "job.json"
    job.write_text(json.dumps(values))
    return job
