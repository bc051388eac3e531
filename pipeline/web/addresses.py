"""Which addresses are on the public internet, and connecting to those alone.

The address is checked after the name was resolved, and the checked address is the one connected to, so that it does not
matter how an address is spelled or whether a name changes its answer.
"""

import ipaddress
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from pipeline.web.outcomes import SampleError

Address = tuple[socket.AddressFamily, Any]
"""Socket family and what ``connect`` takes for it."""

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Refused beyond what `ipaddress` knows of in every Python version that runs this.
_NEVER = [
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's metadata and health service, in a public range
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
        "192.88.99.0/24",  # 6to4 relays
        "3fff::/20",  # documentation
    )
]
# The interface part of an ISATAP address, whose last 32 bits are an IPv4 address; one bit of it is free.
_ISATAP, _ISATAP_MASK = 0x00005EFE, 0xFDFFFFFF


def is_public(address: str) -> bool:  # noqa: PLR0911 - one line a way to carry an address
    """Whether an IP address, as a resolver returned it, is on the public internet.

    An IPv6 address may carry an IPv4 one, which is where the packets go in the end; that one must be public too.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in network for network in _NEVER if network.version == ip.version):
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast
    if ip.ipv4_mapped is not None:
        return is_public(str(ip.ipv4_mapped))
    last = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in _NAT64:
        return is_public(str(last))
    if ip.sixtofour is not None:
        return is_public(str(ip.sixtofour))
    if (int(ip) >> 32) & _ISATAP_MASK == _ISATAP and not is_public(str(last)):
        return False
    return ip in _GLOBAL_UNICAST and ip.is_global and not ip.is_multicast


def resolve(host: str, port: int, *, connect_to: Mapping[str, str], allow_private: bool) -> list[Address]:
    """Socket families and addresses that ``host`` may be reached at, in the resolver's order.

    Raises :class:`SampleError` ``refused_address`` if any of them is not public: such a name is not to be trusted with
    its other addresses either. ``connect_to`` maps a host, as written in URLs, to a trusted ``address:port``.
    """
    trusted = connect_to.get(host.lower())
    if trusted is not None:
        name, _, number = trusted.rpartition(":")
        host, port = name.strip("[]"), int(number)
    found: list[Address] = [
        (family, address) for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ]
    if trusted is None and not allow_private:
        for _, address in found:
            if not is_public(str(address[0])):
                raise SampleError("refused_address", "address is not public", f"{address[0]} of host {host!r}")
    return found


class BoundedMixin:
    """A socket whose reads end at ``deadline`` (of ``time.monotonic``), at ``silence_s`` without a byte, and once
    ``bytes_left`` are spent.

    A socket's own timeout starts anew with each byte, so a server that drips could hold a reader for ever. And all that
    a server sends comes through here, whatever it calls it: headers, trailers, answers before the answer, framing.
    """

    deadline: float = float("inf")
    silence_s: float | None = None
    bytes_left: int = 0

    def recv_into(self, *arguments: object) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise SampleError("too_slow", "not complete in time")
        if self.bytes_left <= 0:
            raise SampleError("too_large", "more bytes than allowed", "headers, framing and body together")
        self.settimeout(left if self.silence_s is None else min(left, self.silence_s))  # type: ignore[attr-defined]
        try:
            count: int = super().recv_into(*arguments)  # type: ignore[misc]
        except TimeoutError:
            if time.monotonic() >= self.deadline:
                raise SampleError("too_slow", "not complete in time") from None
            raise
        self.bytes_left -= count
        return count


class BoundedSocket(BoundedMixin, socket.socket):
    """A TCP socket with bounds on what it reads."""


def connect(addresses: list[Address], *, silence_s: float | None, deadline: float) -> BoundedSocket:
    """Connect to the first address that answers; ``silence_s`` bounds each attempt, ``deadline`` all of them."""
    last: OSError | None = None
    for family, address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            raise SampleError("too_slow", "not complete in time")
        connection = BoundedSocket(family, socket.SOCK_STREAM)
        connection.deadline, connection.silence_s = deadline, silence_s
        connection.settimeout(left if silence_s is None else min(left, silence_s))
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            last = error
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    raise last or OSError("the name has no address")


def host_of(url: str) -> str:
    """The host that a URL names, in lower case; nothing if it names none or cannot be understood."""
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""


def unresolved(hosts: list[str], *, timeout_s: float) -> list[str]:
    """Those of ``hosts`` that the resolver does not find now; all are asked at once, for ``timeout_s`` at most."""
    found: set[str] = set()

    def ask(host: str) -> None:
        try:
            socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
            found.add(host)
        except (OSError, UnicodeError):
            pass

    threads = [threading.Thread(target=ask, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [host for host in hosts if host not in found]
