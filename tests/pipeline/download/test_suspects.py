"""Samples whose fetch costs the worker: what is noted of them, and a server that ends or stops whoever asks."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.download import watchdog
from pipeline.download.images_of import images_of
from pipeline.download.stage import download_images
from pipeline.download.suspects import NotingOpener, left_unanswered, write_suspects
from pipeline.web.opener import GuardedOpener
from pipeline.web.outcomes import SampleError
from pipeline.web.rules import Guard
from tests.pipeline.download import hostile
from tests.pipeline.download.hostile import WEB, hostile_server
from tests.pipeline.download.test_faults import assert_whole, config_for, make_pairs, tables


def test_what_is_being_asked_for_is_noted_before_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, url = tmp_path / "00003.asked", "http://a.test/\n1"
    seen = []

    def ask(_: GuardedOpener, asked: str, *__: Any) -> None:
        seen.append(left_unanswered(tmp_path, "00003"))
        if asked.endswith("2"):
            raise SampleError("too_slow", "not complete in time")

    monkeypatch.setattr(GuardedOpener, "open", ask)
    with NotingOpener(Guard(), {}, path) as opener:
        opener.open(url)
        with pytest.raises(SampleError):
            opener.open("http://a.test/2")
    assert seen == [[url], ["http://a.test/2"]]
    assert left_unanswered(tmp_path, "00003") == left_unanswered(tmp_path, "00004") == []
    # The same URL twice, answered once; and a line that was cut.
    path.write_text('[1, "u"]\n[1, "v"]\n[1, "u"]\n[-1, "u"]\n[-1, "v"]\n[1, "w')
    assert left_unanswered(tmp_path, "00003") == ["u"]


def test_what_has_cost_a_worker_is_not_asked_for_and_says_why() -> None:
    opener = NotingOpener(Guard(), {"http://a.test/": "was killed by SIGSEGV"}, None)
    with pytest.raises(SampleError) as error:
        opener.open("http://a.test/")
    assert str(error.value) == "[failed_in_worker] fetching cost its worker: it was killed by SIGSEGV"


def test_suspects_are_listed_as_urllib_spells_them(tmp_path: Path) -> None:
    source = tmp_path / "list.parquet"
    pq.write_table(pa.table({"image_id": [1, 2], "url": ["<http://a.test/>", "b"], "caption": ["a", "b"]}), source)
    write_suspects(source, ["http://a.test/", "b"], tmp_path / "suspects.parquet")
    table = pq.read_table(tmp_path / "suspects.parquet")
    assert (table["url"].to_pylist(), table.column_names) == (["http://a.test/", "b"], ["image_id", "url", "caption"])
    assert images_of(tmp_path / "suspects.parquet")["url"].to_pylist() == ["http://a.test/", "b"]


def signalling(number: signal.Signals) -> Any:
    """A page that sends a signal to the process that asks for it."""

    def answer(handler: Any) -> None:
        ends = handler.client_address[1], handler.server.server_address[1]
        for connection in psutil.net_connections("tcp"):
            if connection.raddr and connection.pid and (connection.laddr.port, connection.raddr.port) == ends:
                os.kill(connection.pid, number)

    return answer


def late(handler: Any) -> None:
    time.sleep(0.5)
    body = handler.files["/good"]
    handler._head(200, **{"Content-Length": str(len(body))})
    handler.wfile.write(body)


@pytest.mark.slow
def test_samples_whose_fetch_costs_their_worker_fail_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(hostile._SPECIAL, "/kill", signalling(signal.SIGKILL))
    monkeypatch.setitem(hostile._SPECIAL, "/stop", signalling(signal.SIGSTOP))
    monkeypatch.setitem(hostile._SPECIAL, "/late", late)
    monkeypatch.setattr(watchdog, "_GRACE_S", 1.0)
    root, paths = tmp_path / "root", ["/good"] * 10 + ["/late", "/kill", "/late", "/stop"] + ["/good"] * 10
    make_pairs(root, paths)
    with hostile_server() as server:
        result = download_images(root, config_for(server, sample_timeout_s=6, worker_restarts=2))
    assert result.stats == {"downloaded": len(paths) - 2, "failed": 2, "failed_in_worker": 2}
    rows = tables(root)
    [killed, stopped] = sorted((row for row in rows if row["status"] != "success"), key=lambda row: row["url"])
    assert (killed["url"], killed["error"]) == (
        f"http://{WEB}/kill?image=11",
        "fetching cost its worker: it was killed by SIGKILL",
    )
    assert stopped["url"] == f"http://{WEB}/stop?image=13"
    assert stopped["error"].startswith("fetching cost its worker: it gave no sign for ")
    assert sorted(row["key"] for row in rows) == [f"00000000{number:02d}"[-7:] for number in range(len(paths))]
    assert "/late" not in caplog.text
    assert_whole(root)
