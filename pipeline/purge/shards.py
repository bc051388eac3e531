"""One shard of a stage: its files are rewritten, then the mark that speaks of them.

A mark keeps its fingerprint and its digest, for nothing has to be made anew for what is left: what later stages have
made of the shard is rewritten too. The digest of the bytes that lie there now is kept beside it.
"""

import contextlib
import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core import parquet, schema
from pipeline.core.files import file_digest
from pipeline.download.stage import count_statuses
from pipeline.purge.balance import TABLES, count_images, rewrite_balance, what_moves
from pipeline.purge.gone import Gone
from pipeline.purge.journal import Entry, Journal
from pipeline.purge.rewrite import (
    count_gone,
    look_alikes,
    rewrite_forest,
    rewrite_index,
    rewrite_table,
    rewrite_tar,
    tars_elsewhere,
)
from pipeline.storage.completion import COMPLETE, Mark, digest_of, is_table, mark_name, rows_by_table, sum_stats
from pipeline.storage.roots import storage_of

# Stages whose shards have the names of those of source_pairs: the others need not be looked at, nor copied.
_BY_SHARD = {"images", "teacher_embeddings", "teacher_views", "scores"}
_MANIFEST = "manifest"
# What is counted in a stage's statistics, by the folder whose rows it counts.
_COUNTED = {
    "teacher_embeddings": {"captions": "caption_embeddings"},
    "clusters": {"samples": "cluster_assignments"},
    "training_shards": {"samples": "index"},
    "near_duplicates": {"edges": "near_duplicates"},
    "ablation_data": {"all": "all", "balanced": "balanced", "random": "random"},
}
# Where a mark counts the rows of another table than that of the stage's name.
_ROWS = {"clusters": "cluster_assignments", "training_shards": "index", "ablation_data": "all"}


class ShardPurge:
    """Rewrites shards of a root by one journal."""

    def __init__(self, root: Path, journal: Journal):
        self._root, self._storage, self._journal = root, storage_of(root), journal
        self._gone = journal.gone

    def shard(self, stage: str, shard: str, mark: Mark) -> Mark:
        """Rewrite what has to be of a shard; returns its mark, which is the one it had if nothing goes."""
        entry = self._journal.entry(stage, shard)
        if entry is None and passed_over(stage, shard, self._gone):
            return mark
        names = [name for name in mark.files if is_table(name)]
        with self._storage.borrowed(names):
            if entry is None:
                removed = rows_that_go(self._root, names, self._gone)
                if not any(removed.values()):
                    return mark
                entry = self._begin(stage, shard, mark, removed)
            folder = self._root / ".tmp" / "purge"
            shutil.rmtree(folder, ignore_errors=True)
            tars = _tars(mark, entry.removed)
            with self._storage.borrowed(tars):
                self._storage.publish(_rewritten(self._root, folder, entry, tars, self._gone))
            shutil.rmtree(folder, ignore_errors=True)
            self._storage.fetch(names)
            new = self._marked(stage, entry)
            self._storage.write_text(mark_name(stage, shard), json.dumps(dataclasses.asdict(new), indent=1))
        return new

    def manifest(self, stage: str, mark: Mark, samples: int) -> Mark:
        """Let a manifest of training shards count what is left."""
        name = f"{stage}/{_MANIFEST}.json"
        with self._storage.borrowed([name]):
            content = json.loads((self._root / name).read_text())
            if content["samples"] == samples and self._journal.entry(stage, _MANIFEST) is None:
                return mark
            entry = self._journal.entry(stage, _MANIFEST) or self._begin(stage, _MANIFEST, mark, {})
            self._storage.write_text(name, json.dumps(content | {"samples": samples}, indent=1))
            self._storage.fetch([name])
            new = self._marked(stage, entry)
            self._storage.write_text(mark_name(stage, _MANIFEST), json.dumps(dataclasses.asdict(new), indent=1))
        return new

    def whole(self, stage: str, mark: Mark, marks: Mapping[str, Mark]) -> None:
        """The mark of a whole stage, by those of its shards."""
        entry = self._journal.entry(stage, COMPLETE)
        begun = self._journal.entries()
        changed = {shard: begun[stage, shard].mark for shard in mark.shards if (stage, shard) in begun}
        if not changed:
            return
        if entry is None:
            entry = Entry(mark=mark, digests={}, removed={}, facts={})
            self._journal.write(stage, COMPLETE, entry)
        own = [marks[shard] for shard in mark.shards]
        stats = dict(entry.mark.stats)
        if len(own) == 1:
            stats |= own[0].stats
        else:
            was = sum_stats([*changed.values(), *changed.values()])
            for name, twice in sum_stats([marks[shard] for shard in changed for _ in range(2)]).items():
                if twice != was.get(name, 0):
                    stats[name] = stats.get(name, 0) + (twice - was.get(name, 0)) // 2
        tables = Counter[str]()
        for part in own:
            tables.update(part.tables)
        new = dataclasses.replace(
            entry.mark,
            rows=sum(part.rows for part in own),
            files={name: size for part in own for name, size in part.files.items()},
            tables=dict(tables),
            stats=stats,
            before_purge={name: digest for part in own for name, digest in part.before_purge.items()},
        )
        self._storage.write_text(mark_name(stage, COMPLETE), json.dumps(dataclasses.asdict(new), indent=1))

    def _begin(self, stage: str, shard: str, mark: Mark, removed: dict[str, int]) -> Entry:
        digests = {
            name: mark.before_purge.get(name) or file_digest(self._root / name)
            for name in mark.files
            if name in removed
        }
        facts: dict[str, Any] = {}
        if _is_balance(mark):
            facts = what_moves(self._root, self._gone, mark.stats)
        if stage == "images":
            names = [name for name in removed if _is_index(self._root / name)]
            facts = {
                "adopted": sorted({tar for name in names for tar in tars_elsewhere(self._root / name, self._gone)})
            }
        if stage == "near_duplicates":
            forests = [self._root / name for name in removed]
            facts = {
                "look_alikes": [image for path in forests for image in look_alikes(path, self._gone)],
                "stats": {"samples": mark.stats.get("samples", 0) - self._embedded()},
            }
        entry = Entry(mark=mark, digests=digests, removed=removed, facts=facts)
        self._journal.write(stage, shard, entry)
        return entry

    def _embedded(self) -> int:
        """How many images went that had an embedding; that stage is rewritten before those that ask."""
        entries = self._journal.entries()
        return sum(rows for entry in entries.values() for name, rows in entry.removed.items()
                   if PurePosixPath(name).parts[0] == "teacher_embeddings")  # fmt: skip

    def _marked(self, stage: str, entry: Entry) -> Mark:
        """The mark of a shard whose files are rewritten."""
        old, paths = entry.mark, [self._root / name for name in entry.mark.files]
        sizes = self._storage.sizes(old.files)
        tables = rows_by_table(path for path in paths if path.suffix == ".parquet")
        rows_of = _ROWS.get(stage, stage)
        rows = old.rows - old.tables.get(rows_of, 0) + tables.get(rows_of, 0)
        stats = old.stats | {
            name: tables[table]
            for name, table in _COUNTED.get(stage, {}).items()
            if name in old.stats and table in tables
        }
        stats |= entry.facts.get("stats", {})
        if stage == "images":
            (path,) = [path for path in paths if path.parent.name == "images" and path.suffix == ".parquet"]
            was = {name: 0 for name in old.stats if name not in ("bytes_match", "bytes_mismatch", "bytes_gone")}
            stats |= was | count_statuses(parquet.read_table(path, columns=["status"]))
        if _is_balance(old):
            stats |= count_images({table: self._root / table / f"{table}.parquet" for table in TABLES})
            rows = stats["samples"]
        return dataclasses.replace(
            old,
            rows=rows,
            files={name: sizes[name] for name in old.files},
            tables=tables,
            stats=stats,
            files_digest=digest_of(paths),
            before_purge=old.before_purge | entry.digests,
        )


