"""From rows to shards: images with all their captions, the same whatever the order, with every row counted."""

import random
from collections import defaultdict
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import BlocklistError, ConfigError, SourceError
from pipeline.core.query import QueryConfig
from pipeline.source.config import SourceConfig
from pipeline.source.pairs import create_rows, write_pairs
from pipeline.source.stage import import_pairs
from pipeline.storage.stage import Stage
from tests.pipeline.source.test_fields import table
from tests.pipeline.source.test_source import expected_id, image_id, parquet, rows, run

Lists = list[list[tuple[str, str]]]


def expected_shards(lists: Lists, images: int) -> list[list[tuple[int, int]]]:
    """By brute force: (image_id, sample_id) of each shard."""
    first, captions = dict[str, int](), defaultdict[str, set[str]](set)
    for number, pairs in enumerate(lists):
        for url, caption in pairs:
            first.setdefault(url, number)
            captions[url].add(caption)
    samples = lambda url: sorted(expected_id(url, caption) for caption in captions[url])  # noqa: E731
    order = sorted(captions, key=lambda url: (first[url], image_id(url)))
    return [
        [(image_id(url), sample) for url in order[n : n + images] for sample in samples(url)]
        for n in range(0, len(order), images)
    ]


def shards(result) -> list[list[tuple[int, int]]]:  # type: ignore[no-untyped-def]
    tables = [pq.read_table(path).to_pylist() for path in result.parquet("source_pairs")]
    return [[(row["image_id"], row["sample_id"]) for row in table] for table in tables]


_PAIR = st.tuples(st.sampled_from([f"http://x/{n}" for n in range(25)]), st.sampled_from("abc"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=st.lists(st.lists(_PAIR, min_size=1, max_size=40), min_size=1, max_size=3))
def test_an_image_is_in_one_shard_with_all_its_captions(tmp_path_factory: pytest.TempPathFactory, lists: Lists) -> None:
    folder = tmp_path_factory.mktemp("lists")
    paths = [parquet(folder / f"{n}.parquet", *map(list, zip(*pairs))) for n, pairs in enumerate(lists)]
    result = run(folder / "root", *paths)
    assert shards(result) == expected_shards(lists, 10)
    counts = result.stats
    distinct = {pair for pairs in lists for pair in pairs}
    assert counts["images"] == len({url for url, _ in distinct}) and counts["pairs"] == result.rows == len(distinct)
    assert counts["exact_repeats"] == counts["listed"] - len(distinct) == sum(map(len, lists)) - len(distinct)


def test_a_list_at_the_end_changes_the_shards_of_images_that_it_speaks_of(tmp_path: Path) -> None:
    """Also where a shard is longer than what is read at a time."""
    urls = [f"http://x/{number}" for number in range(40)]
    first = [(url, f"{'long ' * 40}{number}") for url in urls for number in range(2000)]
    paths = [parquet(tmp_path / "a.parquet", *map(list, zip(*first)))]
    before = [path.read_bytes() for path in run(tmp_path / "root", *paths).parquet("source_pairs")]
    # Of an image of the second shard.
    known = next(url for url in urls if image_id(url) == shards_first(before[1]))
    paths.append(parquet(tmp_path / "b.parquet", [known, "http://y/1"], ["one more", "new"]))
    after = [path.read_bytes() for path in run(tmp_path / "root", *paths).parquet("source_pairs")]
    assert [a == b for a, b in zip(before, after)] == [True, False, True, True] and len(after) == 5


def shards_first(data: bytes) -> int:
    import pyarrow as pa

    return pq.read_table(pa.BufferReader(data))["image_id"][0].as_py()


def test_a_url_that_stands_ten_thousand_times_is_one_image(tmp_path: Path) -> None:
    draw = random.Random(0)
    pairs = [("http://x/many", f"caption {n}") for n in range(10_000)] + [("http://x/many", "caption 1")] * 10_000
    pairs += [(f"http://x/{n}", "one") for n in range(15)]
    draw.shuffle(pairs)
    result = run(tmp_path / "root", parquet(tmp_path / "a.parquet", *map(list, zip(*pairs))))
    assert shards(result) == expected_shards([pairs], 10)
    assert result.stats["images"] == 16 and result.stats["exact_repeats"] == 10_000


def test_spaces_around_a_url_are_not_of_it_and_blank_captions_are_none(tmp_path: Path) -> None:
    captions = ["a", "\u00a0\u3000", "\x0b", " \u2003 ", "\u200b", "b"]
    urls = ["  http://x/1 ", *["http://x/2"] * 4, "\u00a0http://x/1"]
    result = run(tmp_path / "root", parquet(tmp_path / "a.parquet", urls, captions))
    assert {(row["url"], row["caption"]) for row in rows(result)} == {
        ("http://x/1", "a"), ("http://x/1", "b"), ("http://x/2", "\u200b"),
    }  # fmt: skip
    assert result.stats["unusable"] == 3 and result.stats["images"] == 2


SCORED = [
    {"URL": f"http://x/{number}", "TEXT": f"a {'dog' if number % 2 else 'cat'}", "similarity": score, "list_index": 7}
    for number, score in enumerate([0.1, 0.4, None, 0.5, 0.6, float("nan")])
]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("similarity > 0.3", {1, 3, 4, 5}),
        ("similarity > 0.3 AND caption LIKE '%dog'", {1, 3, 5}),
        ("similarity > 0.3 OR url = 'http://x/2'", {1, 2, 3, 4, 5}),
        ("NOT (similarity > 0.3)", {0}),
        ("list_index = 7 AND Similarity < 0.45", {0, 1}),
    ],
)
def test_a_condition_takes_what_it_is_true_of(tmp_path: Path, where: str, left: set[int]) -> None:
    blank = [{"URL": "http://x/9", "TEXT": " ", "similarity": 1.0, "list_index": 7}]
    path = table(tmp_path / "a.parquet", [*SCORED, *SCORED[:2], *blank])
    result = run(tmp_path / "root", path, columns=["similarity", "list_index"], where=where)
    assert {int(row["url"][-1]) for row in rows(result)} == left
    counts = result.stats
    assert counts["unusable"] == 1 and counts["listed"] == counts["captions"] == 9
    assert counts["filtered"] == sum(1 for number in [*range(6), 0, 1] if number not in left)
    assert counts["captions"] == counts["unusable"] + counts["filtered"] + counts["exact_repeats"] + counts["pairs"]


