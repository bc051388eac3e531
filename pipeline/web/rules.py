"""What may be fetched, and how much of it."""

import dataclasses
from collections.abc import Mapping

from pipeline.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """The rules. Plain values only: it travels inside the pickled downloader to workers on any machine.

    ``connect_to`` maps a host, as written in URLs, to the trusted ``address:port`` to connect to instead; every other
    address must be public unless ``allow_private_addresses``. ``sample_timeout_s`` bounds a sample with its redirects
    and ``retries``; ``max_bytes`` its body. ``opt_out`` are directives of ``X-Robots-Tag`` that are honored.
    """

    connect_to: Mapping[str, str] = dataclasses.field(default_factory=dict)
    allow_private_addresses: bool = False
    schemes: tuple[str, ...] = ("http", "https")
    max_bytes: int = 50_000_000
    max_redirects: int = 5
    sample_timeout_s: float = 60
    retries: int = 0
    agent: str = "clip-cid"
    contact: str | None = None
    opt_out: tuple[str, ...] = ()
    robots_txt: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "connect_to", trusted(self.connect_to))

    @property
    def user_agent(self) -> str:
        """Who asks: the agent's token, the program that fetches, and where to complain."""
        return f"{self.agent} (img2dataset{f'; +{self.contact}' if self.contact else ''})"


def trusted(connect_to: Mapping[str, str]) -> dict[str, str]:
    """``connect_to`` with hosts in lower case, which is how URLs name them whatever they write.

    Raises :class:`ConfigError` for an address without a port, and for one host with two addresses.
    """
    found: dict[str, str] = {}
    for host, address in connect_to.items():
        name, _, port = address.rpartition(":")
        if not (name and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 1 << 16):
            raise ConfigError(f"connect_to[{host!r}] is {address!r}, expected address:port")
        if found.setdefault(host.lower(), address) != address:
            raise ConfigError(f"connect_to has two addresses for {host.lower()!r}: {found[host.lower()]}, {address}")
    return found
