"""The kept images of a root as a folder that ``datasets.load_dataset`` and the Hub take: Parquet and a card."""

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.core import parquet, query
from pipeline.core.disk import storage_errors
from pipeline.core.errors import ShardError
from pipeline.core.progress import Progress
from pipeline.core.query import QueryConfig
from pipeline.core.settings import parse_size
from pipeline.export_dataset.card import collect_facts, dataset_card
from pipeline.export_dataset.rows import PLACE, Carried, carried_columns, image_rows, pairs_query
from pipeline.export_dataset.stored_images import IMAGE, StoredImages, parts
from pipeline.hub.card import CARD_FILE, check_license
from pipeline.storage.completion import complete_mark
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of

log = logging.getLogger(__name__)

DATA = "data"
_STAGES, _SCORES = ("source_pairs", "images", "balance"), "scores"
_ROW_GROUP = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """What was written: rows (images), their captions, files and bytes of Parquet, and the hash of the kept images."""

    images: int
    captions: int
    files: int
    bytes: int
    kept_hash: str


def export_dataset(
    root: Path,
    folder: Path,
    *,
    images: bool = False,
    shard_size: int | str = "500MB",
    license: str | None = None,
    name: str | None = None,
    query_config: QueryConfig | None = None,
) -> DatasetReport:
    """Write ``data/train-*.parquet``, a row per kept image, and ``README.md``, the card.

    The same root gives the same bytes. What is held in memory is a batch, whatever the number of images.

    Args:
        root: one whose balance is complete.
        folder: an empty folder.
        images: also the bytes of the images, as they are stored, as a column that ``datasets`` decodes.
        shard_size: bytes after which a file is full, or a size such as 500MB; a row group is never divided.
        license: the identifier that the card gives, such as ``cc-by-4.0``; it is of what is written here, not of what
            it points to.
        name: the title of the card; that of the folder if none is given.
        query_config: limits of DuckDB.

    Returns:
        Counts, and the hash that the card shows.

    Raises:
        MissingInputError: a stage is not complete.
        ShardError: a kept image has lost its row, or its bytes.
        ConfigError: a size, a license or names of columns that are none.
    """
    limit = parse_size(shard_size, what="shard_size")
    check_license(license)
    root, config = Path(root), query_config or QueryConfig()
    stages = {stage: read_result(root, stage) for stage in _STAGES}
    # A stage that may never have been run: without heads there is no need to.
    if complete_mark(storage_of(root), _SCORES) is not None:
        stages[_SCORES] = read_result(root, _SCORES)
    with storage_errors(folder):
        carried = carried_columns(stages["source_pairs"].verified("source_attributes"), _scores(stages))
        files = _write_data(root, folder / DATA, stages, carried, limit=limit, config=config, with_images=images)
        facts = collect_facts(root, folder / DATA, stages, carried, config)
        kept = stages["balance"].stats["kept"]
        if (facts.images, facts.captions) != (kept, stages["balance"].tables["balanced_pairs"]):
            raise ShardError(
                f"{kept:,} images were kept, with {stages['balance'].tables['balanced_pairs']:,} captions, but "
                f"{facts.images:,} with {facts.captions:,} are in the other tables too; run the stages again"
            )
        (folder / CARD_FILE).write_text(dataset_card(facts, name=name or folder.name, license=license, images=images))
    return DatasetReport(
        images=facts.images,
        captions=facts.captions,
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        kept_hash=facts.kept_hash,
    )


def _write_data(
    root: Path,
    folder: Path,
    stages: dict[str, StageResult],
    carried: Sequence[Carried],
    *,
    limit: int,
    config: QueryConfig,
    with_images: bool,
) -> list[Path]:
    source, images, balance = (stages[name] for name in _STAGES)
    attributes, scores = source.parquet("source_attributes"), _scores(stages)
    text, per_pair = pairs_query(carried, attributes=bool(attributes), scores=bool(scores), places=with_images)
    tables = {
        "pairs": balance.verified("balanced_pairs"),
        "images": images.verified("images"),
        "source": source.parquet("source_pairs"),
        "attributes": attributes,
        "scores": scores,
        "index": images.parquet("index") if with_images else [],
    }
    parameters = {table: query.files(paths) for table, paths in tables.items() if paths}
    with (
        query.connect(config, scratch=root / ".tmp") as connection,
        StoredImages(root) as stored,
        Progress(log, "export dataset", total=balance.stats["kept"], unit="images") as progress,
    ):
        rows = image_rows(query.stream(connection, text, parameters, per_pair), carried)
        groups = _with_images(rows, stored) if with_images else _row_groups(rows)
        return _write(groups, folder, limit, progress)


def _scores(stages: dict[str, StageResult]) -> list[Path]:
    return stages[_SCORES].verified(_SCORES) if _SCORES in stages else []


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    batches = (batch for table in tables for batch in table.to_batches())
    return query.cut(batches, _ROW_GROUP)


def _with_images(tables: Iterable[pa.Table], stored: StoredImages) -> Iterator[pa.Table]:
    for table in tables:
        for part in parts(table):
            yield part.drop_columns(list(PLACE)).append_column(IMAGE, stored.column(part))


def _write(groups: Iterable[pa.Table], folder: Path, limit: int, progress: Progress) -> list[Path]:
    """Files of at least ``limit`` bytes, but for the last, named when it is known how many there are."""
    folder.mkdir(parents=True)
    written: list[Path] = []
    writer = None
    for group in groups:
        if writer is None:
            written.append(folder / f"{len(written):05d}.partial")
            writer = parquet.writer(written[-1], _declared(group.schema), compression="zstd")
        writer.write_table(group)
        progress.add(group.num_rows)
        if written[-1].stat().st_size >= limit:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    names = [folder / f"train-{number:05d}-of-{len(written):05d}.parquet" for number in range(len(written))]
    return [path.rename(name) for path, name in zip(written, names)]


def _declared(table: pa.Schema) -> pa.Schema:
    """With what ``datasets`` cannot know of a struct: that it is an image."""
    if IMAGE.name not in table.names:
        return table
    info = {"info": {"features": {IMAGE.name: {"_type": "Image"}}}}
    return table.with_metadata({"huggingface": json.dumps(info)})