def passed_over(stage: str, shard: str, gone: Gone) -> bool:
    """Whether a shard cannot have anything that goes."""
    return stage in _BY_SHARD and shard not in gone.shards


def rows_that_go(root: Path, names: list[str], gone: Gone) -> dict[str, int]:
    """Rows that go by file, of files of a shard that are there to be read; captions that have moved count for a tar."""
    tables = [name for name in names if name.endswith(".parquet")]
    removed = {name: count_gone(root / name, gone) for name in tables}
    for name in tables:
        if len(gone.touched) and PurePosixPath(name).parts[:2] == ("training_shards", "index"):
            touched = dataclasses.replace(gone, image_ids=gone.touched, sample_ids=gone.touched[:0])
            moved = count_gone(root / name, touched)
            # Not a row of the index goes for it.
            removed |= {f"{name}#captions": moved} if moved else {}
    return {name: rows for name, rows in removed.items() if rows}


def _is_balance(mark: Mark) -> bool:
    return "balance_groups/balance_groups.parquet" in mark.files


def _tars(mark: Mark, removed: Mapping[str, int]) -> list[str]:
    """The tars of a shard that have something that goes, by their indexes."""
    stems = {PurePosixPath(name.partition("#")[0]).stem for name in removed if not re.fullmatch("images/[^/]+", name)}
    return [name for name in mark.files if name.endswith(".tar") and PurePosixPath(name).stem in stems]


def _rewritten(root: Path, folder: Path, entry: Entry, tars: list[str], gone: Gone) -> dict[str, Path]:
    """What takes the place of which file of a shard."""
    written: dict[str, Path] = {}

    def target(name: str) -> Path:
        written[name] = folder / name
        written[name].parent.mkdir(parents=True, exist_ok=True)
        return written[name]

    if _is_balance(entry.mark):
        return rewrite_balance(root, folder, gone, entry.facts["moved"])
    left = {PurePosixPath(name).stem: rewrite_tar(root / name, target(name), gone) for name in tars}
    for name in entry.mark.files:
        path = PurePosixPath(name)
        if path.suffix != ".parquet":
            continue
        if _is_index(root / name):
            if path.stem in left or name in entry.removed:
                rewrite_index(root / name, target(name), left.get(path.stem))
        elif name in entry.removed and path.parts[0] == "near_duplicates":
            rewrite_forest(root / name, target(name), gone)
        elif name in entry.removed:
            rewrite_table(root / name, target(name), gone)
    return written


def _is_index(path: Path) -> bool:
    with contextlib.suppress(OSError), parquet.reading(path):
        # Images that are there are listed with their places too, but those tables have more to say.
        return set(parquet.open_file(path).schema_arrow.names) <= set(schema.TAR_INDEX.names)
    return False
