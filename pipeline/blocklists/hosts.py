"""Hosts in one spelling, the one by which the download asks for them."""

import re
from urllib.parse import unquote

WRITTEN = r"regexp_extract(url, '^\s*[A-Za-z][A-Za-z0-9+.-]*://(?:[^/\\?#]*@)?(\[[^\]]*\]|[^/\\?#:]*)', 1)"
"""The host of a URL as it stands there, in SQL: neither user, password nor port."""

_PLAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def normal_host(written: str) -> str:
    """A host in lower case and ASCII, without the dot at its end; empty if it is none.

    What has other characters is spelled as the download spells it: percent-decoded, then by IDNA.
    """
    host = written.strip().lower().removesuffix(".")
    if _PLAIN.fullmatch(host) or re.fullmatch(r"\[[0-9a-f:.]+\]", host):
        return host
    try:
        host = unquote(host).strip().encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        return ""
    return host if _PLAIN.fullmatch(host) else ""
