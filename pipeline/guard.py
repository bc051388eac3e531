"""What may be fetched. img2dataset asks urllib, so the guard is a urllib opener that is installed in its workers.

Only http and https; every address is checked after the name was resolved and is the one connected to, so that neither
a redirect nor a name that changes its answer leads into a private network. Proxies of the environment are not used:
behind a proxy the address could not be checked.
"""

import dataclasses
import http.client
import ipaddress
import socket
import urllib.request
from collections.abc import Mapping
from typing import Any


class RefusedAddressError(OSError):
    """A URL led to an address that must not be fetched."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """``connect_to`` maps a host, as written in URLs, to the trusted ``address:port`` to connect to instead."""

    connect_to: Mapping[str, str] = dataclasses.field(default_factory=dict)
    allow_private_addresses: bool = False

    def install(self) -> None:
        """Make ``urllib.request.urlopen`` in this process obey the guard."""
        urllib.request.install_opener(self.opener())

    def opener(self) -> urllib.request.OpenerDirector:
        """An opener that knows http and https alone."""
        guard = self

        class HTTPHandler(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(guard._http_connection, request)

        class HTTPSHandler(urllib.request.HTTPSHandler):
            def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(guard._https_connection, request, context=self._context)  # type: ignore

        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.UnknownHandler,
            urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPRedirectHandler,
            urllib.request.HTTPErrorProcessor,
            HTTPHandler,
            HTTPSHandler,
        ):
            opener.add_handler(handler())
        return opener

    def connect(
        self, address: tuple[str, int], timeout: Any = None, source_address: Any = None, **_ignored: Any
    ) -> socket.socket:
        """Like ``socket.create_connection``, to an address that is public or named in ``connect_to``."""
        host, port = address
        trusted: str | None = self.connect_to.get(host.lower())
        if trusted is not None:
            trusted_host, _, trusted_port = trusted.rpartition(":")
            return socket.create_connection((trusted_host.strip("[]"), int(trusted_port)), timeout, source_address)
        last: OSError | None = None
        resolutions = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for resolved in [str(resolution[4][0]) for resolution in resolutions]:
            if not self.allow_private_addresses and not is_public(resolved):
                raise RefusedAddressError(f"address {resolved} of host {host!r} is not public")
            try:
                return socket.create_connection((resolved, port), timeout, source_address)
            except OSError as error:
                last = error
        raise last or OSError(f"host {host!r} has no address")

    def _http_connection(self, host: str, **options: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(host, **options)
        connection._create_connection = self.connect  # type: ignore[attr-defined]
        return connection

    def _https_connection(self, host: str, **options: Any) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(host, **options)
        connection._create_connection = self.connect  # type: ignore[attr-defined]
        return connection


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver returned it, is on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    # An IPv6 address may carry an IPv4 one, which is where the packets go in the end.
    inner = (ip.ipv4_mapped or ip.sixtofour) if isinstance(ip, ipaddress.IPv6Address) else None
    return (inner or ip).is_global and not (inner or ip).is_multicast
