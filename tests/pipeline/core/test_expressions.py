"""Expressions of settings: what is refused before anything runs, and that what is taken can be evaluated."""

import datetime

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError
from pipeline.core.expressions import check_expression, check_ordering, columns_of, evaluating, type_of

COLUMNS = {
    "n": "INTEGER",
    "ratio": "DOUBLE",
    "image width": "BIGINT",
    "caption": "VARCHAR",
    "kept": "BOOLEAN",
    "tags": "VARCHAR[]",
    "place": "STRUCT(country VARCHAR, lat DOUBLE)",
    "day": "DATE",
    "NSFW": "VARCHAR",
    "Twin": "INTEGER",
    "twin": "INTEGER",
}
ROWS = [
    (1, 0.5, 640, "a cat", True, ["x", "y"], {"country": "DE", "lat": 1.0}, datetime.date(2020, 2, 29), "UNLIKELY"),
    (-(2**31), float("nan"), 0, "", False, [], {"country": None, "lat": None}, datetime.date(1, 1, 1), "NSFW"),
    (0, float("-inf"), -(2**63), "%_'\"\\ \n(", None, [None], None, None, None),
    (None, None, None, None, None, None, None, None, "unlikely"),
]

REFUSED = [
    # No expression, or more than one, or one that ends the query that it stands in.
    ("", "empty"),
    (" \n", "empty"),
    ("n >", "syntax error"),
    ("n > 1, n > 2", "one expression"),
    ("n > 1; DROP TABLE pairs", "SELECT statements"),
    ("n > 1; SELECT 1", "no statement"),
    ("true) OR (true", "syntax error"),
    ("true) --", "syntax error"),
    ("true --", "one expression"),
    ("true -- )\n--", "one expression"),
    ("true, NULL --", "one expression"),
    ("true /*", "unterminated"),
    ("true */ /*", "unterminated"),
    ("caption = 'x", "unterminated"),
    ('"n > 1', "unterminated"),
    ("caption = $$x", "syntax error"),
    ("n > 1\0", "NUL"),
    ("n > 1 AS wide", "syntax error"),
    ("true FROM pairs", "syntax error"),
    ("true LIMIT 1", "clause"),
    ("true UNION SELECT true", "syntax error"),
    ("kept DESC", "order"),
    ("kept NULLS FIRST", "order"),
    ("ALL", "syntax error"),
    ("COPY pairs TO '/tmp/x'", "syntax error"),
    ("ATTACH '/tmp/x'", "no type ATTACH"),
    ("INSTALL httpfs", "syntax error"),
    ("PRAGMA database_list", "syntax error"),
    ("SET threads = 1", "syntax error"),
    ("n + " * 900 + "n > 1", "deeply"),
    # Columns.
    ("width > 1", "no column 'width'; there are 'n', 'ratio', 'image width'"),
    ('"Image  width" > 1', "no column 'Image  width'"),
    ("pairs.n > 1", "no column 'pairs'"),
    ("rowid > 1", "no column 'rowid'"),
    ("TWIN > 1", "'Twin' or 'twin', which differ in case alone"),
    ("place.zip = 1", "zip"),
    # Other rows, other tables, other places.
    ("n IN (SELECT 1)", "subquery"),
    ("EXISTS (SELECT 1)", "subquery"),
    ("n = ANY ([1, 2])", "subquery"),
    ("(SELECT true)", "subquery"),
    ("(FROM read_csv('/etc/passwd')) IS NULL", "subquery"),
    ("count(*) > 1", "aggregate"),
    ("sum(n) > 1", "aggregate"),
    ("max(n) FILTER (true) > 1", "aggregate"),
    ("row_number() OVER () > 1", "window"),
    ("sum(n) OVER () > 1", "window"),
    ("rank() > 1", "window"),
    ("unnest([true])", "table function"),
    ("generate_subscripts([true], 1) = 1", "does not depend on the row alone"),
    ("* > 1", "named one by one"),
    ("COLUMNS(*) > 1", "COLUMNS"),
    ("COLUMNS('n') > 1", "COLUMNS"),
    ("read_csv('/etc/passwd') IS NULL", "table function"),
    ("read_text('/etc/passwd') IS NULL", "table function"),
    ("read_blob('/etc/passwd') IS NULL", "table function"),
    ("glob('/*') IS NULL", "table function"),
    ("query('SELECT 1') IS NULL", "table function"),
    ("json_serialize_plan('FROM read_csv(''/etc/passwd'')') IS NULL", "plans a query"),
    ("getenv('HOME') = ''", "no function getenv"),
    ("getvariable('x') = 1", "does not depend on the row alone"),
    ("current_setting('home_directory') = ''", "does not depend on the row alone"),
    ("nextval('s') = 1", "does not depend on the row alone"),
    ("write_log('x') IS NULL", "does not depend on the row alone"),
    ("error('x')", "does not depend on the row alone"),
    ("pg_sleep(1) IS NULL", "does not depend on the row alone"),
    ("get_block_size('x') = 1", "does not depend on the row alone"),
    ("pg_get_viewdef(1) = ''", "does not depend on the row alone"),
    ("h3_latlng_to_cell(1, 2, 3) = 1", "without an extension"),
    ("caption::INET IS NULL", "no type INET in DuckDB without an extension"),
    ("caption::elsewhere.thing IS NULL", "no type thing"),
    ("__internal_decompress_string(1) = ''", "internal"),
    # Another value another day, or each time.
    ("random() < 0.5", "another value each time"),
    ("RANDOM() < 0.5", "another value each time"),
    ("uuid()::VARCHAR < '8'", "another value each time"),
    ("gen_random_uuid() IS NULL", "another value each time"),
    ("day < now()", "another value each time"),
    ("day < today()", "another value each time"),
    ("day < current_date", "no column 'current_date'"),
    ("day < current_timestamp", "no column 'current_timestamp'"),
    ("day < current_localtimestamp()", "clock"),
    ("age(day) > INTERVAL 1 DAY", "clock"),
    ("day < ago(INTERVAL 1 DAY)", "another value each time"),
    ("current_user = 'x'", "no column 'current_user'"),
    ("list_aggregate([n], 'reservoir_quantile', 0.5) > 1", "named by a text"),
    # Ways around.
    ("main.random() < 0.5", "write random"),
    ("system.main.random() < 0.5", "write random"),
    ("caption.lower() = 'x'", "write lower"),
    ("list_filter(tags, x -> random() < 0.5) = []", "lambda"),
    ("list_filter(tags, lambda x: x = 'y') = []", "lambda"),
    ("[x FOR x IN tags IF x = 'y'] = []", "lambda"),
    ("caption->'$.x' = 1", "lambda"),
    ("? > 1", "parameter"),
    ("$n > 1", "parameter"),
    ("#1 > 1", "positional reference"),
    ("DEFAULT", "default"),
    ("GROUPING(n) = 1", "GROUPING"),
    # Not boolean, all of it or a part.
    ("n", "INTEGER, not BOOLEAN"),
    ("1", "INTEGER, not BOOLEAN"),
    ("'true'", "VARCHAR, not BOOLEAN"),
    ("caption", "VARCHAR, not BOOLEAN"),
    ("NULL", "not BOOLEAN"),
    ("kept AND n", "n is INTEGER, where a condition must stand"),
    ("NOT caption", "caption is VARCHAR, where a condition must stand"),
    ("CASE WHEN ratio THEN true END", "ratio is DOUBLE, where a condition must stand"),
    # What the binder says.
    ("lower(n, n) = 'x'", "lower"),
    ("caption ~ '('", "missing )"),
    ("n = 'x'", "Could not convert string"),
    ("day < '2020'", "invalid date"),
]

