"""After a purge no byte of an image, its URL or a caption is under the root, and nothing has to be made anew."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import BlocklistError, MissingInputError, StorageError
from pipeline.core.query import QueryConfig
from pipeline.core.tars import Place, TarReader, read_index
from pipeline.purge.purge import purge
from pipeline.storage.local import LocalStorage
from pipeline.storage.purged import purged_images
from pipeline.storage.result import read_result
from pipeline.storage.roots import open_root
from pipeline.storage.verify import verify_root
from tests.pipeline.purge import roots
from tests.s3 import Store
from tests.shared import made_once

PURGED = [1, 4, 5, 11]
"""One that stands for others, one whose captions another has got, one alone, and one that was never there."""


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "purge", lambda folder: roots.build(folder / "root")) / "root"


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "root"))


def listed(tmp_path: Path, *entries: Any) -> list[Path]:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(map(str, entries)))
    return [path]


def everything(root: Path) -> Iterator[tuple[str, bytes]]:
    """All bytes under a root: of files, and of the columns of Parquet, which are compressed there."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        yield str(path.relative_to(root)), path.read_bytes()
        if path.read_bytes()[:4] == b"PAR1":
            for name, column in zip(pq.read_table(path).column_names, pq.read_table(path).columns):
                sink = io.BytesIO()
                for chunk in column.chunks:
                    for buffer in filter(None, chunk.buffers()):
                        sink.write(buffer.to_pybytes())
                yield f"{path.relative_to(root)}:{name}", sink.getvalue() + repr(column.to_pylist()).encode()


def traces(root: Path, image: int) -> list[str]:
    """Where something of an image is found."""
    needles = {
        # What comes first in a JPEG, tables, is the same in all of them.
        "bytes": roots.jpeg(image)[-200:-100],
        "embedding": roots.vector(image).tobytes(),
        "url": roots.url(image).encode(),
        **{f"caption {number}": text.encode() for number, text in enumerate(roots.captions(image))},
        **{
            f"caption's embedding {number}": roots.words(image, number).tobytes()
            for number in range(len(roots.captions(image)))
        },
    }
    found = []
    for name, content in everything(root):
        for what, needle in needles.items():
            # Number 1 is the beginning of number 11.
            ending = rb"(?![0-9])" if "caption " in what else b""
            if re.search(re.escape(needle) + ending, content):
                found.append(f"{name}: {what}")
    return found


def snapshot(root: Path) -> dict[str, bytes]:
    """All files but those that hold times, places or processes."""
    left_out = re.compile(r"catalog\.sql|\.marks/.*/lock|\.purged/purge-.*")
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if not left_out.fullmatch(name)}


def receipt(root: Path) -> dict[str, Any]:
    (path,) = (root / ".purged").glob("purge-*.json")
    content = json.loads(path.read_text())
    return {name: value for name, value in content.items() if name not in ("started", "receipt")}


