"""How far a purge has come, kept under the root: one that was killed goes on, and ends as if it had not been."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.purge.gone import Gone
from pipeline.storage.completion import Mark
from pipeline.storage.purged import FOLDER, JOURNAL
from pipeline.storage.roots import storage_of

_ENTRIES = f"{FOLDER}/journal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A shard that is being rewritten, as it was: its mark, the digests of files that are rewritten, rows
    that go by file, and ``facts`` that its files will not tell any more."""

    mark: Mark
    digests: dict[str, str]
    removed: dict[str, int]
    facts: dict[str, Any]


class Journal:
    """A purge under way. ``started`` names it; ``lists``: digests of the files that it was asked for by."""

    def __init__(self, root: Path, content: dict[str, Any]):
        self._storage = storage_of(root)
        self._entries: dict[tuple[str, str], Entry] = {}
        self.content = content
        ids = content["gone"]
        self.gone = Gone.of(ids["image_ids"], ids["sample_ids"], ids["touched"], ids["shards"])

    @classmethod
    def open(cls, root: Path) -> "Journal | None":
        """The purge that was not finished, if there is one."""
        storage = storage_of(root)
        text = storage.texts([JOURNAL]).get(JOURNAL)
        if text is None:
            return None
        journal = cls(root, json.loads(text))
        for name, entry in storage.texts(storage.below(_ENTRIES)).items():
            content = json.loads(entry)
            stage, _, shard = name.removeprefix(f"{_ENTRIES}/").removesuffix(".json").partition("/")
            journal._entries[stage, shard] = Entry(**content | {"mark": Mark(**content["mark"])})
        return journal

    @classmethod
    def begin(cls, root: Path, *, started: str, lists: Sequence[str], gone: Gone, counts: dict[str, int]) -> "Journal":
        """Write down what is to go, before anything does."""
        ids = {
            "image_ids": gone.image_ids.tolist(),
            "sample_ids": gone.sample_ids.tolist(),
            "touched": gone.touched.tolist(),
            "shards": sorted(gone.shards),
        }
        journal = cls(root, {"started": started, "lists": list(lists), "gone": ids, "counts": counts})
        # Of an earlier one, which ended before it had removed all of them.
        journal._forget_entries()
        journal._storage.write_text(JOURNAL, json.dumps(journal.content))
        return journal

    def entry(self, stage: str, shard: str) -> Entry | None:
        """What is known of a shard that was begun."""
        return self._entries.get((stage, shard))

    def write(self, stage: str, shard: str, entry: Entry) -> None:
        """Keep what a shard was, before it is rewritten."""
        self._storage.write_text(f"{_ENTRIES}/{stage}/{shard}.json", json.dumps(dataclasses.asdict(entry)))
        self._entries[stage, shard] = entry

    def entries(self) -> dict[tuple[str, str], Entry]:
        """All shards that were begun, by stage and shard."""
        return dict(self._entries)

    def removing(self, files: dict[str, int]) -> dict[str, int]:
        """Keep how many files without a mark there are by folder, before they are removed; returns what was kept."""
        if "removed_files" not in self.content:
            self.content["removed_files"] = files
            self._storage.write_text(JOURNAL, json.dumps(self.content))
        return dict(self.content["removed_files"])

    def end(self) -> None:
        """Forget it: first that there is a purge, then what it had done."""
        self._storage.remove([JOURNAL, *self._storage.below(_ENTRIES)])
        shutil.rmtree(self._storage.root / _ENTRIES, ignore_errors=True)

    def _forget_entries(self) -> None:
        self._storage.remove(self._storage.below(_ENTRIES))
        shutil.rmtree(self._storage.root / _ENTRIES, ignore_errors=True)