TAKEN = [
    ("true", set()),
    ("kept", {"kept"}),
    ("N > 1 AND \"IMAGE WIDTH\" >= 256 AND caption <> ''", {"n", "image width", "caption"}),
    ("n > 1 -- large\n AND kept /* both */", {"n", "kept"}),
    ("nsfw = 'UNLIKELY' OR nsfw IS NULL", {"nsfw"}),
    ("NSFW IN ('UNLIKELY', 'UNSURE')", {"nsfw"}),
    ("caption = 'a) OR (true -- x ORDER BY y; DROP TABLE z'", {"caption"}),
    ("caption = $$it's$$", {"caption"}),
    ("caption ILIKE '%cat%' OR regexp_matches(caption, '^a ')", {"caption"}),
    ("length(caption) BETWEEN 5 AND 200", {"caption"}),
    ("TRY_CAST(caption AS DOUBLE) > 0.5", {"caption"}),
    ("json_extract_string(TRY(caption::JSON), '$.lang') = 'en'", {"caption"}),
    ("CASE WHEN kept THEN n > 1 ELSE ratio > 0.5 END", {"kept", "n", "ratio"}),
    ("list_contains(tags, 'x') AND len(tags) < 5 AND list_max(tags) > 'a' AND tags[1] = 'x'", {"tags"}),
    ("place.country = 'DE' AND place['lat'] > 0", {"place"}),
    ("year(day) >= 2020 AND day < DATE '2024-01-01' + INTERVAL 1 DAY", {"day"}),
    ("hash(caption) % 10 < 3 AND md5_number_lower(caption) % 10 = 0", {"caption"}),
    ('greatest(n, 1) / nullif("image width", 0) > 0.1 OR if(n > 1, true, false)', {"n", "image width"}),
    ("caption COLLATE nocase = 'A CAT'", {"caption"}),
    ("split_part(caption, ' ', 2) = 'cat'", {"caption"}),
    ("ratio IS DISTINCT FROM 'nan'::DOUBLE AND isfinite(ratio)", {"ratio"}),
    (" OR ".join(["n = 1"] * 300), {"n"}),
    ("n IN (" + ", ".join(map(str, range(2000))) + ")", {"n"}),
]


