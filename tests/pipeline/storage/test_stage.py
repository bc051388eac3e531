import errno
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import MissingInputError, StorageError
from pipeline.storage import local
from pipeline.storage.completion import Mark
from pipeline.storage.result import read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Stage


def write(stage: Stage, shards: dict[str, int]) -> list[str]:
    """Run a stage that writes one row per shard; returns the shards that it worked on."""
    worked: list[str] = []

    def work(pending: list[str]) -> None:
        for shard in pending:
            worked.append(shard)
            with stage.output(shard) as output:
                pq.write_table(pa.table({"value": [shards[shard]]}), output.path(f"source_pairs/{shard}.parquet"))
                output.rows, output.stats = 1, {"total": shards[shard]}

    assert stage.run(work).computed == len(worked)
    return worked


def stage(root: Path, inputs: dict[str, int], config: object = 1) -> Stage:
    return Stage(root, "numbers", version=1, config=config, inputs=inputs)


def test_second_run_does_nothing_and_a_changed_shard_is_redone_alone(tmp_path: Path) -> None:
    first = {"a": 1, "b": 2}
    assert write(stage(tmp_path, first), first) == ["a", "b"]
    assert stage(tmp_path, first).is_complete()
    assert write(stage(tmp_path, first), first) == []
    changed = {"a": 1, "b": 3}
    assert not stage(tmp_path, changed).is_complete()
    assert write(stage(tmp_path, changed), changed) == ["b"]
    assert read_result(tmp_path, "numbers").stats == {"total": 4}


def test_changed_config_redoes_all_and_dropped_shards_are_removed(tmp_path: Path) -> None:
    inputs = {"a": 1, "b": 2}
    write(stage(tmp_path, inputs), inputs)
    assert write(stage(tmp_path, inputs, config=2), inputs) == ["a", "b"]
    write(stage(tmp_path, {"a": 1}, config=2), {"a": 1})
    assert [path.name for path in (tmp_path / "source_pairs").glob("*.parquet")] == ["a.parquet"]
    assert list(read_result(tmp_path, "numbers").shard_digests) == ["a"]


def test_shards_of_other_inputs_stay_where_a_stage_says_so_and_are_taken_again(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def keeping(*shards: str) -> Stage:
        def keep(others: dict[str, Mark]) -> list[str]:
            asked.append(sorted(others))
            return [shard for shard in others if shard != "c"]

        inputs = dict.fromkeys(shards, 1)
        return Stage(tmp_path, "numbers", version=1, config=1, inputs=inputs, keep=keep)

    values = {"a": 1, "b": 2, "c": 3}
    assert write(keeping("a", "c"), values) == ["a", "c"]
    assert write(keeping("b"), values) == ["b"]
    assert asked == [[], ["a", "c"]]
    assert list(read_result(tmp_path, "numbers").shard_digests) == ["b"]
    assert sorted(path.stem for path in (tmp_path / "source_pairs").glob("*.parquet")) == ["a", "b"]
    # What stayed is not made again; what went is.
    assert write(keeping("a", "b", "c"), values) == ["c"]
    assert read_result(tmp_path, "numbers").rows == 3
    write(stage(tmp_path, {"b": 1}), values)
    assert [path.stem for path in (tmp_path / "source_pairs").glob("*.parquet")] == ["b"]


def test_truncated_and_deleted_files_are_noticed(tmp_path: Path) -> None:
    inputs = {"a": 1, "b": 2}
    write(stage(tmp_path, inputs), inputs)
    file = tmp_path / "source_pairs" / "a.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(MissingInputError, match=r"a\.parquet is missing or does not have"):
        read_result(tmp_path, "numbers")
    assert write(stage(tmp_path, inputs), inputs) == ["a"]
    (tmp_path / "source_pairs" / "b.parquet").unlink()
    assert write(stage(tmp_path, inputs), inputs) == ["b"]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = stage(tmp_path, {"a": 1})
    with pytest.raises(RuntimeError), broken.running(), broken.output("a") as output:
        output.path("source_pairs/a.parquet").write_text("half")
        raise RuntimeError
    assert not (tmp_path / "source_pairs").exists()
    with pytest.raises(MissingInputError, match="not complete"):
        read_result(tmp_path, "numbers")


def test_same_content_keeps_the_digest_so_that_later_stages_stay_fresh(tmp_path: Path) -> None:
    write(stage(tmp_path, {"a": 1}), {"a": 1})
    before = read_result(tmp_path, "numbers")
    write(stage(tmp_path, {"a": 1}, config=2), {"a": 1})
    after = read_result(tmp_path, "numbers")
    assert before.digest == after.digest
    assert before.fingerprint != after.fingerprint


def test_a_root_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = stage(tmp_path / "file" / "root", {"a": 1})
    with pytest.raises(StorageError, match="cannot be written"), below.running():
        pass


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EFBIG, "no space left"),
    ],
)
def test_storage_that_refuses_is_a_typed_error_that_names_the_root(tmp_path: Path, number: int, message: str) -> None:
    full = stage(tmp_path, {"a": 1})
    with pytest.raises(StorageError, match=message) as raised, full.running(), full.output("a") as output:
        output.path("source_pairs/a.parquet").write_text("half")
        raise OSError(number, "as the system says it")
    assert str(tmp_path) in str(raised.value)
    assert not (tmp_path / "source_pairs").exists()


