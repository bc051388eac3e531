import email.utils
import http.server
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.web import pacing
from pipeline.web.opener import GuardedOpener
from pipeline.web.outcomes import SampleError
from pipeline.web.pacing import HostRestsError, Pacing, seconds_of
from pipeline.web.rules import Guard


class Handler(http.server.BaseHTTPRequestHandler):
    """Refuses so many times, with a header or without, then answers."""

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(time.monotonic())
        server.refusals -= 1
        self.send_response(server.status if server.refusals >= 0 else 200)
        if server.retry_after and server.refusals >= 0:
            self.send_header("Retry-After", server.retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.refusals, running.status, running.retry_after = [], 0, 429, None
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield running
        running.shutdown()


def opener(**changes: object) -> GuardedOpener:
    return GuardedOpener(Guard(**({"allow_private_addresses": True, "sample_timeout_s": 20} | changes)))


def url(server: http.server.ThreadingHTTPServer, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_no_attempt_comes_at_once(server: http.server.ThreadingHTTPServer, status: int) -> None:
    server.refusals, server.status = 3, status
    opener(retries=3).open(url(server))
    first, second, third = gaps(server.asked)
    assert first >= 0.25
    assert second >= 0.5
    assert third >= 1


@pytest.mark.parametrize("by_date", [False, True])
def test_a_server_is_asked_no_sooner_than_it_said(server: http.server.ThreadingHTTPServer, by_date: bool) -> None:
    # A date has whole seconds.
    server.retry_after = email.utils.formatdate(time.time() + 3, usegmt=True) if by_date else "2"
    server.refusals = 1
    opener(retries=1).open(url(server))
    [gap] = gaps(server.asked)
    assert gap >= 1.9


def test_other_samples_of_the_host_wait_too_and_come_apart(server: http.server.ThreadingHTTPServer) -> None:
    server.refusals, server.retry_after = 1, "2"
    shared = opener()
    with pytest.raises(SampleError, match=r"^\[failed_to_download\] HTTP 429: Too Many Requests$"):
        shared.open(url(server))
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda number: shared.open(url(server, f"/{number}")), range(6)))
    refused, *others = server.asked
    assert min(others) - refused >= 1.9
    assert len(others) == 6


def test_who_cannot_wait_so_long_fails_at_once_without_asking(server: http.server.ThreadingHTTPServer) -> None:
    server.refusals, server.retry_after, server.status = 1, "86400", 503
    shared = opener(retries=5)
    began = time.monotonic()
    for path in ("/", "/other"):
        with pytest.raises(
            SampleError, match=r"^\[failed_to_download\] HTTP 503: the server asked to wait \d+ s longer$"
        ):
            shared.open(url(server, path))
    assert time.monotonic() - began < 15
    assert len(server.asked) == 1


def test_who_waits_gives_up_with_the_shard(server: http.server.ThreadingHTTPServer) -> None:
    server.refusals, server.retry_after = 1, "15"
    shared = opener(retries=1)
    threading.Timer(0.5, shared.abort).start()
    began = time.monotonic()
    with pytest.raises(SampleError, match="given up"):
        shared.open(url(server))
    assert time.monotonic() - began < 10


def test_an_answer_makes_up_for_refusals_but_ends_no_rest_and_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacing, "_HOSTS_KEPT", 3)
    hosts = Pacing()
    for _ in range(4):
        hosts.heard("a.test", 503, "100")
    assert 2 <= hosts.back_off_s("a.test", 1) <= 4
    with pytest.raises(HostRestsError):
        hosts.check("a.test")
    hosts.check("b.test")
    hosts.heard("a.test", 404, None)
    with pytest.raises(HostRestsError):
        hosts.check("a.test")
    assert hosts.back_off_s("a.test", 1) <= 0.5
    for number in range(10):
        hosts.heard(f"{number}.test", 429, "100")
    assert list(hosts._hosts) == ["7.test", "8.test", "9.test"]
    assert hosts.back_off_s("9.test", 10_000) <= 16


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), (" 7 ", 7), (None, 0), ("", 0), ("-7", 0), ("7.5", 0), ("soon", 0), ("²", 0),
     ("9" * 5000, float("9" * 300)),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 99 Oct 2015 07:28:00 GMT", 0), (", ,", 0)],
)  # fmt: skip
def test_retry_after(text: str | None, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_a_date_is_measured_from_now() -> None:
    assert 50 < seconds_of(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
