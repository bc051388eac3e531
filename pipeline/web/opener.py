"""The guard at work. img2dataset asks urllib, so it is a urllib opener in its workers.

Proxies of the environment are not used: behind a proxy the address could not be checked.
"""

import contextlib
import http.client
import io
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import Any

from pipeline.web.addresses import host_of
from pipeline.web.handlers import director, failure
from pipeline.web.outcomes import LOST, SampleError
from pipeline.web.pacing import HostRestsError, Pacing, jittered
from pipeline.web.robots import RobotsCache, opted_out
from pipeline.web.rules import Guard

_PIECE_BYTES = 1 << 18
_ROBOTS_BYTES = 1 << 19
_DIGITS_SHOWN = 20
# What a browser leaves as it is in a path; all else, spaces and letters beyond ASCII first of all, is percent-encoded.
_URL_LETTERS = "%/:=&?~#+!$,;'@()*[]|"


@contextlib.contextmanager
def installed(opener: "GuardedOpener") -> Iterator[None]:
    """While the block lasts, ``urllib.request.urlopen`` in this process obeys the guard."""
    before = urllib.request._opener  # type: ignore[attr-defined]
    urllib.request.install_opener(opener)  # type: ignore[arg-type]
    try:
        yield
    finally:
        urllib.request.install_opener(before)


class Fetched(io.BytesIO):
    """A whole body in memory, with the headers it came with."""

    def __init__(self, body: bytes, headers: Message):
        super().__init__(body)
        self.headers = headers


class GuardedOpener:
    """Takes the place of a urllib opener: ``open`` returns a whole body or raises :class:`SampleError`.

    ``finished`` counts the calls that ended; ``in_flight`` holds URL and start (of ``time.monotonic``) of the others.
    """

    def __init__(self, guard: Guard):
        self.guard = guard
        self.finished = 0
        self.in_flight: dict[int, tuple[str, float]] = {}
        self._aborted = threading.Event()
        self._pacing = Pacing()
        self._director = director(guard, self._pacing)
        self._robots = RobotsCache(guard.agent, self._robots_text) if guard.robots_txt else None

    def abort(self) -> None:
        """Let every further call fail at once: what is fetched could not be stored."""
        self._aborted.set()

    def open(self, fullurl: Any, data: None = None, timeout: Any = None) -> Fetched:
        """Fetch a URL or a ``Request``; ``timeout`` is how many seconds the server may stay silent."""
        deadline = time.monotonic() + self.guard.sample_timeout_s
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        me = threading.get_ident()
        self.in_flight[me] = (url, time.monotonic())
        try:
            return self._attempts(url, timeout, deadline)
        finally:
            del self.in_flight[me]
            self.finished += 1

    def _attempts(self, url: str, timeout: float | None, deadline: float) -> Fetched:
        """Attempts until one succeeds, fails for good, or was the last; each after the time that the host is due."""
        failed = 0
        while not self._aborted.is_set():
            try:
                return self._attempt(url, timeout, deadline)
            except SampleError as error:
                if isinstance(error, HostRestsError):
                    # Nothing was asked, so nothing has failed: the sample waits, if it has the time.
                    wait_s = error.wait_s + jittered(1.0)
                else:
                    failed += 1
                    wait_s = self._pacing.back_off_s(host_of(url), failed)
                    if failed > self.guard.retries or not error.transient:
                        raise
                if time.monotonic() + wait_s >= deadline:
                    raise
            self._aborted.wait(wait_s)
        raise SampleError("failed_in_worker", "the shard was given up")

    def _attempt(self, url: str, timeout: float | None, deadline: float) -> Fetched:
        try:
            if self._robots is not None and url.lower().startswith("http") and not self._robots.allows(url):
                raise SampleError("opted_out", "robots.txt disallows it")
            with self._director.open(self._request(url, deadline), timeout=timeout) as response:
                found = opted_out(response.headers.get_all("X-Robots-Tag", []), self.guard.agent, self.guard.opt_out)
                if found:
                    raise SampleError("opted_out", "X-Robots-Tag", found)
                return Fetched(read_bounded(response, self.guard.max_bytes), response.headers)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise failure(error) from error
        except SampleError:
            raise
        except Exception as error:
            raise SampleError(LOST, "unforeseen error", f"{type(error).__name__}: {error}") from error

    def _request(self, url: str, deadline: float) -> urllib.request.Request:
        if not url.isascii() or " " in url:
            parts = urllib.parse.urlsplit(url)
            path, query = (urllib.parse.quote(part, safe=_URL_LETTERS) for part in (parts.path, parts.query))
            url = parts._replace(netloc=parts.netloc.encode("idna").decode(), path=path, query=query).geturl()
        request = urllib.request.Request(url, headers={"User-Agent": self.guard.user_agent})
        request.deadline = deadline  # type: ignore[attr-defined]
        return request

    def _robots_text(self, url: str) -> tuple[int, str]:
        request = self._request(url, time.monotonic() + self.guard.sample_timeout_s)
        try:
            with self._director.open(request, timeout=self.guard.sample_timeout_s) as response:
                body = read_at_most(response, _ROBOTS_BYTES)
                if len(body) == _ROBOTS_BYTES:
                    # A rule that was cut would be another rule.
                    body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]
                return response.status, body.decode(errors="replace")
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, ""


def read_bounded(response: Any, max_bytes: int) -> bytes:
    """The body of a response; :class:`SampleError` as soon as it is known to be larger, or if it ends early."""
    announced = response.headers.get("Content-Length", "")
    # Compared as text first: int() refuses numbers of thousands of digits.
    digits = announced.lstrip("0") if announced.isascii() and announced.isdigit() else ""
    if len(digits) > len(str(max_bytes)) or int(digits or 0) > max_bytes:
        raise SampleError("too_large", "more bytes than allowed", f"{_short(announced)} of at most {max_bytes}")
    body = read_at_most(response, max_bytes + 1)
    if len(body) > max_bytes:
        raise SampleError("too_large", "more bytes than allowed", f"at most {max_bytes}")
    # http.client reports a body cut short only to those who read it in one piece.
    if getattr(response, "length", None):
        raise SampleError("failed_to_download", "body cut short", f"{len(body)} of {announced} bytes", transient=True)
    return body


def read_at_most(response: Any, most: int) -> bytes:
    """The first ``most`` bytes of a body, or all of it, held once.

    By ``read1``, which takes what is there and no more than it was asked for: ``read`` of a chunked body goes by the
    size that the server gives a chunk, and takes a negative one for no bound at all.
    """
    body = io.BytesIO()
    while (left := most - body.tell()) > 0 and (piece := response.read1(min(left, _PIECE_BYTES))):
        body.write(piece)
    return body.getvalue()


def _short(number: str) -> str:
    return number if len(number) <= _DIGITS_SHOWN else f"a number of {len(number)} digits"
