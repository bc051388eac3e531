"""Take images out of a root for good: their bytes, URLs, captions and all that was computed of them.

What stays are ids, which are hashes: in ``.purged/ids.parquet``, so that no later run brings an image back, and in
receipts. Marks keep their digests, so nothing is made anew for what is left. Models stay that have learned from an
image, and so do centroids; what lies outside the root is not touched.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.blocklists import BlockedCounts, blocklist_digests
from pipeline.core import query
from pipeline.core.disk import storage_errors
from pipeline.core.progress import Progress
from pipeline.core.query import QueryConfig
from pipeline.purge.gone import Gone, find_gone
from pipeline.purge.journal import Journal
from pipeline.purge.shards import ShardPurge, passed_over, rows_that_go
from pipeline.purge.strays import count_by_folder, remove_copies, strays
from pipeline.storage.catalog import write_catalog
from pipeline.storage.completion import COMPLETE, Mark, is_table, read_marks
from pipeline.storage.damage import shards_with_marks, stages_with_marks
from pipeline.storage.purged import FOLDER, add_purged
from pipeline.storage.roots import storage_of

log = logging.getLogger(__name__)

# Those first whose counts others ask for.
_FIRST = ("source_pairs", "images", "teacher_embeddings")
_MODELS = {"student": "training_shards", "baseline": "images", "ablation": "ablation_data"}
"""Stages that have trained a model, and whose samples it has seen."""

Marks = dict[str, dict[str, Mark]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PurgeReport:
    """``entries`` of the lists, ``unmatched`` of which are not in the root; ``images`` with ``pairs`` that go; ``rows``
    by table; ``look_alikes``: images that stay and are near-duplicates of one that goes; ``receipt``: its name under
    the root, none where nothing was changed."""

    entries: int
    unmatched: int
    images: int
    pairs: int
    rows: dict[str, int]
    files: int
    removed_files: int
    look_alikes: int
    models: list[str]
    receipt: str | None


def purge(
    root: Path, files: Sequence[Path | str], *, dry_run: bool = False, query_config: QueryConfig | None = None
) -> PurgeReport:
    """Take the images that blocklists name out of a root; with ``dry_run`` only count what would go.

    Runs on the root end first, and others wait. A purge that was killed is gone on with, before any other is begun.
    Raises :class:`pipeline.core.errors.BlocklistError` for a list that cannot be read, or names nothing that is there.
    """
    root, storage = Path(root), storage_of(root)
    lists = blocklist_digests(files)
    with storage_errors(f"root {root}"), _alone(root):
        journal = Journal.open(root)
        if journal is not None and not dry_run:
            log.info("purge: going on with the one of %s", journal.content["started"])
            report = _carry_out(root, journal)
            if journal.content["lists"] == lists:
                return report
        marks = _marks(root)
        gone, counts = _find(root, files, marks, query_config or QueryConfig())
        if dry_run:
            return _would_go(root, marks, gone, counts)
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        taken = {PurePosixPath(name).stem for name in storage.names(FOLDER, ".json")}
        if f"purge-{started}" in taken:
            started = next(f"{started}-{n}" for n in range(2, 10**6) if f"purge-{started}-{n}" not in taken)
        counted = {"entries": counts.entries, "unmatched": counts.unmatched}
        # First of all what keeps them from coming back.
        add_purged(root, gone.image_ids)
        return _carry_out(root, Journal.begin(root, started=started, lists=lists, gone=gone, counts=counted))


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the locks of all stages."""
    with contextlib.ExitStack() as locks:
        for stage in stages_with_marks(storage_of(root)):
            # Each of a storage of its own, which knows one lock.
            locks.enter_context(storage_of(root).locked(stage))
        yield


def _marks(root: Path) -> Marks:
    """The marks of all stages, in the order in which they are rewritten."""
    storage = storage_of(root)
    stages = sorted(stages_with_marks(storage), key=lambda stage: (stage not in _FIRST, stage))
    return {stage: read_marks(storage, stage, shards_with_marks(storage, stage)) for stage in stages}


def _find(root: Path, files: Sequence[Path | str], marks: Marks, config: QueryConfig) -> tuple[Gone, BlockedCounts]:
    shards = [mark for stage in marks.values() for shard, mark in stage.items() if shard != COMPLETE]
    scratch = root / ".tmp" / "purge-query"
    try:
        with query.connect(config, scratch=scratch) as connection:
            return find_gone(connection, root, files, shards)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _would_go(root: Path, marks: Marks, gone: Gone, counts: BlockedCounts) -> PurgeReport:
    storage, removed = storage_of(root), Counter[str]()
    for stage, shards in marks.items():
        for shard, mark in shards.items():
            if shard != COMPLETE and not passed_over(stage, shard, gone):
                names = [name for name in mark.files if is_table(name)]
                with storage.borrowed(names):
                    removed.update(rows_that_go(root, names, gone))
    marked = [name for shards in marks.values() for mark in shards.values() for name in mark.files]
    return PurgeReport(
        entries=counts.entries,
        unmatched=counts.unmatched,
        images=len(gone.image_ids),
        pairs=len(gone.sample_ids),
        rows=_by_table(removed),
        files=len({name.partition("#")[0] for name in removed}),
        removed_files=len(strays(storage, marked)),
        look_alikes=0,
        models=_models(marks, _by_table(removed)),
        receipt=None,
    )


