"""Whether a server asks that an image not be used: ``X-Robots-Tag`` headers and robots.txt."""

import re
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Iterable

from protego import Protego

# Directives with a value. Their colon does not introduce a crawler's name.
_VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
# protego forgives a missing hyphen or colon.
_AGENT_LINE = re.compile(r"\s*user(?:-|\s*)agent\s*[:\s](?P<name>[^#]*)", re.IGNORECASE)
_ALLOW_ALL, _DISALLOW_ALL = "", "User-agent: *\nDisallow: /"
# No crawler's name.
_OTHERS = "?"
# Bytes that parsed rules may take together, and what they take at most, as measured: an origin by itself, and each
# byte, line and wildcard of its text, which becomes part of a compiled expression.
_BYTES_KEPT = 1 << 26
_ORIGIN_BYTES, _BYTES_A_BYTE, _BYTES_A_LINE, _BYTES_A_WILDCARD = 2048, 10, 256, 700


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
                concerned = _token(directive) in ("*", _token(agent))
                directive = rest.strip()
            if concerned and directive in refused:
                return directive
    return None


def _token(name: str) -> str:
    """A crawler's name without the version that may follow it, in lower case."""
    return re.split(r"[/\s]", name.strip().lower())[0]


class RobotsCache:
    """robots.txt of each origin, fetched once per process; those used last are kept, in ``_BYTES_KEPT`` bytes.

    ``fetch`` returns the HTTP status and the text for a URL, or raises. As RFC 9309 has it: no robots.txt allows
    everything, a server in trouble (5xx) nothing. One that cannot be reached will not give its images either.
    """

    def __init__(self, agent: str, fetch: Callable[[str], tuple[int, str]]):
        self._agent, self._fetch = _token(agent), fetch
        self._rules: OrderedDict[str, tuple[Protego, int]] = OrderedDict()
        self._bytes = 0
        self._lock, self._parsing = threading.Lock(), threading.Lock()

    def allows(self, url: str) -> bool:
        """Whether ``url`` may be fetched. Raises what ``fetch`` raises."""
        parts = urllib.parse.urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            found = self._rules.get(origin)
            if found is not None:
                self._rules.move_to_end(origin)
        rules = found[0] if found else self._read(origin)
        return rules.can_fetch(url, self._agent)

    def _read(self, origin: str) -> Protego:
        status, text = self._fetch(f"{origin}/robots.txt")
        if status >= 400:
            text = _DISALLOW_ALL if status >= 500 else _ALLOW_ALL
        # One at a time: while it is parsed, a text takes several times what its rules take.
        with self._parsing:
            rules = parse_robots(text, self._agent)
        with self._lock:
            # Another thread may have read the same.
            _, before = self._rules.pop(origin, (None, 0))
            size = _size(text)
            self._rules[origin] = rules, size
            self._bytes += size - before
            while self._bytes > _BYTES_KEPT:
                _, (_, size) = self._rules.popitem(last=False)
                self._bytes -= size
        return rules


def _size(text: str) -> int:
    """Bytes that the parsed rules of a text take at most."""
    by_length = _BYTES_A_BYTE * len(text.encode(errors="replace"))
    lines = len(text.splitlines())
    return _ORIGIN_BYTES + by_length + _BYTES_A_LINE * lines + _BYTES_A_WILDCARD * (text.count("*") + text.count("$"))


def parse_robots(text: str, agent: str) -> Protego:
    """The rules of a robots.txt for ``agent``, in time and memory that grow with its length, whatever is in it.

    protego copies the rules of a group to every crawler that the group names: half a megabyte of names and short rules
    would become gigabytes. So all crawlers but ``agent`` get one name. It also takes ``clip`` for the start of
    ``clip-cid``, where RFC 9309 compares whole names, and does not know the byte-order mark that a text may begin with.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    return Protego.parse("\n".join(_with_others_as_one(line, agent) for line in lines))


def _with_others_as_one(line: str, agent: str) -> str:
    found = _AGENT_LINE.match(line)
    if not found:
        return line
    name = _token(found["name"])
    return "User-agent: " + (name if name == "*" else agent if name.rstrip("*") == agent else _OTHERS)
