"""urllib's handlers with the guard's rules in them, and the outcome that each of urllib's errors stands for."""

import http.client
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from typing import IO, TYPE_CHECKING, Any, Final

from pipeline.web.addresses import BoundedMixin, connect, host_of, resolve
from pipeline.web.outcomes import SampleError
from pipeline.web.pacing import Pacing

if TYPE_CHECKING:
    from pipeline.web.rules import Guard

_TRANSIENT_HTTP = {408, 425, 429, 500, 502, 503, 504}
# What a server may send before the body, in all: http.client by itself takes a hundred lines of 64 KiB, any number of
# times.
_HEAD_BYTES = 1 << 18
# A body and, if it is chunked, its framing, which is not kept: as much again as the body, and a robots.txt at least.
_FRAMING, _FRAMING_BYTES = 2, 1 << 20


class _BoundedTLSSocket(BoundedMixin, ssl.SSLSocket):
    """A TLS socket with bounds on what it reads."""


class _Response(http.client.HTTPResponse):
    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        # http.client takes a negative size for all that comes.
        if size < 0:
            raise http.client.HTTPException(f"chunk of {size} bytes")
        return size


class _HTTPConnection(http.client.HTTPConnection):
    response_class = _Response
    deadline: float
    body_bytes: int

    def open_through(self, guard: "Guard", deadline: float) -> None:
        self.deadline, self.body_bytes = deadline, _FRAMING * guard.max_bytes + _FRAMING_BYTES
        self._create_connection = lambda address, timeout=None, _source=None: connect(
            resolve(*address, connect_to=guard.connect_to, allow_private=guard.allow_private_addresses),
            silence_s=timeout,
            deadline=deadline,
        )

    def connect(self) -> None:
        super().connect()
        self._bounded().bytes_left = _HEAD_BYTES

    def getresponse(self) -> http.client.HTTPResponse:
        # http.client lets go of a socket that is to be closed after this answer.
        connection = self._bounded()
        response = super().getresponse()
        connection.bytes_left = self.body_bytes
        return response

    def _bounded(self) -> BoundedMixin:
        assert isinstance(self.sock, BoundedMixin)
        return self.sock


class _HTTPSConnection(_HTTPConnection, http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        secured = self._bounded()
        secured.deadline, secured.silence_s = self.deadline, self.timeout


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, guard: "Guard", pacing: Pacing):
        super().__init__()
        self._guard, self._pacing = guard, pacing

    def http_open(self, request: Any) -> http.client.HTTPResponse:
        _check(request.full_url)

        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            made = _HTTPConnection(host, **options)
            made.open_through(self._guard, request.deadline)
            return made

        host = host_of(request.full_url)
        self._pacing.check(host)
        response = self.do_open(connection, request)
        self._pacing.heard(host, response.status, response.headers.get("Retry-After"))
        return response


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, guard: "Guard", pacing: Pacing):
        context = ssl.create_default_context()
        context.sslsocket_class = _BoundedTLSSocket
        context.set_alpn_protocols(["http/1.1"])
        super().__init__(context=context)
        self._guard, self._pacing, self._tls = guard, pacing, context

    def https_open(self, request: Any) -> http.client.HTTPResponse:
        _check(request.full_url)

        def connection(host: str, **options: Any) -> http.client.HTTPSConnection:
            made = _HTTPSConnection(host, **options)
            made.open_through(self._guard, request.deadline)
            return made

        host = host_of(request.full_url)
        self._pacing.check(host)
        response = self.do_open(connection, request, context=self._tls)
        self._pacing.heard(host, response.status, response.headers.get("Retry-After"))
        return response


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone, a bounded number of times, without reading what comes with them."""

    # Counted below, by hops: urllib's counts are of URLs, and its error looks like any HTTP error.
    max_redirections = max_repeats = 1000

    def __init__(self, guard: "Guard"):
        self._guard = guard

    def http_error_302(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Message
    ) -> http.client.HTTPResponse | None:
        # urllib reads the body of the redirect to its end, which an endless one has not; a closed one reads as empty.
        fp.close()
        target = headers.get("location") or headers.get("uri")
        if target:
            scheme = urllib.parse.urlsplit(urllib.parse.urljoin(req.full_url, target)).scheme.lower()
            if scheme not in ("http", "https"):
                raise SampleError("refused_address", "scheme is not allowed", f"redirected to {scheme}")
        return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[arg-type]

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(  # noqa: PLR0917 - urllib's signature
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        hops = getattr(req, "hops", 0) + 1
        if hops > self._guard.max_redirects:
            raise SampleError("failed_to_download", "too many redirects", f"more than {self._guard.max_redirects}")
        request: Any = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.hops, request.deadline = hops, req.deadline
        return request


class _UnknownHandler(urllib.request.BaseHandler):
    def unknown_open(self, request: urllib.request.Request) -> None:
        raise SampleError("refused_address", "scheme is not allowed", request.type)


def director(guard: "Guard", pacing: Pacing) -> urllib.request.OpenerDirector:
    """An opener that knows the guard's schemes alone, and asks hosts no sooner than they like."""
    opener = urllib.request.OpenerDirector()
    by_scheme: dict[str, Any] = {
        "http": lambda: _HTTPHandler(guard, pacing),
        "https": lambda: _HTTPSHandler(guard, pacing),
        "file": urllib.request.FileHandler,
        "data": urllib.request.DataHandler,
    }
    for scheme in guard.schemes:
        opener.add_handler(by_scheme[scheme]())
    for handler in (
        _UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _RedirectHandler(guard),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _check(url: str) -> None:
    """A URL with a user name in it is refused: it looks like one host and means another; so does a port that is none,
    of which the resolver takes the last 16 bits."""
    parts = urllib.parse.urlsplit(url)
    if "@" in parts.netloc:
        raise SampleError("refused_address", "URL carries a user name")
    if parts.port == 0:
        raise ValueError("port 0")


def failure(error: Exception) -> SampleError:  # noqa: PLR0911 - a table, one line an outcome
    """The outcome that an error of urllib, http.client or a socket stands for."""
    status: Final = "failed_to_download"
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return SampleError(status, f"HTTP {error.code}", error.reason, transient=error.code in _TRANSIENT_HTTP)
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return SampleError(status, "host not found", cause.strerror, transient=True)
    if isinstance(cause, ssl.SSLError):
        return SampleError(status, "TLS failed", cause.reason or cause, transient=isinstance(cause, ssl.SSLEOFError))
    if isinstance(cause, TimeoutError):
        return SampleError(status, "no answer in time", transient=True)
    if isinstance(cause, ConnectionError):
        return SampleError(status, "connection failed", cause.strerror or cause, transient=True)
    if isinstance(cause, http.client.InvalidURL | ValueError) or cause == "no host given":
        return SampleError(status, "malformed URL", cause)
    if isinstance(cause, http.client.IncompleteRead):
        return SampleError(status, "body cut short", cause, transient=True)
    if isinstance(cause, http.client.HTTPException):
        return SampleError(status, "broken HTTP", repr(cause), transient=True)
    if isinstance(cause, OSError):
        return SampleError(status, "connection failed", cause.strerror or cause, transient=True)
    return SampleError(status, "no answer", cause)
