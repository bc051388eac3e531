"""A web server for the built-in corpus, on this machine alone, so that the downloader meets real HTTP."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_CONTENT_TYPES = {b"\xff\xd8": "image/jpeg", b"<!": "text/html; charset=utf-8"}


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve ``folder/images`` as ``/images/<name>`` while the block runs; yields ``127.0.0.1:<port>``, a free port.

    Files are sent as they are, those cut short too; whatever is not there is answered with 404.
    """
    handler = functools.partial(_Handler, folder / "images")
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    # The default of 5 waiting connections is less than one downloader opens at once.
    request_queue_size = 128
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, images: Path, *args: object):
        self._images = images
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        content = self._start()
        if content is not None:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self._start()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the downloader reports what it got."""

    def _start(self) -> bytes | None:
        """Send status and headers; returns the body, or None if there is no such file."""
        folder, _, name = self.path.partition("?")[0].rpartition("/")
        path = self._images / name
        if folder != "/images" or not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        content = path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _CONTENT_TYPES.get(content[:2], "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content
