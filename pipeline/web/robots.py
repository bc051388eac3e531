"""Whether a server asks that an image not be used: ``X-Robots-Tag`` headers and robots.txt."""

import re
import threading
import urllib.parse
import urllib.robotparser
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

# Directives with a value. Their colon does not introduce a crawler's name.
_VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
_ORIGINS_KEPT = 10_000


def opted_out(headers: Iterable[str], agent: str, directives: Iterable[str]) -> str | None:
    """The first directive in ``X-Robots-Tag`` headers that is in ``directives`` and meant for all or for ``agent``.

    A header is ``[crawler:] directive, directive…``; a crawler's name holds for the directives that follow it in the
    same header. Case does not matter.
    """
    refused = {directive.strip().lower() for directive in directives}
    for header in headers:
        concerned = True
        for part in header.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            directive = name.strip()
            if colon and directive not in _VALUED:
                concerned = re.split(r"[/\s]", directive)[0] in ("*", agent.lower())
                directive = rest.strip()
            if concerned and directive in refused:
                return directive
    return None


class RobotsCache:
    """robots.txt of each origin, fetched once per process and kept for the ``_ORIGINS_KEPT`` used last.

    ``fetch`` returns the HTTP status and the text for a URL, or raises. As RFC 9309 has it: no robots.txt allows
    everything, a server in trouble (5xx) nothing. One that cannot be reached will not give its images either.
    """

    def __init__(self, agent: str, fetch: Callable[[str], tuple[int, str]]):
        self._agent, self._fetch = agent, fetch
        self._rules: OrderedDict[str, urllib.robotparser.RobotFileParser] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, url: str) -> bool:
        """Whether ``url`` may be fetched. Raises what ``fetch`` raises."""
        parts = urllib.parse.urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            rules = self._rules.get(origin)
            if rules is not None:
                self._rules.move_to_end(origin)
        if rules is None:
            rules = self._read(origin)
            with self._lock:
                self._rules[origin] = rules
                while len(self._rules) > _ORIGINS_KEPT:
                    self._rules.popitem(last=False)
        return rules.can_fetch(self._agent, url)

    def _read(self, origin: str) -> urllib.robotparser.RobotFileParser:
        rules: Any = urllib.robotparser.RobotFileParser()
        status, text = self._fetch(f"{origin}/robots.txt")
        rules.disallow_all = status >= 500
        rules.allow_all = 400 <= status < 500
        rules.parse(text.splitlines())
        return rules
