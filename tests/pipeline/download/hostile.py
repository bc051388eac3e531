"""A web server that behaves as badly as the web does, on loopback, and what must become of each of its URLs."""

import contextlib
import dataclasses
import http.server
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.pipeline.download.pictures import jpeg_of_scans

WEB, CLOSED, SILENT, GARBAGE = "pictures.test", "closed.test", "silent.test", "garbage.test"
MAX_BYTES = 300_000
GATE = threading.Event()
"""`/gate` is answered once this is set, so that a test can do something while a worker waits."""

_END_S = 20
"""No answer goes on for longer than this, whatever the client does."""


@dataclasses.dataclass(frozen=True)
class Case:
    """``what`` stands in docs/ingest.md; ``url`` may hold ``{port}``; ``reason`` is how the error begins."""

    what: str
    url: str
    status: str
    reason: str = ""


_REFUSED = {
    "`127.0.0.1`": "http://127.0.0.1:{port}/secret",
    "`[::1]`": "http://[::1]:{port}/secret",
    "`169.254.169.254` (metadata of clouds)": "http://169.254.169.254/latest/meta-data/",
    "`10.0.0.1` and other private networks": "http://10.0.0.1/secret",
    "a name that resolves to loopback": "http://localhost:{port}/secret",
}
_SPELLED = {
    "decimal": "http://2130706433:{port}/secret",
    "hexadecimal": "http://0x7f000001:{port}/secret",
    "octal": "http://0177.0.0.1:{port}/secret",
    "short": "http://127.1:{port}/secret",
    "letters that look like digits": "http://①②⑦.⓪.⓪.①:{port}/secret",
    "IPv4 in IPv6, `[::ffff:127.0.0.1]`": "http://[::ffff:127.0.0.1]:{port}/secret",
    "NAT64": "http://[64:ff9b::7f00:1]:{port}/secret",
    "6to4": "http://[2002:7f00:1::]:{port}/secret",
}
_NOT_PUBLIC, _SCHEME, _USER = "address is not public", "scheme is not allowed", "URL carries a user name"


def _page(what: str, path: str, status: str, reason: str = "") -> Case:
    return Case(what, f"http://{WEB}{path}", status, reason)


