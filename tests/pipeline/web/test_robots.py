import gc
import tracemalloc

import pytest

from pipeline.web import robots
from pipeline.web.robots import RobotsCache, opted_out, parse_robots

AGENT = "clip-cid"


def allows(text: str, path: str, agent: str = AGENT) -> bool:
    return RobotsCache(agent, lambda _: (200, text)).allows(f"http://site.test{path}")


@pytest.mark.parametrize(
    ("rules", "allowed", "disallowed"),
    [
        # Patterns.
        ("Disallow: /*.jpg$", ["/a.jpg?x", "/a.jpeg"], ["/a.jpg", "/b/c.jpg"]),
        ("Disallow: /*/b/*.png", ["/a/c.png", "/b/c.png"], ["/a/b/c.png", "/a/b/c/d.png?e"]),
        ("Disallow: /a$", ["/", "/ab"], ["/a"]),
        ("Disallow: /a*b*c$", ["/abcd"], ["/abc", "/a1b2c", "/abcbc"]),
        ("Disallow: /a", ["/b/a", "/A"], ["/a", "/ab", "/a?b"]),
        ("Disallow: /a?b=", ["/a", "/a?c=1"], ["/a?b=1"]),
        ("Disallow: *", [], ["/", "/a"]),
        # The longest match decides, whatever the order; of equals the one that allows.
        ("Allow: /\nDisallow: /private", ["/", "/a"], ["/private/a"]),
        ("Disallow: /\nAllow: /public/", ["/public/a"], ["/", "/public", "/a"]),
        ("Allow: /example/page/\nDisallow: /example/page/a.gif", ["/example/page/b.gif"], ["/example/page/a.gif"]),
        ("Disallow: /page\nAllow: /page", ["/page"], []),
        ("Allow: /p\nDisallow: /*.gif", ["/p/a.jpg"], ["/p/a.gif"]),
        # Nothing to match, or nothing that is known.
        ("Disallow:", ["/", "/a"], []),
        ("Crawl-delay: 10\nNoindex: /a\nDisallow: /b", ["/a"], ["/b"]),
        # Escapes are compared as what they stand for.
        ("Disallow: /foo/bar/ツ", ["/foo/bar"], ["/foo/bar/%E3%83%84", "/foo/bar/ツ"]),
        ("Disallow: /foo/bar/%E3%83%84", [], ["/foo/bar/ツ", "/foo/bar/%e3%83%84"]),
        ("Disallow: /a%62c", ["/a"], ["/abc"]),
        ("Disallow: /a%3Cd", [], ["/a%3cd.html"]),
        ("Disallow: /a/b", ["/a%2fb"], ["/a/b"]),
        # The file itself can always be asked for.
        ("Disallow: /", ["/robots.txt"], ["/a"]),
    ],
)
def test_rules_of_a_group(rules: str, allowed: list[str], disallowed: list[str]) -> None:
    text = f"User-agent: *\n{rules}\n"
    assert [path for path in allowed if not allows(text, path)] == []
    assert [path for path in disallowed if allows(text, path)] == []


@pytest.mark.parametrize(
    ("text", "allowed", "disallowed"),
    [
        # Groups of one name are one group.
        ("User-agent: *\nDisallow: /a\n\nUser-agent: *\nDisallow: /b", ["/c"], ["/a", "/b"]),
        (f"User-agent: {AGENT}\nDisallow: /a\n\nUser-agent: x\nUser-agent: {AGENT}\nDisallow: /b", [], ["/a", "/b"]),
        # Our own group stands in for that of all.
        (f"User-agent: *\nDisallow: /\n\nUser-agent: {AGENT}\nDisallow: /a", ["/b"], ["/a"]),
        (f"User-agent: {AGENT}\nAllow: /\n\nUser-agent: *\nDisallow: /", ["/b"], []),
        ("User-agent: other\nDisallow: /", ["/a"], []),
        ("User-agent: a\nUser-agent: *\nUser-agent: b\nDisallow: /a", ["/b"], ["/a"]),
        # Names are compared whole, without version, in any case.
        ("User-agent: clip\nDisallow: /", ["/a"], []),
        ("User-agent: clip-cid-images\nDisallow: /", ["/a"], []),
        ("User-agent: CLIP-CID/2.0 (crawler)\nDisallow: /", [], ["/a"]),
        ("User-agent: clip-cid*\nDisallow: /", [], ["/a"]),
        ("user-AGENT : Clip-Cid # us\ndisALLOW : /a # not this", ["/b"], ["/a"]),
        # Lines end in any way; what is no rule, or belongs to nobody, is passed over.
        ("\ufeffUser-agent: *\r\nDisallow: /a\r\n", ["/b"], ["/a"]),
        ("User-agent: *\rDisallow: /a\rDisallow: /b", ["/c"], ["/a", "/b"]),
        ("User-agent: *\n\n\nDisallow: /a", ["/b"], ["/a"]),
        ("Disallow: /a\nUser-agent: *\nDisallow: /b", ["/a"], ["/b"]),
        ("User-agent: *\nSitemap: http://site.test/s\nUser-agent: x\nDisallow: /a", ["/b"], ["/a"]),
        ("<!DOCTYPE html><html>\n<body>no such page</body></html>", ["/a"], []),
        ("", ["/", "/a"], []),
    ],
)
def test_groups(text: str, allowed: list[str], disallowed: list[str]) -> None:
    assert [path for path in allowed if not allows(text, path)] == []
    assert [path for path in disallowed if allows(text, path)] == []


