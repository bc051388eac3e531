import json
import pickle

import duckdb
import pytest
from pydantic import ValidationError

from pipeline.core.query import QueryConfig
from pipeline.core.settings import Section, Size


class Limits(Section):
    limit: Size


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("512MB", 512 * 10**6),
        ("4GB", 4 * 10**9),
        ("1.5TB", 15 * 10**11),
        ("1.5 tb", 15 * 10**11),
        (" 200GB ", 200 * 10**9),
        ("4G", 4 * 10**9),
        ("4GiB", 4 << 30),
        ("100", 100),
        ("100 B", 100),
        (10**9, 10**9),
    ],
)
def test_sizes_are_read(text: object, bytes_: int) -> None:
    assert Limits(limit=text).limit == bytes_


@pytest.mark.parametrize(
    "text", ["lots", "", "4 apples", "4,5GB", "4GB!", "1e9", "GB", "-4GB", "80%", "4 gbit", -1, None]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValidationError, match="limit"):
        Limits(limit=text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(2 * 10**9, "2GB"), (15 * 10**11, "1500GB"), (1536, "1536B"), (123_456_789, "123456789B"), (0, "0B")],
)
def test_a_size_is_written_exactly_and_read_again(size: int, text: str) -> None:
    limits = Limits(limit=size)
    assert str(limits.limit) == f"{limits.limit}" == text
    assert (
        limits.model_dump() == limits.model_dump(mode="json") == json.loads(limits.model_dump_json()) == {"limit": text}
    )
    assert Limits(**limits.model_dump()) == pickle.loads(pickle.dumps(limits)) == limits


@pytest.mark.parametrize("text", ["60MB", "1.5GB", "123456789B", "4GiB"])
def test_duckdb_means_the_same(text: str) -> None:
    ours, theirs = (
        duckdb.connect(config={"memory_limit": limit}).execute("SELECT current_setting('memory_limit')").fetchall()
        for limit in (str(QueryConfig(memory_limit=text).memory_limit), text)
    )
    assert ours == theirs
