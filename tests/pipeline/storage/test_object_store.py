"""A root in an S3-compatible store: the same stages, marks and promises as in a folder, from any machine."""

import http.server
import json
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError, MissingInputError, StorageError
from pipeline.storage import lock as lease
from pipeline.storage.config import StorageConfig
from pipeline.storage.lock import Lease
from pipeline.storage.object_store import ObjectStorage
from pipeline.storage.result import read_result
from pipeline.storage.roots import open_root, storage_of
from pipeline.storage.stage import Stage
from tests.s3 import Store


def stage(root: Path, inputs: dict[str, int]) -> Stage:
    return Stage(root, "numbers", version=1, config=1, inputs=inputs)


def write(root: Path, shards: dict[str, int]) -> list[str]:
    """Run a stage that writes one row and a tar per shard; returns the shards that it worked on."""
    numbers = stage(root, shards)
    worked: list[str] = []

    def work(pending: list[str]) -> None:
        for shard in pending:
            worked.append(shard)
            with numbers.output(shard) as output:
                pq.write_table(pa.table({"value": [shards[shard]]}), output.path(f"source_pairs/{shard}.parquet"))
                output.path(f"source_pairs/{shard}.tar").write_bytes(b"tar " * shards[shard])
                output.rows = 1

    numbers.run(work)
    return worked


def values(root: Path) -> list[int]:
    return [pq.read_table(path)["value"][0].as_py() for path in read_result(root, "numbers").parquet("source_pairs")]


def test_another_machine_does_nothing_twice_and_reads_what_it_needs(s3: Store) -> None:
    here, there = open_root(s3.url, s3.machine("a")), open_root(s3.url + "/", s3.machine("b"))
    assert write(here, {"a": 1, "b": 2}) == ["a", "b"]
    assert write(there, {"a": 1, "b": 2}) == []
    assert not (there / "source_pairs").exists()
    assert values(there) == [1, 2]
    assert write(there, {"a": 1, "b": 3, "c": 4}) == ["b", "c"]
    assert values(here) == [1, 3, 4]
    # Tars are read once, by those who need them.
    assert not list(here.rglob("*.tar"))
    with read_result(here, "numbers").borrowed(".tar"):
        assert (here / "source_pairs" / "b.tar").read_bytes() == b"tar " * 3
    assert not list(here.rglob("*.tar"))
    assert storage_of(there).part("source_pairs/c.tar", 4, 3) == b"tar"


def test_what_no_longer_belongs_goes_everywhere(s3: Store) -> None:
    here, there = open_root(s3.url, s3.machine("a")), open_root(s3.url, s3.machine("b"))
    write(here, {"a": 1, "b": 2})
    assert values(there) == [1, 2]
    write(here, {"a": 1})
    assert s3.objects("source_pairs") == {"source_pairs/a.parquet", "source_pairs/a.tar"}
    assert s3.objects(".marks/numbers") == {".marks/numbers/a.json", ".marks/numbers/complete.json"}
    folder = read_result(there, "numbers").folder("source_pairs")
    assert sorted(path.name for path in folder.iterdir()) == ["a.parquet", "a.tar"]


def test_a_copy_of_an_object_that_was_replaced_is_copied_again(s3: Store) -> None:
    here, there = open_root(s3.url, s3.machine("a")), open_root(s3.url, s3.machine("b"))
    write(here, {"a": 1})
    assert values(there) == [1]
    size = (there / "source_pairs" / "a.parquet").stat().st_size
    write(here, {"a": 2})
    assert (here / "source_pairs" / "a.parquet").stat().st_size == size
    assert values(there) == [2]
    (there / "source_pairs" / "a.parquet").write_bytes(bytes(size))
    assert values(there) == [2]


@pytest.mark.parametrize("harm", ["deleted", "truncated"])
def test_harmed_objects_are_noticed_and_mended(s3: Store, harm: str) -> None:
    root, inputs = open_root(s3.url, s3.machine("a")), {"a": 1, "b": 2}
    write(root, inputs)
    if harm == "deleted":
        s3.delete("source_pairs/a.tar")
    else:
        s3.write("source_pairs/a.tar", s3.read("source_pairs/a.tar")[:-1])
    with pytest.raises(MissingInputError, match=rf"under {s3.url}: source_pairs/a\.tar is missing or does not have"):
        read_result(root, "numbers")
    assert write(root, inputs) == ["a"]
    assert values(root) == [1, 2]


