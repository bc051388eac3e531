"""Run img2dataset with our guard, resizer and faults: ``python -m pipeline.download.worker JOB``, a process of its own.

A process of its own because img2dataset imports libraries that ask the network for updates, and because a process group
can be ended whole. Its parts are used as a library: its downloader, writer and distributors. All that a worker needs
travels inside the pickled :class:`GuardedDownloader`, so that the rules hold on any distributor and any machine.
"""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.download.stub_imports import leave_out_unused

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# Our own process, and those that it spawns, which run this file under that second name first.
if __name__ in ("__main__", "__mp_main__"):
    leave_out_unused()

import pyarrow as pa
from img2dataset import distributor as distributors  # noqa: TID253
from img2dataset.downloader import Downloader  # noqa: TID253
from img2dataset.writer import WebDatasetSampleWriter  # noqa: TID253

from pipeline.compute.config import ComputeConfig
from pipeline.core.processes import die_with_parent
from pipeline.download.decoder import Decoder, IsolatedDecoder
from pipeline.download.heartbeat import Beat, was_lost, write_failure
from pipeline.download.images_of import LISTED, images_of
from pipeline.download.resize import Resizer
from pipeline.download.suspects import NotingOpener
from pipeline.web.opener import GuardedOpener, installed
from pipeline.web.rules import Guard

SHARD_DIGITS = 5
"""img2dataset pads shard numbers to this many digits, and so do we, so that names and keys agree."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchJob:
    """One run of img2dataset, as written to and read from JSON. ``shards``: number and Parquet list of each;
    ``refused``: URLs that have cost workers, and what came of them; ``alone``: in this process, by no distributor."""

    shards: list[tuple[int, str]]
    staging: str
    guard: dict[str, Any]
    resizer: dict[str, Any]
    distributor: str
    compute: dict[str, Any]
    processes: int
    threads: int
    timeout_s: float
    samples_per_shard: int
    refused: dict[str, str]
    alone: bool


class StrictWriter(WebDatasetSampleWriter):
    """img2dataset's writer, for which a write that failed is the end of the shard, not of one sample.

    img2dataset would go on after half a member, and the tar would be unreadable from there. What is said of each image
    gets the column ``md5``.
    """

    def __init__(self, *arguments: Any, opener: GuardedOpener, decoder: Decoder):
        *before, table, encode_format = arguments
        super().__init__(*before, table.append(pa.field("md5", pa.string())), encode_format)
        self._opener, self._decoder = opener, decoder
        self._failed: OSError | None = None

    def write(self, image: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        if self._failed is None:
            try:
                super().write(image, key, caption, meta | {"md5": self._decoder.md5.pop(meta["image_id"], None)})
            except OSError as error:
                self._failed = error
                self._opener.abort()

    def close(self) -> None:
        if self._failed is not None:
            raise self._failed
        super().close()


class GuardedDownloader(Downloader):
    """img2dataset's worker, which fetches through the guard and says every second how far it is."""

    sample_writer_class: Any
    output_folder: str
    resizer: Any

    def __init__(self, *, guard: Guard, refused: dict[str, str], **options: Any):
        super().__init__(sample_writer_class=None, **options)
        self.guard, self.refused = guard, refused

    def __call__(self, row: tuple[int, str]) -> tuple[bool, tuple[int, str]]:
        """Fetch one shard. A failure is left beside it as a file that names the error, and the shard is given back."""
        number, path = row
        _settle_in_worker()
        shard, staging, resizer = f"{number:0{self.oom_shard_count}d}", Path(self.output_folder), self.resizer
        isolate = was_lost(staging, shard)
        decoder = IsolatedDecoder(resizer, self.guard.sample_timeout_s) if isolate else Decoder(resizer)
        asked = staging / f"{shard}.asked" if isolate else None
        try:
            with (
                NotingOpener(self.guard, self.refused, asked) as opener,
                installed(opener),
                decoder,
                Beat(staging, shard, opener, decoder),
            ):
                self.resizer = decoder
                self.sample_writer_class = functools.partial(StrictWriter, opener=opener, decoder=decoder)
                self._fetch(number, shard, Path(path), staging)
            return True, row
        except Exception as error:  # noqa: BLE001 - whatever it is, the stage has to hear of it
            traceback.print_exc()
            write_failure(staging, shard, error)
            return False, row
        finally:
            self.output_folder, self.sample_writer_class, self.resizer = str(staging), None, resizer
            Path(path).unlink(missing_ok=True)

    def _fetch(self, number: int, shard: str, listed: Path, staging: Path) -> None:
        """Fetch into a folder of this attempt's own; the shard appears in ``staging`` whole, its statistics last.

        A cluster that lost sight of a node starts its shards again elsewhere while it may still be at work; and it may
        start one that was finished, but not reported: then its list is gone.
        """
        if not listed.exists():
            return
        attempt = staging / f"attempt-{shard}-{uuid.uuid4().hex[:8]}"
        attempt.mkdir()
        try:
            # img2dataset removes the list that it was given.
            shutil.copyfile(listed, attempt / "list.arrow")
            self.output_folder = str(attempt)
            self.download_shard((number, str(attempt / "list.arrow")))
            for ending in (".tar", ".parquet", "_stats.json"):
                (attempt / f"{shard}{ending}").replace(staging / f"{shard}{ending}")
        finally:
            shutil.rmtree(attempt, ignore_errors=True)


