"""``source_pairs`` to ``images``: img2dataset fetches, resizes and packs; what it made is checked, then published.

img2dataset works in a staging folder on the shards that are still to do. As soon as it has finished a shard, the tar is
read to its end and indexed, the table of statuses is brought into our schema, and both are moved into place together.
"""

import json
import logging
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.config import ImagesConfig
from pipeline.errors import DownloadError
from pipeline.files import file_digest
from pipeline.processes import end_group, start_group, tail
from pipeline.progress import Progress
from pipeline.store import Stage, StageResult, read_result
from pipeline.tars import index_tar

log = logging.getLogger(__name__)

SUCCESS = "success"
LOST = "failed_in_worker"
_POLL_S = 0.1
# img2dataset pads shard numbers to this many digits, and so do we, so that names and keys agree.
_SHARD_DIGITS = 5


def download_images(root: Path, config: ImagesConfig) -> StageResult:
    """Stage ``images``: a tar, an index and a status table per shard of ``source_pairs``.

    Raises :class:`DownloadError` if img2dataset ends early or stalls; finished shards stay and are not fetched again.
    """
    source = {path.stem: path for path in read_result(root, "source_pairs").parquet("source_pairs")}
    inputs = {shard: file_digest(path) for shard, path in source.items()}
    stage = Stage(root, "images", version=1, config=config.content(), inputs=inputs)
    if stage.is_complete():
        return stage.result()
    with stage.running():
        pending = stage.pending()
        if pending:
            pairs = sum(pq.read_metadata(source[shard]).num_rows for shard in pending)
            with Progress(log, "images", total=pairs, unit="pairs") as progress:
                for shard, staged in _fetch(root / ".tmp" / "images", config, source, pending):
                    _publish(stage, shard, staged, source[shard])
                    progress.add(pq.read_metadata(source[shard]).num_rows)
        return stage.finish()


def _fetch(
    temporary: Path, config: ImagesConfig, source: dict[str, Path], pending: list[str]
) -> Iterator[tuple[str, Path]]:
    """Run img2dataset over the pending shards and yield each with its staging folder as soon as it is finished."""
    staging = temporary / f"staging-{uuid.uuid4().hex[:8]}"
    staging.mkdir(parents=True)
    job = _write_job(temporary, staging, config, source, pending)
    process = start_group([sys.executable, "-m", "pipeline.fetch", str(job)], log=temporary / "img2dataset.log")
    waiting, last_progress = set(pending), time.monotonic()
    try:
        while waiting:
            ended = process.poll() is not None
            finished = [shard for shard in sorted(waiting) if (staging / f"{shard}_stats.json").exists()]
            for shard in finished:
                waiting.remove(shard)
                last_progress = time.monotonic()
                yield shard, staging
            if waiting and ended and not finished:
                raise DownloadError(
                    f"img2dataset ended with status {process.returncode} before shards {sorted(waiting)[:5]} "
                    f"({len(waiting)} in all) were done; its last lines:\n{tail(temporary / 'img2dataset.log')}"
                )
            if time.monotonic() - last_progress > config.stall_timeout_s:
                raise DownloadError(
                    f"no shard was finished for {config.stall_timeout_s} s; at work: {sorted(waiting)[:5]}"
                )
            if not finished:
                time.sleep(_POLL_S)
        _wait(process)
    finally:
        end_group(process, grace_s=5)
        shutil.rmtree(staging, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """All shards are there: let img2dataset close its own books, but do not depend on it."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        log.warning("img2dataset did not end by itself after its last shard; ending it")


def _write_job(
    temporary: Path, staging: Path, config: ImagesConfig, source: dict[str, Path], pending: list[str]
) -> Path:
    """The call of img2dataset, as JSON. Done shards are passed too, with img2dataset's own completion mark, empty:
    that is how it resumes, and how a shard keeps its number whatever else is done."""
    for shard in source.keys() - set(pending):
        (staging / f"{shard}_stats.json").write_text("{}")
    rows = max(pq.read_metadata(path).num_rows for path in source.values())
    download = {
        "url_list": str(next(iter(source.values())).parent.resolve()),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "save_additional_columns": ["sample_id"],
        "output_folder": str(staging.resolve()),
        "output_format": "webdataset",
        # Key width follows from this; at least 10, for one digit.
        "number_sample_per_shard": max(rows, 10),
        "oom_shard_count": _SHARD_DIGITS,
        "image_size": config.image_size,
        "resize_mode": config.resize_mode,
        "resize_only_if_bigger": config.resize_only_if_bigger,
        "encode_format": "jpg",
        "encode_quality": config.encode_quality,
        "min_image_size": config.min_image_size,
        "max_image_area": config.max_image_area,
        "max_aspect_ratio": config.max_aspect_ratio,
        "processes_count": config.processes,
        "thread_count": config.threads,
        "timeout": config.timeout_s,
        "retries": config.retries,
        "user_agent_token": config.user_agent_token,
        "disallowed_header_directives": config.disallowed_header_directives,
        "extract_exif": False,
        "compute_hash": "sha256",
        "enable_wandb": False,
    }
    guard = {"connect_to": config.connect_to, "allow_private_addresses": config.allow_private_addresses}
    job = temporary / "job.json"
    job.write_text(json.dumps({"download": download, "guard": guard}))
    return job


def _publish(stage: Stage, shard: str, staging: Path, source: Path) -> None:
    """Check one finished shard and move it into place."""
    statuses = _statuses(staging / f"{shard}.parquet", shard, source)
    with stage.output(shard) as output:
        tar = output.path(f"images/{shard}.tar")
        (staging / f"{shard}.tar").replace(tar)
        index = index_tar(tar)
        succeeded = statuses.filter(pc.equal(statuses["status"], SUCCESS))
        if index["sample_id"].to_pylist() != succeeded["sample_id"].to_pylist():
            raise DownloadError(
                f"shard {shard}: {index.num_rows} samples in the tar, {succeeded.num_rows} in its table"
            )
        pq.write_table(index, output.path(f"images/index/{shard}.parquet"))
        pq.write_table(statuses, output.path(f"images/{shard}.parquet"), compression="zstd")
        output.rows = statuses.num_rows
        output.stats = {"downloaded": succeeded.num_rows, "failed": statuses.num_rows - succeeded.num_rows}


def _statuses(path: Path, shard: str, source: Path) -> pa.Table:
    """img2dataset's table of one shard in our columns: a row for every pair asked for, ordered by key (it writes in the
    order of arrival). A sample on which its worker stumbled has no row there; it gets one here."""
    table = pq.read_table(path)
    table = table.rename_columns(["error" if name == "error_message" else name for name in table.column_names])
    asked = pq.read_table(source)
    lost = asked.filter(pc.invert(pc.is_in(asked["sample_id"], table["sample_id"])))
    lost = lost.append_column("status", pa.array([LOST] * lost.num_rows, pa.string()))
    table = pa.concat_tables([table, lost], promote_options="default").sort_by(
        [("key", "ascending"), ("sample_id", "ascending")]
    )
    table = table.append_column("shard", pa.array([shard] * table.num_rows, pa.string()))
    return table.select(schema.IMAGES.names).cast(schema.IMAGES)
