import socket
import threading

import pytest

from pipeline.web.addresses import is_public, resolve, unresolved
from pipeline.web.outcomes import SampleError


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),
        ("2002:5db8:d822::1", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("127.255.255.254", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("192.0.0.192", False),
        ("192.88.99.1", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),
        ("198.18.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("2001:0:7f00:1::", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::1", False),
        ("2606:2800:220:1:0:5efe:10.0.0.1", False),
        ("2606:2800:220:1:200:5efe:10.0.0.1", False),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "spelling",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "::1", "::ffff:127.0.0.1"],
)
def test_loopback_is_refused_however_it_is_spelled(spelling: str) -> None:
    with pytest.raises(SampleError, match=r"\[refused_address\] address is not public"):
        resolve(spelling, 80, connect_to={}, allow_private=False)
    assert resolve(spelling, 80, connect_to={}, allow_private=True)


def test_one_private_address_spoils_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(SampleError, match=r"10\.0\.0\.1"):
        resolve("two-faced.test", 80, connect_to={}, allow_private=False)


def test_unresolved_hosts_are_found_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def slow(host: str, *_: object, **__: object) -> list:
        if host == "hangs.test":
            over.wait()
        if host != "there.test":
            raise socket.gaierror(-2, "unknown")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        assert unresolved(["there.test", "gone.test", "hangs.test"], timeout_s=0.3) == ["gone.test", "hangs.test"]
    finally:
        over.set()