@pytest.mark.parametrize(("text", "found"), REFUSED, ids=[text[:60].encode() for text, _ in REFUSED])
def test_what_is_refused_names_the_setting_and_what_was_found(text: str, found: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_expression(text, COLUMNS, what="balance.where")
    message = str(error.value)
    assert message.startswith("balance.where: ") and found in message and "\n" not in message
    assert "INSTALL" not in message.partition("; got ")[0]


@pytest.mark.parametrize(("text", "read"), TAKEN, ids=[text[:60].encode() for text, _ in TAKEN])
def test_what_is_taken_is_evaluated_and_says_what_it_reads(text: str, read: set[str]) -> None:
    check_expression(text, COLUMNS, what="balance.where")
    assert columns_of(text) == read
    assert 0 <= _kept(text) <= len(ROWS)


def test_columns_may_have_any_name() -> None:
    columns = {'quo"te': "INTEGER", "r": "INTEGER", "_": "INTEGER", "SELECT": "INTEGER", "Ä": "INTEGER", "ä": "INTEGER"}
    check_expression('"quo""te" = r AND _ = "select" AND "Ä" = "ä"', columns, what="x")
    with pytest.raises(ConfigError, match="there are none"):
        check_expression("n > 1", {}, what="x")


@pytest.mark.parametrize("term", ["ratio", "ratio DESC", " ratio desc nulls last ", "lower(caption) ASC NULLS FIRST"])
def test_terms_of_an_ordering_come_back_as_they_may_stand(term: str) -> None:
    assert check_ordering([term, "n"], COLUMNS, what="balance.keep_by") == [term.strip(), "n"]
    with _connection(ROWS) as connection:
        rows = connection.execute(f"FROM pairs ORDER BY {', '.join([term.strip(), 'n'])}").fetchall()
    assert len(rows) == len(ROWS)


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("1", "reads no column"),
        ("ALL", "syntax error"),
        ("*", r"`\*`"),
        ("ratio, n", "one expression"),
        ("ratio DESC -- first", "one expression"),
        ("ratio DESC NULLS LAST LIMIT 1", "clause"),
        ("ratio USING >", "syntax error"),
        ("random()", "each time"),
        ("missing DESC", "no column 'missing'"),
        ("CASE WHEN n THEN 1 ELSE 2 END", "n is INTEGER"),
    ],
)
def test_terms_of_an_ordering_are_refused_like_expressions(term: str, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"^balance.keep_by: .*{found}"):
        check_ordering([term], COLUMNS, what="balance.keep_by")


