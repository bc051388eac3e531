import http.server
import pickle
import threading
from collections.abc import Iterator

import pytest

from pipeline.core.errors import ConfigError
from pipeline.download.config import ImagesConfig
from pipeline.web.opener import GuardedOpener, installed
from pipeline.web.outcomes import SampleError
from pipeline.web.rules import Guard


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        failures = getattr(self.server, "failures", 0)
        if self.path == "/robots.txt":
            self.answer(200, b"User-agent: clip-cid\nDisallow: /private\n")
        elif self.path == "/busy" and failures:
            self.server.failures = failures - 1
            self.answer(503, b"")
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\n0\r\n\r\n")
        else:
            self.answer(200, b"ok")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def running() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.paths = []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server(running: http.server.ThreadingHTTPServer) -> str:
    return f"127.0.0.1:{running.server_address[1]}"


def fetch(guard: Guard, url: str) -> bytes:
    with GuardedOpener(guard).open(url, timeout=60) as response:
        return response.read()


def test_mapped_host_is_reached_and_only_by_that_name(server: str) -> None:
    guard = Guard(connect_to={"demo.test": server})
    assert fetch(guard, "http://demo.test/picture") == b"ok"
    with pytest.raises(SampleError, match=r"\[refused_address\] address is not public"):
        fetch(guard, f"http://{server}/picture")


def test_the_opener_is_urllibs_while_installed_and_no_longer(server: str) -> None:
    import urllib.request

    before = urllib.request._opener
    opener = GuardedOpener(Guard(connect_to={"demo.test": server}))
    with installed(opener):
        with urllib.request.urlopen("http://demo.test/picture", timeout=60) as response:
            assert response.read() == b"ok"
        assert opener.finished == 1
        assert not opener.in_flight
    assert urllib.request._opener is before


def test_a_guard_travels_whole(server: str) -> None:
    guard = pickle.loads(pickle.dumps(Guard(connect_to={"demo.test": server})))
    assert fetch(guard, "http://demo.test/picture") == b"ok"
    with pytest.raises(SampleError):
        fetch(guard, f"http://{server}/picture")


def test_a_chunked_body_is_read(server: str) -> None:
    assert fetch(Guard(allow_private_addresses=True), f"http://{server}/chunked") == b"hello"


def test_redirects_are_followed_up_to_a_number(server: str) -> None:
    url = f"http://{server}/to/http://{server}/to/http://{server}/x"
    assert fetch(Guard(allow_private_addresses=True, max_redirects=2), url) == b"ok"
    with pytest.raises(SampleError, match="too many redirects"):
        fetch(Guard(allow_private_addresses=True, max_redirects=1), url)


def test_passing_failures_are_tried_again_and_others_not(running: http.server.ThreadingHTTPServer, server: str) -> None:
    guard = Guard(allow_private_addresses=True, retries=2)
    running.failures = 2
    assert fetch(guard, f"http://{server}/busy") == b"ok"
    running.paths.clear()
    with pytest.raises(SampleError, match="more bytes than allowed"):
        fetch(Guard(allow_private_addresses=True, retries=2, max_bytes=1), f"http://{server}/x")
    assert running.paths == ["/x"]


def test_robots_txt_is_asked_once_and_honored(running: http.server.ThreadingHTTPServer, server: str) -> None:
    opener = GuardedOpener(Guard(allow_private_addresses=True, robots_txt=True))
    assert opener.open(f"http://{server}/a").read() == b"ok"
    with pytest.raises(SampleError, match=r"\[opted_out\] robots.txt"):
        opener.open(f"http://{server}/private/b")
    assert running.paths == ["/robots.txt", "/a"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://x/"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(SampleError, match=r"\[refused_address\] scheme is not allowed"):
        fetch(Guard(allow_private_addresses=True), url)


def test_more_schemes_can_be_allowed_but_not_for_redirects(server: str) -> None:
    guard = Guard(allow_private_addresses=True, schemes=("http", "data", "file"))
    assert fetch(guard, "data:text/plain,x") == b"x"
    for target in ("data:text/plain,x", "file:///etc/hostname"):
        with pytest.raises(SampleError, match=r"\[refused_address\] scheme is not allowed"):
            fetch(guard, f"http://{server}/to/{target}")


def test_the_environments_proxies_are_not_used(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(Guard(connect_to={"demo.test": server}), "http://demo.test/x") == b"ok"


def test_a_map_without_a_port_is_named() -> None:
    with pytest.raises(ConfigError, match="expected address:port"):
        Guard(connect_to={"demo.test": "localhost"})


@pytest.mark.parametrize(
    "address", ["localhost:", ":80", "localhost:0", "localhost:99999", "localhost:²", "localhost:-1"]
)
def test_a_map_to_no_port_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match=r"connect_to\['demo.test'\] is .*expected address:port"):
        Guard(connect_to={"demo.test": address})


def test_hosts_of_the_map_may_be_written_in_any_case(server: str) -> None:
    guard = Guard(connect_to={"Demo.TEST": server})
    assert fetch(guard, "http://demo.test/x") == fetch(guard, "http://DEMO.test/x") == b"ok"
    assert ImagesConfig(connect_to={"Demo.TEST": server}).connect_to == {"demo.test": server}
    with pytest.raises(ConfigError, match=r"two addresses for 'demo.test': a:1, b:2"):
        Guard(connect_to={"demo.test": "a:1", "DEMO.test": "b:2"})


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:99999/", "malformed URL: Port out of range 0-65535"),
        ("http://127.0.0.1:0/", "malformed URL: port 0"),
        ("http://127.0.0.1:-1/", "malformed URL: Port could not be cast"),
        ("http:///x", "malformed URL: no host given"),
        ("http://[/", "malformed URL: Invalid IPv6 URL"),
        ("http://a..b/", "malformed URL: encoding with 'idna' codec failed"),
    ],
)
def test_what_is_no_url_is_said(url: str, reason: str) -> None:
    with pytest.raises(SampleError) as error:
        fetch(Guard(allow_private_addresses=True), url)
    assert str(error.value).startswith(f"[failed_to_download] {reason}")


def test_an_unforeseen_error_is_told_by_its_name(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr("pipeline.web.opener.read_bounded", stumble)
    with pytest.raises(SampleError, match=r"^\[failed_in_worker\] unforeseen error: RecursionError:$"):
        fetch(Guard(allow_private_addresses=True), f"http://{server}/x")


def test_a_long_robots_txt_is_cut_between_rules(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setattr("pipeline.web.opener._ROBOTS_BYTES", len(b"User-agent: clip-cid\nDisallow: /"))
    opener = GuardedOpener(Guard(allow_private_addresses=True, robots_txt=True))
    assert opener.open(f"http://{server}/a").read() == b"ok"