def test_a_run_that_ends_before_its_mark_has_done_nothing(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    root = open_root(s3.url, s3.machine("a"))

    def cut_off(self: ObjectStorage, name: str, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ObjectStorage, "write_text", cut_off)
        write(root, {"a": 1})
    assert "source_pairs/a.parquet" in s3.objects("source_pairs")
    assert not s3.objects(".marks")
    assert write(open_root(s3.url, s3.machine("b")), {"a": 1}) == ["a"]


def test_the_catalog_is_of_the_store(s3: Store) -> None:
    root = open_root(s3.url, s3.machine("a"))
    write(root, {"a": 1, "b": 2})
    text = s3.read("catalog.sql").decode()
    assert f"'{s3.url}'" in text and "/source_pairs/*.parquet" in text
    connection = duckdb.connect()
    connection.register_filesystem(s3.files)
    connection.execute(text)
    assert connection.sql("SELECT sum(value) FROM source_pairs").fetchall() == [(3,)]


def test_a_stage_that_was_sent_away_writes_from_there(s3: Store, tmp_path: Path) -> None:
    inputs = {"a": 1, "b": 2}
    numbers = stage(open_root(s3.url, s3.machine("a")), inputs)
    with numbers.running():
        part = numbers.only("b")
        assert len(pickle.dumps(part)) < 2000
        # Another machine, whose folder for copies is at the same path, but its own.
        numbers.root.rename(tmp_path / "of the first")
        sent = pickle.loads(pickle.dumps(part))
        sent.attach()
        with sent.output("b") as output:
            output.path("source_pairs/b.tar").write_bytes(b"b")
        assert numbers.pending() == ["a"]


def test_roots_that_cannot_be_reached_are_typed_errors(s3: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        open_root("nonsense://bucket/root", s3.machine("a"))
    gone = open_root("s3://no-such-bucket/root", s3.machine("b"))
    with pytest.raises(StorageError, match="no-such-bucket"):
        write(gone, {"a": 1})
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    silent = open_root("s3://bucket/root", StorageConfig(options=options, scratch=str(tmp_path / "c")))
    with pytest.raises(StorageError, match="cannot be reached"):
        stage(silent, {"a": 1}).is_complete()
    assert (silent / ".remote.json").stat().st_mode & 0o077 == 0


class Overloaded(http.server.BaseHTTPRequestHandler):
    """A store that asks everyone for fewer requests, for ever."""

    def do_GET(self) -> None:
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


def test_a_store_that_throttles_for_ever_is_a_typed_error(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Overloaded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = {
            "key": "a",
            "secret": "b",
            "endpoint_url": f"http://127.0.0.1:{server.server_port}",
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }
        root = open_root("s3://bucket/root", StorageConfig(options=options, scratch=str(tmp_path)))
        with pytest.raises(StorageError, match=r"root s3://bucket/root: the store refuses: .*run again later"):
            stage(root, {"a": 1}).is_complete()
        server.shutdown()


@pytest.mark.parametrize("prefix", ["a*", "a?b", "runs[1]", "a//b", "/a", "a#b"])
def test_prefixes_that_a_file_system_would_read_otherwise_are_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ConfigError, match="choose another"):
        open_root(f"s3://bucket/{prefix}", StorageConfig(scratch=str(tmp_path)))


def test_files_of_the_root_itself_have_sizes_and_are_fetched_and_removed(s3: Store) -> None:
    here, there = (open_root(s3.url, s3.machine(name)) for name in "ab")
    storage_of(here).write_text("report.html", "four")
    assert storage_of(there).sizes(["report.html", "none.html"]) == {"report.html": 4}
    storage_of(there).fetch(["report.html"])
    assert (there / "report.html").read_text() == "four"
    storage_of(there).remove(["report.html"])
    assert storage_of(here).sizes(["report.html"]) == {} and not (there / "report.html").exists()


class TestLease:
    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lease, "_POLL_S", 0.05)

    def key(self, s3: Store) -> str:
        return f"{s3.prefix}/lock"

    def test_only_one_holds_it(self, s3: Store) -> None:
        first, second = (Lease(s3.files, self.key(s3), what="x", term_s=30) for _ in range(2))
        first.acquire()
        waiting = threading.Thread(target=second.acquire)
        waiting.start()
        waiting.join(0.7)
        assert waiting.is_alive()
        first.release()
        waiting.join(60)
        assert not waiting.is_alive()
        second.release()
        assert not s3.files.exists(self.key(s3))

    def test_a_holder_that_is_silent_or_dead_is_replaced(self, s3: Store) -> None:
        gone = {"token": "x", "machine": "elsewhere", "process": 1, "count": 1}
        for holder, term in ((gone, 1.0), (gone | {"machine": os.uname().nodename, "process": 2**22 + 1}, 600.0)):
            s3.files.pipe_file(self.key(s3), json.dumps(holder).encode())
            mine = Lease(s3.files, self.key(s3), what="x", term_s=term)
            mine.acquire()
            mine.release()

    def test_a_holder_that_was_replaced_gives_up(self, s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lease, "TERM_S", 0.2)
        root = open_root(s3.url, s3.machine("a"))
        numbers = stage(root, {"a": 1})
        with pytest.raises(StorageError, match="has taken this stage"), numbers.running():
            deadline = time.monotonic() + 60
            while not numbers._storage._lease.lost and time.monotonic() < deadline:  # type: ignore[attr-defined]
                # More than once: ours may have looked just before, and write over it.
                s3.write(".marks/numbers/lock", json.dumps({"token": "of another"}).encode())
                time.sleep(0.02)
            with numbers.output("a") as output:
                output.path("source_pairs/a.tar").write_bytes(b"late")
        assert not s3.objects("source_pairs")
        assert json.loads(s3.read(".marks/numbers/lock"))["token"] == "of another"

    def test_a_store_that_ignores_the_condition(self, s3: Store) -> None:
        class Unconditional:
            """What an older S3-compatible store does with `If-None-Match`: nothing."""

            def __getattr__(self, name: str) -> Any:
                return getattr(s3.files, name)

            def pipe_file(self, key: str, data: bytes, mode: str = "overwrite") -> None:
                s3.files.pipe_file(key, data)

        both = [Lease(Unconditional(), self.key(s3), what="x", term_s=30) for _ in range(2)]
        held: list[Lease] = []

        def take(mine: Lease) -> None:
            mine.acquire()
            held.append(mine)

        threads = [threading.Thread(target=take, args=(mine,), daemon=True) for mine in both]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while not held and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        assert len(held) == 1
        held[0].release()
        for thread in threads:
            thread.join(60)
        assert len(held) == 2
        held[1].release()