CASES: list[Case] = [
    Case("`file://`", "file:///etc/passwd", "refused_address", _SCHEME),
    Case("`ftp://`", "ftp://127.0.0.1:{port}/secret", "refused_address", _SCHEME),
    *(Case(what, url, "refused_address", _NOT_PUBLIC) for what, url in _REFUSED.items()),
    *(Case(f"loopback spelled {how}", url, "refused_address", _NOT_PUBLIC) for how, url in _SPELLED.items()),
    Case("a user name in the URL", f"http://{WEB}@127.0.0.1:{{port}}/secret", "refused_address", _USER),
    _page("a redirect to `file://`", "/to/file:///etc/passwd", "refused_address", _SCHEME),
    *(_page(f"a redirect to {what}", f"/to/{url}", "refused_address", _NOT_PUBLIC) for what, url in _REFUSED.items()),
    _page("a redirect to a user name", f"/to/http://{WEB}@127.0.0.1:{{port}}/secret", "refused_address", _USER),
    _page("a second redirect to loopback", "/to/http://pictures.test/to/http://127.0.0.1:{port}/secret",
          "refused_address", _NOT_PUBLIC),
    _page("a redirect loop", "/loop", "failed_to_download", "too many redirects"),
    _page("a redirect with an endless body", "/endless-redirect", "success"),
    _page("an endless body", "/endless", "too_large", "more bytes than allowed"),
    _page("100 MB, announced", "/huge", "too_large", "more bytes than allowed"),
    _page("a body that drips", "/drip", "too_slow", "not complete in time"),
    _page("headers that drip", "/drip-headers", "too_slow", "not complete in time"),
    Case("a server that accepts and is silent", f"http://{SILENT}/", "failed_to_download", "no answer in time"),
    Case("a server that does not speak HTTP", f"http://{GARBAGE}/", "failed_to_download", "broken HTTP"),
    Case("nobody listens", f"http://{CLOSED}/", "failed_to_download", "connection failed"),
    Case("no such host", "http://nothing.invalid/", "failed_to_download", "host not found"),
    Case("broken TLS", f"https://{WEB}/", "failed_to_download", "TLS failed"),
    _page("HTTP 404", "/missing", "failed_to_download", "HTTP 404"),
    _page("HTTP 500 with an endless body", "/endless-error", "failed_to_download", "HTTP 500"),
    _page("a body shorter than announced", "/cut-body", "failed_to_download", "body cut short"),
    _page("a malformed URL", "/a\x7fb", "failed_to_download", "malformed URL"),
    _page("a length of 5,000 digits", "/digits", "too_large", "more bytes than allowed"),
    Case("a URL that ends before its host", "http://[", "failed_to_download", "malformed URL"),
    Case("a port beyond 65,535", f"http://{WEB}:99999/good", "failed_to_download", "malformed URL"),
    _page("`X-Robots-Tag: noai`", "/noai", "opted_out", "X-Robots-Tag"),
    _page("`X-Robots-Tag: otherbot: noai`", "/otherbot", "success"),
    _page("a decompression bomb (30,000 x 30,000)", "/bomb", "too_large", "more pixels than allowed"),
    _page("HTML called .jpg", "/page.jpg", "failed_to_resize", "not an image in a known format"),
    _page("SVG", "/drawing.svg", "failed_to_resize", "not an image in a known format"),
    _page("zero bytes", "/empty", "failed_to_resize", "not an image in a known format"),
    _page("a truncated JPEG", "/truncated", "failed_to_resize", "damaged image"),
    _page("a truncated GIF", "/truncated-gif", "failed_to_resize", "damaged image"),
    _page("a JPEG of 5,000 scans", "/scans", "failed_to_resize", "too many scans"),
    _page("two pictures in one JPEG, the first of 5,000 scans", "/scans-twice", "failed_to_resize", "too many scans"),
    _page("an elongated image", "/elongated", "failed_to_resize", "aspect ratio too large"),
    _page("a JPEG called text/plain", "/plain", "success"),
    _page("a URL with spaces and letters beyond ASCII", "/un pré/é", "success"),
    _page("a CMYK JPEG", "/cmyk", "success"),
    _page("a gray PNG", "/gray", "success"),
    _page("a 16-bit PNG", "/deep", "success"),
    _page("an animated GIF", "/animated", "success"),
    _page("a JPEG rotated by EXIF", "/rotated", "success"),
    _page("a PNG rotated by EXIF, with transparency", "/rotated-alpha", "success"),
    _page("a transparent PNG", "/transparent", "success"),
    _page("a palette with a transparent color", "/palette", "success"),
    _page("1 x 1", "/dot", "success"),
]  # fmt: skip


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _red_over_blue(mode: str = "RGB") -> Image.Image:
    """20 wide, 40 high: red above, blue below."""
    image = Image.new("RGB", (20, 40), (255, 0, 0))
    image.paste((0, 0, 255), (0, 20, 20, 40))
    return image.convert(mode)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _bomb() -> bytes:
    """A PNG whose header says 30,000 x 30,000, with a valid start of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")  # fmt: skip


def _mpo(first: bytes) -> bytes:
    """What Pillow takes for several pictures in one file: an index in a segment of the first."""
    two = io.BytesIO()
    Image.new("RGB", (8, 8)).save(two, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    start = two.getvalue().index(b"MPF\0") - 4
    size = int.from_bytes(two.getvalue()[start + 2 : start + 4], "big")
    return first[:2] + two.getvalue()[start : start + 2 + size] + first[2:]


def _files() -> dict[str, bytes]:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    jpeg, turned = _encode(photo, "JPEG"), _red_over_blue().transpose(Image.Transpose.ROTATE_90)
    half = _red_over_blue("RGBA")
    half.putalpha(Image.fromarray(np.repeat(np.array([255, 0], np.uint8), 20)[:, None].repeat(20, 1)))
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([255, 255, 0, 0, 128, 0])
    frames = [Image.new("RGB", (20, 20), color) for color in ((0, 255, 0), (255, 0, 255))]
    gif = _encode(photo.convert("P"), "GIF")
    return {
        "/good": jpeg,
        "/shared": jpeg,
        "/plain": jpeg,
        "/noai": jpeg,
        "/otherbot": jpeg,
        "/un%20pr%C3%A9/%C3%A9": jpeg,
        "/page.jpg": b"<!DOCTYPE html><html><body>Gone</body></html>",
        "/drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
        "/empty": b"",
        "/truncated": jpeg[: len(jpeg) // 2],
        "/truncated-gif": gif[: len(gif) // 2],
        "/bomb": _bomb(),
        "/scans": jpeg_of_scans(5000),
        "/scans-twice": _mpo(jpeg_of_scans(5000)),
        "/elongated": _encode(Image.new("RGB", (500, 2)), "PNG"),
        "/cmyk": _encode(_red_over_blue("CMYK"), "JPEG", quality=95),
        "/gray": _encode(_red_over_blue("L"), "PNG"),
        "/deep": _encode(Image.fromarray(np.full((20, 20), 40_000, np.uint16)), "PNG"),
        "/animated": _encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "/rotated": _encode(turned, "JPEG", exif=_exif(6), quality=95),
        "/rotated-alpha": _encode(turned.convert("RGBA"), "PNG", exif=_exif(6)),
        "/transparent": _encode(half, "PNG"),
        "/palette": _encode(palette, "PNG", transparency=1),
        "/dot": _encode(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG"),
    }


class HostileServer(http.server.ThreadingHTTPServer):
    """``requests`` are the paths that anybody asked for, in order; ``agents`` the user agents; ``endured`` the paths
    whose answer, which is without end, somebody read for as long as it was given; ``at_gate`` the ports of those who
    asked for `/gate`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, family: socket.AddressFamily, address: str, port: int, seen: "Hostile"):
        self.address_family = family
        self.requests, self.agents, self.endured = seen.requests, seen.agents, seen.endured
        self.at_gate = seen.at_gate
        super().__init__((address, port), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    files = _files()

    def do_GET(self) -> None:
        # Many images of one content: the rest names them, and answers do not depend on it.
        self.path = self.path.partition("?image=")[0]
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        self.server.agents.add(self.headers.get("User-Agent"))  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionError):
            special = _SPECIAL.get(self.path)
            if special is not None:
                special(self)
            elif self.path.startswith("/to/"):
                self._head(302, Location=self.path.removeprefix("/to/"))
            elif self.path in self.files:
                kind = {"/plain": "text/plain"}.get(self.path, "image/jpeg")
                tag = {"/noai": "noai", "/otherbot": "otherbot: noai"}.get(self.path, "all")
                body = self.files[self.path]
                self._head(200, **{"Content-Type": kind, "Content-Length": str(len(body)), "X-Robots-Tag": tag})
                self.wfile.write(body)
            else:
                self._head(404)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _endless(self, status: int, **headers: str) -> None:
        self._head(status, **headers)
        end = time.monotonic() + _END_S
        while time.monotonic() < end:
            self.wfile.write(bytes(1 << 16))
        self.server.endured.append(self.path)

    def _drip(self, letter: bytes) -> None:
        end = time.monotonic() + _END_S
        while time.monotonic() < end:
            self.wfile.write(letter)
            time.sleep(0.1)
        self.server.endured.append(self.path)

    def _drip_body(self) -> None:
        self._head(200, **{"Content-Length": "100000"})
        self._drip(b"x")

    def _drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        self._drip(b"x")

    def _cut_body(self) -> None:
        self._head(200, **{"Content-Length": "5000"})
        self.wfile.write(self.files["/good"][:1000])

    def _gate(self) -> None:
        self.server.at_gate.add(self.client_address[1])  # type: ignore[attr-defined]
        GATE.wait(60)
        self._head(200, **{"Content-Length": str(len(self.files["/good"]))})
        self.wfile.write(self.files["/good"])

    def log_message(self, *_: object) -> None:
        pass


