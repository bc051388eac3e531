"""Whatever a server sends, what is read of it is bounded."""

import http.client
import tracemalloc
from collections.abc import Iterator

import pytest

from pipeline.web.opener import GuardedOpener
from pipeline.web.outcomes import SampleError
from pipeline.web.rules import Guard
from tests.pipeline.web.floods import FLOODS, HOST, FloodServer, flood_server

MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def server() -> Iterator[FloodServer]:
    with flood_server() as running:
        yield running


def opener(server: FloodServer, **changes: object) -> GuardedOpener:
    values = {"connect_to": {HOST: server.address}, "max_bytes": MAX_BYTES, "sample_timeout_s": 15}
    return GuardedOpener(Guard(**(values | changes)))


@pytest.mark.parametrize("path", FLOODS)
def test_no_answer_is_read_without_bound(server: FloodServer, path: str) -> None:
    flood = FLOODS[path]
    tracemalloc.start()
    try:
        body = opener(server).open(f"http://{HOST}{path}", timeout=5).read()
        found = "failed_to_resize"
    except SampleError as error:
        body, found = b"", f"{error.status} {error.reason}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found == (flood.status if flood.status == "failed_to_resize" else f"{flood.status} {flood.reason}")
    assert len(body) <= MAX_BYTES
    assert server.sent[path] < 2 * MAX_BYTES + (3 << 20)
    # The server's pieces are traced too.
    assert peak < 3 * MAX_BYTES + (1 << 20)


@pytest.mark.parametrize(
    "path", ["/negative-chunk", "/huge-chunk", "/trailers", "/long-headers", "/continue", "/length-of-5000-digits"]
)
def test_robots_txt_is_read_within_the_same_bounds(server: FloodServer, path: str) -> None:
    server.only = path
    tracemalloc.start()
    try:
        status, text = opener(server)._robots_text(f"http://{HOST}/robots.txt")
    except (SampleError, http.client.HTTPException) as error:
        status, text = 0, str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        server.only = None
    assert status in {0, 200}
    assert len(text) <= 1 << 19
    assert server.sent["/robots.txt"] < 2 * MAX_BYTES + (3 << 20)
    assert peak < 4 << 20
