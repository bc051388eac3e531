import http.server
import threading
import urllib.error
from collections.abc import Iterator

import pytest

from pipeline.guard import Guard, is_public


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def fetch(guard: Guard, url: str) -> bytes:
    with guard.opener().open(url, timeout=5) as response:
        return response.read()


def test_mapped_host_is_reached_and_only_by_that_name(server: str) -> None:
    guard = Guard(connect_to={"demo.test": server})
    assert fetch(guard, "http://demo.test/picture") == b"ok"
    with pytest.raises(urllib.error.URLError, match="not public"):
        fetch(guard, f"http://{server}/picture")


@pytest.mark.parametrize(
    "spelling", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_refused_however_it_is_spelt(server: str, spelling: str) -> None:
    port = server.partition(":")[2]
    for url in (f"http://{spelling}:{port}/", f"http://user@{spelling}:{port}/"):
        with pytest.raises(urllib.error.URLError):
            fetch(Guard(), url)


def test_redirect_into_a_private_network_is_refused(server: str) -> None:
    guard = Guard(connect_to={"demo.test": server})
    with pytest.raises(urllib.error.URLError, match="not public"):
        fetch(guard, f"http://demo.test/to/http://{server}/")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        fetch(Guard(allow_private_addresses=True), url)


def test_private_addresses_can_be_allowed(server: str) -> None:
    assert fetch(Guard(allow_private_addresses=True), f"http://{server}/") == b"ok"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public