def rows(root: Path, table: str) -> list[dict[str, Any]]:
    return [row for path in sorted((root / table).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_nothing_of_an_image_is_left_and_all_else_is(root: Path, tmp_path: Path) -> None:
    for image in PURGED:
        places = {place.partition("/")[0] for place in traces(root, image)}
        assert places >= {
            "source_pairs",
            *({"images", "training_shards"} - ({"training_shards", "images"} if image == 11 else set())),
        }
    before = {image: traces(root, image) for image in (2, 3, 7)}
    report = purge(root, listed(tmp_path, 1, roots.url(4), "host:nowhere.example", roots.sample_id(5, 0), 11))
    assert (report.entries, report.unmatched, report.images, report.pairs) == (5, 1, 4, 4)
    assert report.models == ["student"] and report.look_alikes == 3
    for image in PURGED:
        assert traces(root, image) == []
    strays = re.compile(r"\.tmp|\.near_duplicates|pictures|\.marks/page|report\.html|runs|images/00007")
    for image, places in before.items():
        moved = "balanced_pairs" if image == 2 else "training_shards/0000[0-9].tar: caption" if image == 3 else "-"
        left = [place for place in places if not strays.match(place)]
        assert set(traces(root, image)) >= {place for place in left if not re.match(moved + "|training_shards", place)}
    assert purged_images(root).tolist() == PURGED
    text = json.dumps(receipt(root))
    assert "example" not in text and "words" not in text
    assert receipt(root)["look_alikes"] == [0, 2, 3] and receipt(root)["image_ids"] == PURGED
    assert receipt(root)["rows"]["source_pairs"] == receipt(root)["rows"]["source_attributes"] == 4


def test_the_root_is_complete_and_consistent(root: Path, tmp_path: Path) -> None:
    digests = {name: result.digest for name, result in roots.run_again(root).items()}
    purge(root, listed(tmp_path, *PURGED))
    assert verify_root(root).damage == []
    for name, result in roots.run_again(root).items():
        assert result.computed == 0 and result.digest == digests[name], name
        result.check()
    for stage in ("source_pairs", "images", "teacher_embeddings", "balance", "clusters", "training_shards"):
        result = read_result(root, stage)
        assert all(pq.read_metadata(path).num_rows >= 0 for path in result.files if path.suffix == ".parquet")
        counted = {table: len(rows(root, table)) for table in result.tables if table != "index"}
        assert {table: count for table, count in result.tables.items() if table != "index"} == counted
    left = [image for image in range(roots.IMAGES) if image not in PURGED]
    assert sorted({row["image_id"] for row in rows(root, "source_pairs")}) == left
    images = read_result(root, "images")
    assert (images.rows, images.stats["downloaded"], images.stats["failed"]) == (8, 8, 0)
    embeddings = read_result(root, "teacher_embeddings")
    assert (embeddings.rows, embeddings.stats["captions"]) == (8, len(rows(root, "caption_embeddings")))
    for row in rows(root, "teacher_embeddings"):
        assert row["image_embedding"] == roots.vector(row["image_id"]).tolist()


def test_what_is_listed_again_does_not_come_back(root: Path, tmp_path: Path) -> None:
    purge(root, listed(tmp_path, *PURGED))
    before, digest = rows(root, "source_pairs"), read_result(root, "source_pairs").digest
    shutil.rmtree(root / ".marks/source_pairs")
    roots.list_pairs(root)
    assert rows(root, "source_pairs") == before and read_result(root, "source_pairs").digest == digest
    read_result(root, "source_pairs").check()
    assert verify_root(root).damage == []
    assert all(not result.computed for result in roots.run_again(root).values())
    assert not any(traces(root, image) for image in PURGED)


def test_the_balance_is_one_of_what_is_left(root: Path, tmp_path: Path) -> None:
    purge(root, listed(tmp_path, *PURGED))
    groups = {row["image_id"]: row for row in rows(root, "balance_groups")}
    assert sorted(groups) == [3, 6, 7, 8, 9, 10]
    assert all(row["kept"] and row["group_size"] == 1 and row["group_id"] == image for image, row in groups.items())
    assert rows(root, "removed_pairs") == rows(root, "blocked_pairs") == []
    # Those that were removed for an image that is gone are neither kept nor lost.
    filtered = {row["sample_id"]: row["reason"] for row in rows(root, "filtered_pairs")}
    assert set(filtered) == {roots.sample_id(0, 0), roots.sample_id(0, 1), roots.sample_id(2, 0)}
    assert set(filtered.values()) == {"was removed for an image that is purged"}
    balanced = {row["sample_id"] for row in rows(root, "balanced_pairs")}
    assert balanced == {row["sample_id"] for row in rows(root, "source_pairs")} - set(filtered)
    stats = read_result(root, "balance").stats
    names = ("samples", "kept", "removed", "blocked", "filtered", "filtered_pairs")
    assert [stats[name] for name in names] == [8, 6, 0, 0, 2, 3]
    assert sorted(row["image_id"] for row in rows(root, "cluster_assignments")) == sorted(groups)
    # The same without the purge's help.
    again = roots.balance_pairs(root, roots.BALANCE.model_copy(update={"threshold": 0.31}), QueryConfig())
    assert (again.stats["samples"], again.stats["kept"], again.stats["removed"]) == (8, 7, 1)


def test_forest_and_training_samples(root: Path, tmp_path: Path) -> None:
    before = {row["image_id"]: row for row in training_samples(root)}
    purge(root, listed(tmp_path, *PURGED))
    # 0 and 2 were linked through 1, along its longer edge.
    assert [(row["id_a"], row["id_b"]) for row in rows(root, "near_duplicates")] == [(0, 2)]
    after = {row["image_id"]: row for row in training_samples(root)}
    assert sorted(after) == [3, 6, 7, 8, 9, 10]
    for image, row in after.items():
        if image != 3:
            assert row == before[image]
    assert before[3]["json"]["captions"] == [*roots.captions(4), *reversed(roots.captions(3))]
    assert after[3]["json"]["captions"] == list(reversed(roots.captions(3)))
    assert after[3]["json"]["sample_ids"] == [roots.sample_id(3, 1), roots.sample_id(3, 0)]
    assert after[3]["txt"] == roots.captions(3)[1] and after[3]["jpg"] == roots.jpeg(3)
    assert np.array_equal(after[3]["text"], [roots.words(3, 1), roots.words(3, 0)])
    assert json.loads((root / "training_shards/manifest.json").read_text())["samples"] == 6


def training_samples(root: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted((root / "training_shards/index").glob("*.parquet")):
        reader = TarReader(root / "training_shards" / f"{path.stem}.tar")
        for row in read_index(path).to_pylist():
            members = reader.sample(*Place.of(row))
            text = np.load(io.BytesIO(members["text.npy"])).tolist()
            found.append({"image_id": row["image_id"], "json": json.loads(members["json"]), "jpg": members["jpg"],
                          "txt": members["txt"].decode(), "text": text})  # fmt: skip
    return found


def test_a_dry_run_changes_nothing_and_counts_the_same(root: Path, tmp_path: Path) -> None:
    before = snapshot(root)
    planned = purge(root, listed(tmp_path, *PURGED), dry_run=True)
    assert snapshot(root) == before and planned.receipt is None
    done = purge(root, listed(tmp_path, *PURGED))
    for name in ("entries", "unmatched", "images", "pairs", "rows", "files", "removed_files", "models"):
        assert getattr(planned, name) == getattr(done, name), name


def test_again_and_for_nothing(root: Path, tmp_path: Path) -> None:
    purge(root, listed(tmp_path, 1))
    before = snapshot(root)
    with pytest.raises(BlocklistError, match="none of the 2 entries of the list is there"):
        purge(root, listed(tmp_path, 1, "host:nowhere.example"))
    assert snapshot(root) == before
    purge(root, listed(tmp_path, 7, 1))
    assert purged_images(root).tolist() == [1, 7] and not traces(root, 7)
    assert len(list((root / ".purged").glob("purge-*.json"))) == 2
    assert verify_root(root).damage == [] and all(not result.computed for result in roots.run_again(root).values())
    with pytest.raises(MissingInputError, match="no source_pairs"):
        purge(tmp_path / "empty", listed(tmp_path, 1))


def test_two_purges_end_as_one_of_both(whole: Path, root: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(whole, tmp_path / "other"))
    purge(root, listed(tmp_path, 5, 7))
    for image in (7, 5):
        purge(other, listed(tmp_path, image))
    assert snapshot(root) == snapshot(other)


class Crash(BaseException):
    """Not to be caught by anything."""


def breaking(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> list[str]:
    """Let the ``at``-th change of a root end the process, before or after it was made; returns changes as they come."""
    changes: list[str] = []
    for name in ("write_text", "publish", "remove"):
        original = getattr(LocalStorage, name)

        def changed(self: LocalStorage, *values: Any, original: Any = original, name: str = name) -> None:
            changes.append(name)
            if len(changes) == at and not after:
                raise Crash
            original(self, *values)
            if len(changes) == at:
                raise Crash

        monkeypatch.setattr(LocalStorage, name, changed)
    return changes


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_purge_that_broke_anywhere_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    files = listed(tmp_path, *PURGED)
    reference = Path(shutil.copytree(whole, tmp_path / "reference"))
    with monkeypatch.context() as patch:
        changes = breaking(patch, 0, after=after)
        purge(reference, files)
        steps = len(changes)
    assert steps > 50
    # Every second step by the two runs of this test, and the last ones, after which nothing is known any more.
    for at in sorted({*range(1 + 2 * after, steps + 1, 4), *range(steps - 4, steps + 1)}):
        broken = Path(shutil.copytree(whole, tmp_path / f"broken-{at}"))
        with monkeypatch.context() as patch, pytest.raises(Crash):
            breaking(patch, at, after=after)
            purge(broken, files)
        half = (broken / ".purged/journal.json").exists()
        if half:
            with pytest.raises(StorageError, match="a purge of this root was interrupted"):
                roots.balance_pairs(broken, roots.BALANCE.model_copy(update={"threshold": 0.31}), QueryConfig())
        if half or traces(broken, 5):
            purge(broken, files)
        assert snapshot(broken) == snapshot(reference), f"step {at}"
        assert receipt(broken) == receipt(reference), f"step {at}"
        shutil.rmtree(broken)


KILLED = """
import os, sys
from pathlib import Path
from pipeline.purge.purge import purge
from pipeline.storage.local import LocalStorage
left = [int(sys.argv[3])]
for name in ("write_text", "publish", "remove"):
    def changed(self, *values, original=getattr(LocalStorage, name)):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), 9)
        original(self, *values)
    setattr(LocalStorage, name, changed)
purge(Path(sys.argv[1]), [Path(sys.argv[2])])
"""


@pytest.mark.slow
def test_a_purge_that_was_killed_goes_on(whole: Path, tmp_path: Path) -> None:
    files = listed(tmp_path, *PURGED)
    reference = Path(shutil.copytree(whole, tmp_path / "reference"))
    purge(reference, files)
    killed = Path(shutil.copytree(whole, tmp_path / "killed"))
    for step in (4, 9, 14):
        command = [sys.executable, "-c", KILLED, str(killed), str(files[0]), str(step)]
        assert subprocess.run(command, check=False, timeout=120).returncode == -9
    purge(killed, files)
    assert snapshot(killed) == snapshot(reference) and receipt(killed) == receipt(reference)


def test_a_purge_of_another_list_finishes_the_first(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Crash):
        breaking(patch, 12, after=False)
        purge(root, listed(tmp_path, 5))
    purge(root, listed(tmp_path, 7))
    assert not traces(root, 5) and not traces(root, 7)
    assert purged_images(root).tolist() == [5, 7]
    assert len(list((root / ".purged").glob("purge-*.json"))) == 2


@pytest.mark.slow
def test_a_root_in_a_store(s3: Store, tmp_path: Path) -> None:
    here = open_root(s3.url, s3.machine("a"))
    roots.build(here)
    digests = {name: result.digest for name, result in roots.run_again(here).items()}
    purge(here, listed(tmp_path, *PURGED))
    copy = tmp_path / "copy"
    for name in s3.objects():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(s3.read(name))
    for image in PURGED:
        assert traces(copy, image) == traces(here, image) == []
    assert traces(copy, 7)
    there = open_root(s3.url, s3.machine("b"))
    assert verify_root(there).damage == []
    for name, result in roots.run_again(there).items():
        assert result.computed == 0 and result.digest == digests[name], name
    assert purged_images(there).tolist() == PURGED