def test_conditions_that_cannot_be_are_named(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", SCORED)
    with pytest.raises(SourceError, match=r"where: 'similarity > 2 AND similarity < 3' removes all 6 usable pairs of"):
        run(tmp_path / "root", path, columns=["similarity"], where="similarity > 2 AND similarity < 3")
    with pytest.raises(ConfigError, match="punsafe"):
        run(tmp_path / "root", path, columns=["similarity"], where="punsafe < 1")
    with pytest.raises(ConfigError, match="similarity"):
        run(tmp_path / "root", path, columns=["similarity"], where="similarity + 1")
    with pytest.raises(
        SourceError, match=r"where: 'caption::INTEGER > 1' cannot be computed of each pair: .*'a (cat|dog)'"
    ):
        run(tmp_path / "root", path, where="caption::INTEGER > 1")


def test_images_without_a_url_go_by_their_name(tmp_path: Path) -> None:
    """What adopts images fills the same table."""
    from pipeline.core import query

    stage = Stage(tmp_path, "source_pairs", version=1, config={}, inputs={"pairs": 1})
    found = [(None, "sha256:ab", "one"), (None, "sha256:ab", "two"), ("http://x/1", None, "a"), (None, "", "no name")]

    def write(output) -> None:  # type: ignore[no-untyped-def]
        with query.connect(QueryConfig(), scratch=tmp_path / ".tmp") as connection:
            create_rows(connection, {"score": "DOUBLE"})
            for row in found:
                values = (*row, 0, {"score": 0.5})
                connection.execute("INSERT INTO source_rows VALUES (?, ?, ?, ?, ?)", values)
            config = SourceConfig(where="url IS NULL OR caption = 'a'")
            write_pairs(connection, config, output, described="here", types={"score": "DOUBLE"})

    result = stage.each(write)
    assert {(row["image_id"], row["sample_id"], row["url"], row["caption"]) for row in rows(result)} == {
        (image_id("sha256:ab"), expected_id("sha256:ab", "one"), None, "one"),
        (image_id("sha256:ab"), expected_id("sha256:ab", "two"), None, "two"),
        (image_id("http://x/1"), expected_id("http://x/1", "a"), "http://x/1", "a"),
    }
    assert result.stats["unusable"] == 1 and result.stats["images"] == 2


def test_what_is_blocked_is_not_asked_for_and_other_shards_stay(tmp_path: Path) -> None:
    rows = [
        {"URL": f"http://{host}/{number}", "TEXT": "t"}
        for number in range(20)
        for host in ("a.org", "b.a.org", "c.org")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "l.parquet")
    config = {"samples_per_shard": 7}
    import_pairs(tmp_path / "whole", SourceConfig(**config), QueryConfig(), lists=[str(tmp_path / "l.parquet")])
    (tmp_path / "no.txt").write_text("host:a.org\nhttp://c.org/3\n")
    blocked = SourceConfig(**config, blocklist=[str(tmp_path / "no.txt")])
    result = import_pairs(tmp_path / "root", blocked, QueryConfig(), lists=[str(tmp_path / "l.parquet")])
    assert (result.stats["blocked"], result.rows, result.stats["blocklist_unmatched"]) == (41, 19, 0)
    left = duckdb.sql(f"SELECT url FROM '{tmp_path}/root/source_pairs/*.parquet'").fetchall()
    assert {url for (url,) in left} == {f"http://c.org/{number}" for number in range(20)} - {"http://c.org/3"}
    matched = duckdb.sql(f"SELECT matched, count(*) FROM '{tmp_path}/root/blocked_source_pairs/*.parquet' GROUP BY ALL")
    assert dict(matched.fetchall()) == {"host": 40, "url": 1}
    # Where nothing is blocked, shards are those of the whole list.
    (tmp_path / "one.txt").write_text("http://c.org/3\n")
    one = SourceConfig(**config, blocklist=[str(tmp_path / "one.txt")])
    import_pairs(tmp_path / "one", one, QueryConfig(), lists=[str(tmp_path / "l.parquet")])
    names = [path.name for path in (tmp_path / "whole" / "source_pairs").iterdir()]
    same = [
        (tmp_path / "one/source_pairs" / name).read_bytes() == (tmp_path / "whole/source_pairs" / name).read_bytes()
        for name in names
    ]
    assert same.count(False) == 1
    (tmp_path / "all.txt").write_text("host:a.org\nhost:c.org\n")
    every = SourceConfig(**config, blocklist=[str(tmp_path / "all.txt")])
    with pytest.raises(BlocklistError, match="blocks all 60 images"):
        import_pairs(tmp_path / "none", every, QueryConfig(), lists=[str(tmp_path / "l.parquet")])
