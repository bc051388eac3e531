"""One connection to every rank on other machines, where no kernel can say that a process there has ended.

Whoever started a run, or rank 0 where nobody of ours did, listens; each rank connects and stays connected. A connection
that ends without a farewell means that the other side has ended, however that happened, and then every rank ends: no
launcher, signal or shell has to reach the other machine. A byte the other way asks a rank to stop as SIGTERM does.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable

_STOP, _FAREWELL = b"T", b"."
_CONNECT_S = 30.0
_FAREWELLS_S = 10.0
_POLL_S = 0.05
# A machine that is cut off without a word is noticed after about half a minute.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Lifeline:
    """The listening side. ``host``: the address of this machine that the others reach.

    ``on_lost``: called once, from another thread, when a rank has ended without a farewell; by then all other
    connections are closed, and their ranks end.
    """

    def __init__(self, host: str, *, on_lost: Callable[[], None]):
        self._server = socket.create_server((host, 0))
        self._token, self._on_lost = secrets.token_hex(16), on_lost
        self._ranks: set[socket.socket] = set()
        self._lock, self._ending = threading.Lock(), False
        threading.Thread(target=self._accept, daemon=True, name="lifeline").start()

    @property
    def address(self) -> str:
        """What :class:`Held` needs: host, port, and a token that keeps strangers out."""
        host, port = self._server.getsockname()[:2]
        return json.dumps([host, port, self._token])

    def stop(self, *, grace_s: float) -> None:
        """Ask all ranks to stop as SIGTERM does, wait for their farewells, and end those that are left."""
        with self._lock:
            self._ending = True
            ranks = list(self._ranks)
        for rank in ranks:
            with contextlib.suppress(OSError):
                rank.sendall(_STOP)
        self.close(grace_s=grace_s)

    def close(self, *, grace_s: float) -> None:
        """Wait for the farewells of ranks that are about to end, then end those that are left."""
        deadline = time.monotonic() + grace_s
        while self._ranks and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._cut()

    def release(self) -> None:
        """This rank, on which the others hang, is about to end as it should."""
        self.close(grace_s=_FAREWELLS_S)

    def _cut(self) -> None:
        with self._lock:
            self._ending = True
            for connection in (self._server, *self._ranks):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                rank, _ = self._server.accept()
                threading.Thread(target=self._follow, args=(rank,), daemon=True, name="lifeline").start()

    def _follow(self, rank: socket.socket) -> None:
        with rank:
            _keep_alive(rank)
            rank.settimeout(_CONNECT_S)
            if not secrets.compare_digest(_receive(rank, len(self._token)), self._token.encode()):
                return
            rank.settimeout(None)
            with self._lock:
                if self._ending:
                    return
                self._ranks.add(rank)
            farewell = _receive(rank, 1)
            with self._lock:
                self._ranks.discard(rank)
                lost = farewell != _FAREWELL and not self._ending
                self._ending |= lost
        if lost:
            self._cut()
            self._on_lost()


class Held:
    """The side of a rank. ``address``: of a :class:`Lifeline`. ``on_stop``: called when the run shall stop.

    Ends this process at once when the other side has ended. Raises OSError if it has ended already.
    """

    def __init__(self, address: str, *, on_stop: Callable[[], None]):
        host, port, token = json.loads(address)
        self._connection = socket.create_connection((host, port), timeout=_CONNECT_S)
        _keep_alive(self._connection)
        self._connection.settimeout(None)
        self._connection.sendall(token.encode())
        self._on_stop, self._released = on_stop, False
        threading.Thread(target=self._watch, daemon=True, name="lifeline").start()

    def release(self) -> None:
        """Say that this rank is about to end as it should."""
        self._released = True
        with contextlib.suppress(OSError):
            self._connection.sendall(_FAREWELL)

    def _watch(self) -> None:
        while _receive(self._connection, 1) == _STOP:
            self._on_stop()
        if not self._released:
            os._exit(1)


Tie = Lifeline | Held


def release(tie: Tie | None) -> None:
    """Say farewell, if there is anyone to say it to."""
    if tie:
        tie.release()


def tie_between_ranks(on_stop: Callable[[], None]) -> Tie | None:
    """Rank 0 listens and all others hold on to it; none if all ranks are on one machine. All ranks call it together."""
    import torch.distributed as dist

    if int(os.environ.get("CROSS_SIZE") or os.environ.get("GROUP_WORLD_SIZE") or 1) == 1:
        return None
    own = Lifeline(os.environ["MASTER_ADDR"], on_lost=lambda: os._exit(1)) if dist.get_rank() == 0 else None
    shared = [own.address if own else ""]
    dist.broadcast_object_list(shared)
    return own or Held(shared[0], on_stop=on_stop)


def address_towards(host: str) -> str:
    """The address of this machine from which ``host`` is reached; nothing is sent."""
    family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def _receive(connection: socket.socket, count: int) -> bytes:
    """``count`` bytes, or fewer if the other side has ended."""
    received = b""
    with contextlib.suppress(OSError):
        while len(received) < count and (piece := connection.recv(count - len(received))):
            received += piece
    return received


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