_SPECIAL: dict[str, Callable[[_Handler], None]] = {
    "/loop": lambda handler: handler._head(302, Location="/loop?"),
    "/loop?": lambda handler: handler._head(302, Location="/loop"),
    "/endless": lambda handler: handler._endless(200),
    "/huge": lambda handler: handler._endless(200, **{"Content-Length": "100000000"}),
    "/endless-redirect": lambda handler: handler._endless(302, Location="/good"),
    "/endless-error": lambda handler: handler._endless(500),
    "/digits": lambda handler: handler._endless(200, **{"Content-Length": "9" * 5000}),
    "/drip": _Handler._drip_body,
    "/drip-headers": _Handler._drip_headers,
    "/cut-body": _Handler._cut_body,
    "/gate": _Handler._gate,
}


@dataclasses.dataclass
class Hostile:
    """A running server: where to connect to for the names it trusts to, and what it was asked."""

    port: int = 0
    connect_to: dict[str, str] = dataclasses.field(default_factory=dict)
    requests: list[str] = dataclasses.field(default_factory=list)
    agents: set[str] = dataclasses.field(default_factory=set)
    at_gate: set[int] = dataclasses.field(default_factory=set)
    endured: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def hostile_server() -> Iterator[Hostile]:
    """Listen on a free port of 127.0.0.1 and, where there is IPv6, on the same of ::1; two more play dumb."""
    seen = Hostile()
    with contextlib.ExitStack() as stack:
        servers = [HostileServer(socket.AF_INET, "127.0.0.1", 0, seen)]
        port = servers[0].server_port
        with contextlib.suppress(OSError):
            servers.append(HostileServer(socket.AF_INET6, "::1", port, seen))
        for server in servers:
            stack.enter_context(server)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
        silent, garbage, closed = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3))
        ports = {SILENT: silent.getsockname()[1], GARBAGE: garbage.getsockname()[1], CLOSED: closed.getsockname()[1]}
        closed.close()
        threading.Thread(target=_answer_garbage, args=(garbage,), daemon=True).start()
        names = {name: f"127.0.0.1:{number}" for name, number in ports.items()}
        seen.port, seen.connect_to = port, {WEB: f"127.0.0.1:{port}", **names}
        yield seen


def _answer_garbage(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
