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
        for host, address in self.connect_to.items():
            if not address.rpartition(":")[2].isdigit():
                raise ConfigError(f"connect_to[{host!r}] is {address!r}, expected address:port")

    @property
    def user_agent(self) -> str:
        """Who asks: the agent's token, the program that fetches, and where to complain."""
        return f"{self.agent} (img2dataset{f'; +{self.contact}' if self.contact else ''})"
