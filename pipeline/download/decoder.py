"""Who turns a body into a stored image: the worker itself, or a process beside it that a sample may kill.

A worker that was lost took a whole shard with it, and would be lost to the same sample again. So a shard that lost its
worker is decoded in a process of its own: the sample that kills that one, or keeps it for too long, fails alone.
"""

import contextlib
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection

from pipeline.core.processes import die_with_parent, python_path
from pipeline.download.resize import Resized, Resizer
from pipeline.web.outcomes import LOST, SampleError

_START_S = 120.0


class Decoder:
    """Decodes where it is called, and notes for the heartbeat which sample it is at, and since when (monotonic).

    ``md5`` has the MD5 of the bytes of each image that was decoded, until the writer of
    :mod:`pipeline.download.worker` takes it: img2dataset computes one hash alone.
    """

    def __init__(self, resizer: Resizer):
        self._resizer = resizer
        self.current: tuple[int, float] | None = None
        self.md5: dict[int, str] = {}

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, stream: io.BytesIO, image_id: int) -> Resized:
        resized = self._decode(stream, image_id)
        if resized[0] is not None:
            self.md5[image_id] = hashlib.md5(stream.getbuffer(), usedforsecurity=False).hexdigest()
        return resized

    def _decode(self, stream: io.BytesIO, image_id: int) -> Resized:
        self.current = image_id, time.monotonic()
        try:
            return self._resizer(stream)
        finally:
            self.current = None


class IsolatedDecoder(Decoder):
    """Decodes in a process of its own, for ``timeout_s`` per sample at most; a new one replaces one that was lost.

    Raises ``OSError`` at its end if none could be started any more: that is no fault of the samples.
    """

    def __init__(self, resizer: Resizer, timeout_s: float):
        super().__init__(resizer)
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "IsolatedDecoder":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        there = self._process is not None
        self._end()
        if not there:
            raise OSError("the process to decode in could not be started again")

    def _decode(self, stream: io.BytesIO, image_id: int) -> Resized:
        if self._process is None:
            return _lost("there is no process to decode in")
        try:
            self._link.send_bytes(stream.getbuffer())
            if self._link.poll(self._timeout_s):
                resized: Resized = self._link.recv()
                return resized
            lost = _lost("decoding did not end in time", f"{self._timeout_s:g} s")
        except (EOFError, OSError):
            lost = _lost("decoding killed its process", self._how())
        self._end()
        self._start()
        return lost

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.download.decoder", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": python_path()},
            )
        self._link = Connection(ours.detach())
        try:
            self._link.send(self._resizer)
            # It imports libraries first, which is not the sample's time.
            if not self._link.poll(_START_S):
                raise TimeoutError(f"the process to decode in did not start within {_START_S:.0f} s")
            self._link.recv()
        except (EOFError, OSError) as error:
            how = self._how()
            self._end()
            raise OSError(f"the process to decode in did not start: {error or how}") from error

    def _how(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1)
            return signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return "it closed its pipe"

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._link.close()
            self._process = None


def _lost(reason: str, detail: str = "") -> Resized:
    return None, None, None, None, None, str(SampleError(LOST, reason, detail))


def main(descriptor: int, parent: int) -> None:
    """The other side: take a resizer, say that it is there, then answer each body with what becomes of it."""
    die_with_parent(parent)
    link = Connection(descriptor)
    resizer = link.recv()
    link.send(True)
    with contextlib.suppress(EOFError):
        while True:
            link.send(resizer(io.BytesIO(link.recv_bytes())))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