def hold(root: Path, started: object, waited_for: object) -> None:
    with stage(root, {"a": 1}).running():
        started.set()
        waited_for.wait(60)
        (root / "over").touch()


def test_two_runs_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    started, waited_for = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, started, waited_for))
    other.start()
    assert started.wait(60)
    # The one that waits says so first; from then on the other may end.
    monkeypatch.setattr(local.log, "info", lambda *_: waited_for.set())
    with stage(tmp_path, {"a": 1}).running():
        assert (tmp_path / "over").exists()
    other.join()
    assert waited_for.is_set()


def test_marks_are_readable_json(tmp_path: Path) -> None:
    write(stage(tmp_path, {"a": 1}), {"a": 1})
    mark = json.loads((tmp_path / ".marks" / "numbers" / "a.json").read_text())
    assert mark["rows"] == 1
    assert list(mark["files"]) == ["source_pairs/a.parquet"]
    assert "read_parquet" in (tmp_path / "catalog.sql").read_text()


UNREADABLE = {
    "empty": lambda text: b"",
    "cut": lambda text: text[: len(text) // 2],
    "zeros": lambda text: bytes(len(text)),
    "not text": lambda text: b"\xff\xfe" + text,
    "another kind": lambda text: b"[1, 2]",
    "a field lost": lambda text: text.replace(b'"digest"', b'"dagest"'),
    "a value of another type": lambda text: text.replace(b'"rows": 1', b'"rows": "x"').replace(
        b'"rows": 2', b'"rows": "x"'
    ),
}


@pytest.mark.parametrize("name", ["a", "complete"])
@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_mark_counts_as_missing(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    inputs = {"a": 1, "b": 2}
    write(stage(tmp_path, inputs), inputs)
    before = read_result(tmp_path, "numbers")
    mark = tmp_path / ".marks" / "numbers" / f"{name}.json"
    mark.write_bytes(damage(mark.read_bytes()))
    if name == "complete":
        with pytest.raises(MissingInputError, match="not complete"):
            read_result(tmp_path, "numbers")
        assert str(mark) in caplog.text
        assert write(stage(tmp_path, inputs), inputs) == []
    else:
        (tmp_path / ".marks" / "numbers" / "complete.json").unlink()
        assert write(stage(tmp_path, inputs), inputs) == ["a"]
        assert str(mark) in caplog.text
    assert read_result(tmp_path, "numbers").digest == before.digest


@pytest.mark.parametrize("change", [{"version": 7}, {"signature": "of a later day"}])
def test_what_a_newer_version_has_made_is_refused_and_left_alone(tmp_path: Path, change: dict[str, object]) -> None:
    write(stage(tmp_path, {"a": 1}), {"a": 1})
    mark = tmp_path / ".marks" / "numbers" / "a.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | change))
    (tmp_path / ".marks" / "numbers" / "complete.json").unlink()
    text = mark.read_text()
    with pytest.raises(StorageError, match="newer version") as raised:
        write(stage(tmp_path, {"a": 1}, config=2), {"a": 1})
    assert str(mark) in str(raised.value) and mark.read_text() == text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"place": 1}'])
def test_a_folder_of_copies_that_forgot_of_what_is_no_root_of_its_own(tmp_path: Path, text: str) -> None:
    (tmp_path / ".remote.json").write_text(text)
    with pytest.raises(StorageError, match=r"\.remote\.json: damaged"):
        storage_of(tmp_path)


def test_a_moved_root_is_complete_and_its_catalog_follows(tmp_path: Path) -> None:
    write(stage(tmp_path / "before", {"a": 1}), {"a": 1})
    (tmp_path / "before").rename(tmp_path / "after")
    moved = stage(tmp_path / "after", {"a": 1})
    assert write(moved, {"a": 1}) == [] and read_result(tmp_path / "after", "numbers").rows == 1
    assert f"'{tmp_path / 'after'}'" in (tmp_path / "after" / "catalog.sql").read_text()


def test_a_stage_that_an_earlier_version_completed_is_marked_again_not_made_again(tmp_path: Path) -> None:
    inputs = {"a": 1, "b": 2}
    write(stage(tmp_path, inputs), inputs)
    for path in (tmp_path / ".marks" / "numbers").glob("*.json"):
        mark = json.loads(path.read_text())
        del mark["tables"], mark["shards"]
        path.write_text(json.dumps(mark))
    assert not stage(tmp_path, inputs).is_complete()
    assert write(stage(tmp_path, inputs), inputs) == []
    assert list(read_result(tmp_path, "numbers").shard_digests) == ["a", "b"]
    assert stage(tmp_path, inputs).is_complete()
