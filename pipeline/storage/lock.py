"""A lock in an object store, where there is none: an object that its holder writes again and again.

It is created by a conditional write, which the store refuses if it exists (S3's ``If-None-Match``). Of a store that
ignores the condition two runs may both think that they have created it; so each reads it back after a moment, and the
one that does not find itself waits. A holder that has not written for ``term_s`` seconds, by the clock of the one who
waits, is taken for dead. A holder that was only cut off notices when it writes next, and gives up.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from pipeline.core.processes import is_dead

log = logging.getLogger(__name__)

TERM_S = 60.0
"""How long a run on another machine waits for one that was killed."""

_SETTLE_S = 0.2
_POLL_S = 1.0


class Lease:
    """The lock at ``key`` of an fsspec file system; ``what`` it locks is for log lines."""

    def __init__(self, files: Any, key: str, *, what: str, term_s: float | None = None):
        self._files, self._key, self._what = files, key, what
        self._term_s = TERM_S if term_s is None else term_s
        self._me = {"machine": socket.gethostname(), "process": os.getpid(), "token": uuid.uuid4().hex}
        self._count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self.lost = False

    def acquire(self) -> None:
        """Wait until the lock is ours, and keep it from then on."""
        seen, since, told = b"", time.monotonic(), False
        while True:
            # Looked at first, for stores that would let us write over it.
            content = self._read()
            if not content:
                if self._create():
                    break
                continue
            if content != seen:
                seen, since = content, time.monotonic()
            holder = json.loads(content)
            if time.monotonic() - since > self._term_s or is_dead(holder["machine"], holder["process"]):
                log.info("%s: taking over from a run that is gone: %s", self._what, content.decode())
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(self._key)
                continue
            if not told:
                log.info("%s: another run is at work on this stage, waiting for it: %s", self._what, content.decode())
                told = True
            time.sleep(_POLL_S)
        self._thread.start()

    def release(self) -> None:
        """Give it back. If that fails, the next run has to wait for its term to end."""
        self._stop.set()
        self._thread.join()
        try:
            if self._is_mine():
                self._files.rm_file(self._key)
        except Exception as error:  # noqa: BLE001 - the work is done, whatever the store says of the lock
            log.warning("%s: the lock could not be given back: %s", self._what, error)

    def _create(self) -> bool:
        try:
            self._files.pipe_file(self._key, self._content(), mode="create")
        except FileExistsError:
            return False
        time.sleep(_SETTLE_S)
        return self._is_mine()

    def _renew(self) -> None:
        while not self._stop.wait(self._term_s / 4):
            try:
                if not self._is_mine():
                    self.lost = True
                    return
                self._files.pipe_file(self._key, self._content())
            except Exception as error:  # noqa: BLE001 - whatever the store's library raises, the next attempt may do
                log.warning("%s: the lock could not be renewed: %s", self._what, error)

    def _content(self) -> bytes:
        self._count += 1
        return json.dumps({**self._me, "count": self._count}).encode()

    def _read(self) -> bytes:
        try:
            return bytes(self._files.cat_file(self._key))
        except FileNotFoundError:
            return b""

    def _is_mine(self) -> bool:
        content = self._read()
        return bool(content) and json.loads(content)["token"] == self._me["token"]
