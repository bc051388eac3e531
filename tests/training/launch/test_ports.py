"""The port that ranks meet at."""

import socket

import pytest
from torch.distributed import TCPStore

from training.launch.ports import reserved_port


def test_a_reserved_port_is_nobodys_but_the_stores() -> None:
    with reserved_port() as port:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("", port))
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        store.set("met", "here")
        assert TCPStore("127.0.0.1", port, is_master=False).get("met") == b"here"