def test_types_are_spelled_as_duckdb_spells_them() -> None:
    given_types = ["int", "double precision", "varchar[]", "DECIMAL(3, 1)", 'STRUCT(a INT, "b c" TEXT)']
    wanted = ["INTEGER", "DOUBLE", "VARCHAR[]", "DECIMAL(3,1)", 'STRUCT(a INTEGER, "b c" VARCHAR)']
    assert [type_of(text, what="x") for text in given_types] == wanted
    for bad in ("INT, x INT", "INT) --", "INT DEFAULT 3", "nothing", "INT::VARCHAR", "INT + 1", "INT DESC", "INET", ""):
        with pytest.raises(ConfigError, match=r"^x: "):
            type_of(bad, what="x")


@pytest.mark.parametrize(
    "text",
    ["caption::INTEGER > 1", "n * n > 1", "regexp_matches('a', caption)", "strptime(caption, '%Y') > day"],
)
def test_what_fails_on_a_value_is_an_error_of_the_setting(text: str) -> None:
    check_expression(text, COLUMNS, what="balance.where")
    with pytest.raises(ConfigError, match=r"^balance.where: failed on") as error, evaluating("balance.where"):
        _kept(text)
    assert "SELECT" not in str(error.value) and "\n" not in str(error.value)


def test_other_errors_are_none_of_the_setting() -> None:
    with pytest.raises(duckdb.CatalogException), evaluating("balance.where"):
        duckdb.sql("FROM nothing")


# Pieces of which sentences are made at random: of a language, and of none.
_NUMBERS = st.sampled_from(["n", "ratio", '"image width"', "0", "-1", "1e300", "2147483647", "NULL", "length(caption)"])
_TEXTS = st.sampled_from(
    ["caption", "NSFW", "''", "'%('", "lower(caption)", "place.country", "tags[1]", "day::VARCHAR"]
)
_TOKENS = st.sampled_from(
    "n ratio caption kept ( ) ( ) , ; -- /* */ ' \" $$ = < AND OR NOT IN SELECT FROM pairs true NULL 1 'x' :: INT :: "
    "TEXT lower( random() count( [ ] { } : . * ? -> x DESC AS ORDER BY LIMIT \n UNION CASE WHEN THEN END IS COLLATE "
    "read_text( now() WHERE WITH OVER () INTERVAL DATE".split(" ")
)


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR", "=", "<>"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda text: f"NOT {text}"),
        st.tuples(inner, inner).map(lambda pair: f"CASE WHEN {pair[0]} THEN {pair[1]} END"),
        inner.map(lambda text: f"TRY_CAST({text} AS INTEGER)::BOOLEAN"),
    )


_COMPARED = st.one_of(
    st.tuples(_NUMBERS, st.sampled_from("+-*/%"), _NUMBERS, st.sampled_from(["<", ">=", "="]), _NUMBERS).map(" ".join),
    st.tuples(_TEXTS, st.sampled_from(["<", "=", "LIKE", "~", "||"]), _TEXTS).map(" ".join),
    st.tuples(_TEXTS, st.sampled_from(["::INTEGER > 1", "::DATE < day", " IS NULL", " IN ('x')"])).map("".join),
)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.recursive(_COMPARED, _compound, max_leaves=6), st.lists(_TOKENS, max_size=9).map(" ".join)))
def test_whatever_is_taken_can_be_evaluated_within_parentheses(text: str) -> None:
    try:
        check_expression(text, COLUMNS, what="where")
    except ConfigError as error:
        assert str(error).startswith("where: ") and "\n" not in str(error)
        return
    assert columns_of(text) <= {name.lower() for name in COLUMNS}
    assert _kept(text, []) == 0
    try:
        with evaluating("where"):
            kept = _kept(text)
    except ConfigError:
        return
    # It can neither let rows pass that another condition removes nor end the query before it.
    assert kept <= len(ROWS) and _kept(f"{text}) AND (false") == 0


def _kept(text: str, rows: list[tuple[object, ...]] = ROWS) -> int:
    with _connection(rows) as connection:
        return len(connection.execute(f"SELECT n FROM pairs WHERE ({text})").fetchall())


def _connection(rows: list[tuple[object, ...]]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": "1"})
    columns = [f'"{name}" {kind}' for name, kind in COLUMNS.items() if name.lower() != "twin"]
    connection.execute(f"CREATE TABLE pairs ({', '.join(columns)})")
    if rows:
        connection.executemany(f"INSERT INTO pairs VALUES ({', '.join('?' * len(columns))})", rows)
    return connection
