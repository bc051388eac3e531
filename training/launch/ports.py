"""A port for ranks to meet at, kept free for them until they are there."""

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody else is given inside the block, while torch's store may listen there.

    Ranks take seconds to start, minutes on a busy machine. A port that was merely found free may be handed to any
    other process meanwhile, as its own or for a connection of its own. Here it stays bound: the kernel passes it over,
    but lets those listen that ask for `SO_REUSEADDR`, as torch does.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
