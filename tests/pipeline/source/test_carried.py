import pytest

from pipeline.source.carried import Carried, parse_carried
from pipeline.source.config import SourceConfig


def test_a_type_stands_after_the_last_two_colons() -> None:
    found = parse_carried(["similarity", "a::b::VARCHAR", "p::DECIMAL(10, 2)", "Ünsafe %::FLOAT"])
    assert [(column.name, column.type) for column in found] == [
        ("similarity", None), ("a::b", "VARCHAR"), ("p", "DECIMAL(10,2)"), ("Ünsafe %", "FLOAT"),
    ]  # fmt: skip
    assert SourceConfig(columns=["x::DATE"]).carried == (Carried(name="x", type="DATE"),)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["x::INT"], r"'x::INT': expected one of BOOLEAN, .*DECIMAL\(p,s\) after `::`"),
        (["x::VARCHAR[]"], "expected one of"),
        (["x::DOUBLE); DROP TABLE y; --"], "expected one of"),
        (["x::DECIMAL(39,2)"], "expected one of"),
        (["x::DECIMAL(4,5)"], "expected one of"),
        (["::DOUBLE"], "no name"),
        ([""], "no name"),
        (["URL"], "'URL' would be a second column 'url'"),
        (["sample_id::BIGINT"], "second column 'sample_id'"),
        (["a", "b", "A::DATE"], r"names one twice: \['a', 'A'\]"),
    ],
)
def test_what_is_no_column_is_refused(columns: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(columns=columns)


def test_settings_that_change_nothing_are_not_of_the_content() -> None:
    plain = {"format", "url_column", "caption_column", "samples_per_shard", "limit"}
    assert SourceConfig().content().keys() == plain
    several = SourceConfig(caption_columns=["a", "b"], columns=["x"], where="x > 1", column_names=["a", "b"]).content()
    assert several.keys() == plain - {"caption_column"} | {"caption_columns", "columns", "where", "column_names"}