class Lists:
    """What img2dataset's distributors iterate over: ``(number, list)`` of each shard, as Arrow files.

    img2dataset's own reader copies all lists before the first download, and distributors take from it as fast as they
    can. This one stays ``ahead`` shards ahead of what is done, so that neither memory nor disk grows with the lists.
    """

    def __init__(self, shards: list[tuple[int, str]], folder: Path, ahead: int):
        self._shards, self._folder, self._ahead = shards, folder, ahead
        # Those of an earlier run that was ended would count as work to be waited for.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for number, path in self._shards:
            # A worker removes the list of a shard that it is through with.
            while len(os.listdir(self._folder)) >= self._ahead:  # noqa: PTH208 - a count
                time.sleep(0.02)
            table = images_of(Path(path))
            target = self._folder / f"{number}.arrow"
            with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            yield number, str(target)


def make_downloader(job: FetchJob) -> GuardedDownloader:
    """The worker that a job asks for, ready to be pickled."""
    guard: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in job.guard.items()
    }
    return GuardedDownloader(
        guard=Guard(**guard),
        refused=job.refused,
        resizer=Resizer(**job.resizer),
        thread_count=job.threads,
        save_caption=True,
        extract_exif=False,
        output_folder=job.staging,
        column_list=LISTED,
        # img2dataset hands the value of this column to the resizer, which learns by it whose bytes it gets.
        blurring_bbox_col="image_id",
        timeout=job.timeout_s,
        # Key width follows from this; at least 10, for one digit.
        number_sample_per_shard=max(job.samples_per_shard, 10),
        oom_shard_count=SHARD_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        # The guard's: it knows which failures are worth another attempt, and counts them into one sample's time; it
        # also names itself and looks for opt-outs.
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )


def main(job_path: str) -> None:
    job = FetchJob(**json.loads(Path(job_path).read_text()))
    ahead = 2 * job.processes + 2
    lists = Lists([(number, path) for number, path in job.shards], Path(job.staging) / "lists", ahead)
    if job.alone:
        for row in lists:
            make_downloader(job)(row)
        return
    distribute = getattr(distributors, f"{job.distributor}_distributor")
    with _cluster(job):
        # Shards that fail are the stage's to judge: no retries here. pyspark takes shards by batches, which must not be
        # larger than what `lists` gives before it waits.
        distribute(job.processes, make_downloader(job), lists, ahead, 0)


def _cluster(job: FetchJob) -> contextlib.AbstractContextManager[Any]:
    """The cluster that img2dataset's distributor takes when it finds itself connected."""
    if job.distributor != "ray":
        return contextlib.nullcontext()
    from pipeline.compute.ray_cluster import connected

    # Ray gives every connection workers of its own, so here too nobody else needs what is left out.
    return connected(
        ComputeConfig(**job.compute), worker_process_setup_hook="pipeline.download.stub_imports.leave_out_unused"
    )


def _settle_in_worker() -> None:
    """What a worker process does to itself before its first shard."""
    if multiprocessing.parent_process() is None:
        return  # Not ours: a Ray or Spark worker, which has an owner.
    die_with_parent()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.stderr.fileno() == 2:
        # Decoders written in C complain about every damaged image on descriptor 2; Python's messages stay.
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)


if __name__ == "__main__":
    # Under its real name, so that workers can import GuardedDownloader.
    from pipeline.download.worker import main as imported_main

    imported_main(sys.argv[1])