def test_an_agent_may_be_configured_with_a_version() -> None:
    assert not allows("User-agent: My-Bot\nDisallow: /", "/a", agent="my-bot/2.0")


@pytest.mark.parametrize(("status", "allowed"), [(200, False), (404, True), (403, True), (500, False), (503, False)])
def test_what_a_status_means(status: int, allowed: bool) -> None:
    text = "User-agent: *\nDisallow: /" if status < 500 else ""
    assert RobotsCache(AGENT, lambda _: (status, text)).allows("https://site.test/a") is allowed


def test_what_was_used_last_is_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "User-agent: *\nDisallow: /b\n"
    monkeypatch.setattr(robots, "_BYTES_KEPT", 3 * robots._size(text))
    asked: list[str] = []

    def fetch(url: str) -> tuple[int, str]:
        asked.append(url)
        return 200, text

    cache = RobotsCache(AGENT, fetch)
    for host in ("a", "b", "a", "c", "a", "d", "a", "b"):
        assert cache.allows(f"http://{host}.test/a")
    assert asked == [f"http://{host}.test/robots.txt" for host in ("a", "b", "c", "d", "b")]


@pytest.mark.parametrize(
    "line", ["Allow:/%d", "Disallow: /*a%d*b$", "Allow:*%d*", "Disallow: /%dツツツ*", "Sitemap:%d"]
)
def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(robots, "_BYTES_KEPT", 2 << 20)
    text = "User-agent: *\n" + "\n".join(line % number for number in range(400))
    # What Python and protego keep for themselves is there before it is counted.
    allows(text, "/a")
    tracemalloc.start()
    try:
        cache = RobotsCache(AGENT, lambda _: (200, text))
        for number in range(40):
            cache.allows(f"http://{number}.test/abc")
        # protego's rules hold each other.
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(cache._rules) > 1
    assert kept < 2 << 20


def test_rules_take_no_more_than_in_proportion_to_their_text() -> None:
    """A group of many names and many rules is what would take the product of the two."""
    names = "".join(f"User-agent: {number}\n" for number in range(12_000))
    text = names + "User-agent: *\n" + "Allow: /a$\n" * 25_000 + "Disallow: /\n"
    tracemalloc.start()
    try:
        rules = parse_robots(text, AGENT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(text)
    assert [rules.can_fetch(f"http://site.test/{path}", AGENT) for path in ("a", "b")] == [True, False]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("noai", "noai"),
        ("NoAI, noimageai", "noai"),
        ("all", None),
        ("noindex, max-snippet: -1", "noindex"),
        ("max-snippet: -1, noml", "noml"),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", None),
        ("otherbot: noai", None),
        ("otherbot: noai, noindex", None),
        ("clip-cid: noai", "noai"),
        ("clip-cid/1.0: noai", "noai"),
        ("*: noai", "noai"),
        ("otherbot: noai, clip-cid: noml", "noml"),
        ("", None),
    ],
)
def test_robots_tags(header: str, found: str | None) -> None:
    assert opted_out([header], "Clip-CID", ["noai", "noindex", "noml"]) == found


def test_every_robots_tag_counts() -> None:
    assert opted_out(["otherbot: noai", "all", "noml"], "clip-cid", ["noml"]) == "noml"
