"""A web server that sends without end in every way that HTTP knows, and what becomes of each of its URLs."""

import contextlib
import dataclasses
import gzip
import socket
import threading
import time
from collections.abc import Iterable, Iterator

HOST = "floods.test"
_END_S = 20
"""No answer goes on for longer than this, whatever the client does."""

_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Flood:
    """``first`` is sent once, ``again`` until the client has enough, if it is not empty."""

    first: bytes
    again: bytes
    status: str
    reason: str


_MUCH = bytes(1 << 16)
_TOO_MUCH = ("too_large", "more bytes than allowed")
_BROKEN = ("failed_to_download", "broken HTTP")
_NO_IMAGE = ("failed_to_resize", "not an image in a known format")
_CUT = ("failed_to_download", "body cut short")

FLOODS: dict[str, Flood] = {
    "/negative-chunk": Flood(_CHUNKED + b"-1\r\n", _MUCH, *_BROKEN),
    "/very-negative-chunk": Flood(_CHUNKED + b"-ffffffffffffffff\r\n", _MUCH, *_BROKEN),
    "/negative-chunk-after-one": Flood(_CHUNKED + b"5\r\nhello\r\n-2\r\n", _MUCH, *_BROKEN),
    "/negative-chunk-of-few-bytes": Flood(_CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", b"", *_BROKEN),
    "/huge-chunk": Flood(_CHUNKED + b"7fffffffffffffff\r\n", _MUCH, *_TOO_MUCH),
    "/chunk-beyond-64-bits": Flood(_CHUNKED + b"f" * 40 + b"\r\n", _MUCH, *_TOO_MUCH),
    "/huge-chunk-of-few-bytes": Flood(_CHUNKED + b"7fffffffffffffff\r\nhello", b"", *_CUT),
    "/tiny-chunks": Flood(_CHUNKED, b"2\r\nxx\r\n" * 9000, *_TOO_MUCH),
    "/long-chunk-extensions": Flood(_CHUNKED, b"1;" + b"e" * 60_000 + b"\r\nx\r\n", *_TOO_MUCH),
    "/chunk-size-without-end": Flood(_CHUNKED, b"1" * (1 << 16), *_BROKEN),
    "/trailers": Flood(_CHUNKED + b"0\r\n", b"X: y\r\n" * 9000, *_TOO_MUCH),
    "/headers": Flood(_OK, b"X: y\r\n" * 9000, *_BROKEN),
    "/long-headers": Flood(_OK, b"X: " + b"y" * 65_000 + b"\r\n", *_TOO_MUCH),
    "/one-long-header": Flood(_OK + b"X: ", _MUCH.replace(b"\0", b"y"), *_BROKEN),
    "/continue": Flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, *_TOO_MUCH),
    "/continue-with-headers": Flood(b"", b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 90 + b"\r\n", *_TOO_MUCH),
    "/early-hints": Flood(b"HTTP/1.1 103 Early Hints\r\n\r\n", _MUCH, "failed_to_download", "HTTP 103"),
    "/longer-than-announced": Flood(_OK + b"Content-Length: 5\r\n\r\n", _MUCH, *_NO_IMAGE),
    "/negative-length": Flood(_OK + b"Content-Length: -1\r\n\r\n", _MUCH, *_TOO_MUCH),
    "/length-of-5000-digits": Flood(_OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", _MUCH, *_TOO_MUCH),
    "/length-of-odd-digits": Flood(_OK + b"Content-Length: \xb2\xb3\r\n\r\n", _MUCH, *_TOO_MUCH),
    "/gzip": Flood(
        _OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(bytes(1 << 26)), b"", *_NO_IMAGE
    ),
    "/gzip-chunked": Flood(
        _OK + b"Transfer-Encoding: gzip, chunked\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(bytes(1 << 20)),
        *_TOO_MUCH,
    ),
    "/redirect-with-headers": Flood(b"HTTP/1.1 302 Found\r\n", b"Location: /" + b"y" * 65_000 + b"\r\n", *_TOO_MUCH),
    "/error-with-trailers": Flood(
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 9000, "failed_to_download",
        "HTTP 500",
    ),
}  # fmt: skip


class FloodServer:
    """Answers a path of ``FLOODS``, on any other path and with ``only``, if it is set, in its place; ``sent`` counts
    the bytes that each path could get rid of, what waits in the kernel included."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}
        self.only: str | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                # Little in the kernel, so that what is sent is about what is read.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, IndexError), connection:
            path = connection.recv(1 << 16).split(b" ", 2)[1].decode().partition("?image=")[0]
            flood, self.sent[path] = FLOODS[self.only or path], 0
            for piece in _until(time.monotonic() + _END_S, flood):
                connection.sendall(piece)
                self.sent[path] += len(piece)


def _until(end: float, flood: Flood) -> Iterable[bytes]:
    yield flood.first
    while flood.again and time.monotonic() < end:
        yield flood.again


@contextlib.contextmanager
def flood_server() -> Iterator[FloodServer]:
    server = FloodServer()
    try:
        yield server
    finally:
        server.close()