def _carry_out(root: Path, journal: Journal) -> PurgeReport:
    """Every step may have been done before, in whole or in part; the journal goes last."""
    storage, at_work = storage_of(root), ShardPurge(root, journal)
    marks = _marks(root)
    with Progress(log, "purge", total=sum(map(len, marks.values())), unit="shards") as progress:
        for stage, shards in marks.items():
            whole = shards.pop(COMPLETE, None)
            for shard, mark in shards.items():
                shards[shard] = at_work.shard(stage, shard, mark)
                progress.add(1)
            if stage == "training_shards" and "manifest" in shards:
                samples = sum(mark.rows for shard, mark in shards.items() if shard != "manifest")
                shards["manifest"] = at_work.manifest(stage, shards["manifest"], samples)
            if whole is not None and set(whole.shards) <= set(shards):
                at_work.whole(stage, whole, shards)
    marked = [name for shards in marks.values() for mark in shards.values() for name in mark.files]
    left = strays(storage, marked)
    removed = journal.removing(count_by_folder(left))
    storage.remove(left)
    for folder in (".tmp", ".near_duplicates"):
        shutil.rmtree(root / folder, ignore_errors=True)
    write_catalog(root)
    report = _written(root, journal, marks, removed)
    journal.end()
    if storage.remote:
        remove_copies(root)
    return report


def _written(root: Path, journal: Journal, marks: Marks, removed_files: dict[str, int]) -> PurgeReport:
    """Write the receipt: what was done, by ids and counts."""
    entries, gone = journal.entries(), journal.gone
    removed = {name: rows for entry in entries.values() for name, rows in entry.removed.items()}
    alike = sorted({image for entry in entries.values() for image in entry.facts.get("look_alikes", [])})
    report = PurgeReport(
        **journal.content["counts"],
        images=len(gone.image_ids),
        pairs=len(gone.sample_ids),
        rows=_by_table(removed),
        files=len({name.partition("#")[0] for name in removed}),
        removed_files=sum(removed_files.values()),
        look_alikes=len(alike),
        models=_models(marks, _by_table(removed)),
        receipt=f"{FOLDER}/purge-{journal.content['started']}.json",
    )
    sizes = {name: size for shards in marks.values() for mark in shards.values() for name, size in mark.files.items()}
    rewritten = {
        name: {"bytes_before": size, "bytes": sizes[name]}
        for (_, shard), entry in entries.items()
        if shard != COMPLETE
        for name, size in entry.mark.files.items()
        if sizes[name] != size
    }
    content = dataclasses.asdict(report) | {
        "started": journal.content["started"],
        "image_ids": gone.image_ids.tolist(),
        "files": {name: numbers | {"rows": removed.get(name, 0)} for name, numbers in sorted(rewritten.items())},
        "removed_files": removed_files,
        "look_alikes": alike,
        "left": _left(
            report.models, sorted({tar for entry in entries.values() for tar in entry.facts.get("adopted", [])})
        ),
    }
    assert report.receipt is not None
    storage_of(root).write_text(report.receipt, json.dumps(content, indent=1))
    return report


def _left(models: list[str], tars: list[str]) -> dict[str, Any]:
    """What a purge does not reach. ``tars``: those that were adopted, and still have images that went."""
    return {
        "adopted_tars": tars,
        "models": {name: f"trained on {_MODELS[name]}, which had some of the images" for name in models},
        "elsewhere": [
            "lists outside the root, and the demo's corpus",
            "copies that other machines have of a root in an object store, and earlier versions that the store keeps",
            "pictures in Dagster's own storage",
            "centroids, which are means of embeddings",
        ],
    }


def _by_table(removed: dict[str, int]) -> dict[str, int]:
    rows = Counter[str]()
    for name, count in removed.items():
        table, captions = str(PurePosixPath(name.partition("#")[0]).parent), name.partition("#")[2]
        rows[f"{table} ({captions})" if captions else table] += count
    return dict(sorted(rows.items()))


def _models(marks: Marks, rows: dict[str, int]) -> list[str]:
    """Stages whose model has seen what goes, as far as tables tell."""
    return [
        stage
        for stage, table in _MODELS.items()
        if marks.get(stage) and any(name.split("/")[0].split(" ")[0] == table for name in rows)
    ]
