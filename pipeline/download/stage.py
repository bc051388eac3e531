"""``source_pairs`` to ``images``: img2dataset fetches and packs; what it made is checked, then published.

img2dataset works in a staging folder on the shards that are still to do. As soon as it has finished a shard, the tar is
read to its end and indexed, the table of statuses is brought into our schema, and both are moved into place together.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.compute.config import ComputeConfig
from pipeline.core import parquet, schema
from pipeline.core.errors import ConfigError, DownloadError, PipelineError
from pipeline.core.progress import Progress
from pipeline.core.tars import index_tar
from pipeline.download.circuit_breaker import SuccessFloor
from pipeline.download.config import ImagesConfig
from pipeline.download.images_of import images_of
from pipeline.download.retry import merge_shard, write_retry_lists
from pipeline.download.supervisor import fetch_shards, staging_folder
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Output, Stage
from pipeline.web.outcomes import LOST, SUCCESS, Failure, split_outcomes

log = logging.getLogger(__name__)


def download_images(root: Path, config: ImagesConfig, compute: ComputeConfig | None = None) -> StageResult:
    """Stage ``images``: a tar, an index and a status table per shard of ``source_pairs``.

    ``compute`` says on which machines, unless ``config.distributor`` does.
    An image is fetched once, however many captions it has. With ``config.retry_statuses`` images of those statuses are
    fetched again, in the shards that this call did not
    fetch anyway. Raises :class:`DownloadError` if img2dataset ends early or stalls, or if too many shards in a row are
    bad; :class:`StorageError` if the disk is full. Finished shards stay and are not fetched again.
    """
    root, compute = Path(root), compute or ComputeConfig()
    pairs = read_result(root, "source_pairs")
    source = {path.stem: path for path in pairs.parquet("source_pairs")}
    inputs = pairs.file_digests("source_pairs")
    stage = Stage(root, "images", version=3, config=config.content(), inputs=inputs)

    def fetch(pending: list[str]) -> None:
        most = max(images_of(path).num_rows for path in source.values())
        if pending:
            _fetch(stage, config, compute, {shard: source[shard] for shard in pending}, most)
        if config.retry_statuses:
            _retry(stage, config, compute, source, most, skip=pending)

    return stage.run(fetch, even_if_complete=bool(config.retry_statuses))


def retry_images(
    root: Path, config: ImagesConfig, compute: ComputeConfig | None = None, *, statuses: Iterable[Failure]
) -> StageResult:
    """Fetch the pairs again whose status is one of ``statuses``; all others keep status, image and bytes.

    Raises :class:`ConfigError` for a status that does not exist or means success, else as :func:`download_images`.
    """
    unknown = set(statuses) - set(get_args(Failure))
    if unknown:
        raise ConfigError(f"retry: no such status {sorted(unknown)}; expected some of {list(get_args(Failure))}")
    return download_images(root, config.model_copy(update={"retry_statuses": list(statuses)}), compute)


def shard_files(shard: str) -> list[str]:
    """Names under the root of what this stage writes for a shard."""
    return [f"images/{shard}.tar", f"images/{shard}.parquet", f"images/index/{shard}.parquet"]


def _fetch(stage: Stage, config: ImagesConfig, compute: ComputeConfig, lists: dict[str, Path], most: int) -> None:
    """Fetch whole shards and publish them, but bad ones only when a better one follows or all is done."""
    floor = SuccessFloor(config)
    with _progress(lists) as progress, staging_folder(stage.root) as staging:
        for shard in fetch_shards(staging, config, compute, lists, samples_per_shard=most):
            for ready in floor.admit(shard, _statuses(staging, shard, lists[shard])):
                _publish(stage, ready, staging, lists[ready])
            progress.add(images_of(lists[shard]).num_rows)
        for ready in floor.held:
            _publish(stage, ready, staging, lists[ready])


def _retry(
    stage: Stage, config: ImagesConfig, compute: ComputeConfig, source: dict[str, Path], most: int, *, skip: list[str]
) -> None:
    """Fetch parts of shards and merge them into what is there."""
    with staging_folder(stage.root) as staging:
        done = [shard for shard in source if shard not in skip]
        chosen = {shard: source[shard] for shard in done}
        lists = write_retry_lists(stage.root, chosen, config.retry_statuses, staging / "retry")
        if not lists:
            return
        with _progress(lists) as progress:
            for shard in fetch_shards(staging, config, compute, lists, samples_per_shard=most):
                fetched = _statuses(staging, shard, lists[shard])
                with storage_of(stage.root).borrowed(shard_files(shard)), stage.output(shard) as output:
                    tar = output.path(f"images/{shard}.tar")
                    statuses = merge_shard(stage.root, shard, fetched, staging / f"{shard}.tar", tar)
                    _finish_shard(output, shard, tar, statuses, previous=None)
                progress.add(fetched.num_rows)


def _progress(lists: dict[str, Path]) -> Progress:
    return Progress(log, "images", total=sum(images_of(path).num_rows for path in lists.values()), unit="images")


def _publish(stage: Stage, shard: str, staging: Path, source: Path) -> None:
    """Check one finished shard and move it into place."""
    with stage.output(shard) as output:
        tar = output.path(f"images/{shard}.tar")
        (staging / f"{shard}.tar").replace(tar)
        statuses = _statuses(staging, shard, source)
        _finish_shard(output, shard, tar, statuses, previous=_previous(stage.root, f"images/{shard}.parquet"))
        (staging / f"{shard}.parquet").unlink()


def _finish_shard(output: Output, shard: str, tar: Path, statuses: pa.Table, *, previous: pa.Table | None) -> None:
    """Index the tar, compare it with its table, write both tables and the counts."""
    index = index_tar(tar)
    succeeded = statuses.filter(pc.equal(statuses["status"], SUCCESS))
    if not index["image_id"].equals(succeeded["image_id"]):
        raise DownloadError(f"shard {shard}: {index.num_rows} samples in the tar, {succeeded.num_rows} in its table")
    parquet.write_table(index, output.path(f"images/index/{shard}.parquet"))
    parquet.write_table(statuses, output.path(f"images/{shard}.parquet"), compression="zstd")
    output.rows = statuses.num_rows
    output.stats = count_statuses(statuses)
    if previous is not None:
        output.stats |= compare_bytes(previous, statuses)


def count_statuses(statuses: pa.Table) -> dict[str, int]:
    """How many images of a table are there, how many are not, and how often each reason why."""
    counts = Counter(statuses["status"].to_pylist())
    downloaded = counts.pop(SUCCESS, 0)
    return {"downloaded": downloaded, "failed": statuses.num_rows - downloaded, **dict(sorted(counts.items()))}


def compare_bytes(before: pa.Table, now: pa.Table) -> dict[str, int]:
    """How the images of ``before`` fared: the same bytes were served again, others were, or none."""
    images = before.filter(pc.equal(before["status"], SUCCESS)).select(["image_id", "sha256"])
    joined = images.join(now.select(["image_id", "sha256"]), "image_id", right_suffix="_now")
    same = pc.sum(pc.equal(joined["sha256"], joined["sha256_now"])).as_py() or 0
    gone = joined["sha256_now"].null_count
    return {"bytes_match": same, "bytes_mismatch": joined.num_rows - same - gone, "bytes_gone": gone}


def _previous(root: Path, name: str) -> pa.Table | None:
    """The table that is about to be replaced, if there is one that can be read."""
    try:
        storage_of(root).fetch([name])
        return parquet.read_table(root / name, columns=["image_id", "status", "sha256"])
    except (OSError, pa.ArrowException, PipelineError):
        return None


def _statuses(staging: Path, shard: str, source: Path) -> pa.Table:
    """img2dataset's table of one shard in our columns: a row for each image asked for, ordered by key (it writes in the
    order of arrival). A sample on which its worker stumbled has no row there; it gets one here."""
    table = pq.read_table(staging / f"{shard}.parquet")
    table = table.rename_columns(["error" if name == "error_message" else name for name in table.column_names])
    asked = images_of(source)
    lost = asked.filter(pc.invert(pc.is_in(asked["image_id"], table["image_id"])))
    lost = lost.append_column("status", pa.array([LOST] * lost.num_rows, pa.string()))
    table = pa.concat_tables([table, lost], promote_options="default").sort_by(
        [("key", "ascending"), ("image_id", "ascending")]
    )
    status, error = split_outcomes(table["status"], table["error"])
    table = table.set_column(table.column_names.index("status"), "status", status)
    table = table.set_column(table.column_names.index("error"), "error", error)
    table = table.append_column("shard", pa.array([shard] * table.num_rows, pa.string()))
    return table.select(schema.IMAGES.names).cast(schema.IMAGES)
