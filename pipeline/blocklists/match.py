"""Which images a blocklist names, among pairs of which more or less is known."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.blocklists.hosts import WRITTEN, normal_host
from pipeline.blocklists.read import read_blocklists
from pipeline.core import query
from pipeline.core.errors import BlocklistError

# How an entry of each kind stands in a relation, and the column without which it is not known.
_VALUES = {"url": "trim(url)", "sha256": "lower(sha256)", "md5": "lower(md5)"}
_COLUMN = {"url": "url", "host": "url", "sha256": "sha256", "md5": "md5"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockedCounts:
    """Different ``entries`` of the lists, how many of them fit no image (``unmatched``), and images ``blocked``."""

    entries: int
    unmatched: int
    blocked: int


def blocked_rows(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[Path | str],
    relation: str,
    *,
    later: Sequence[str] = (),
) -> BlockedCounts:
    """Make the table ``blocked`` (``image_id, matched``) of the images that the files name.

    A Parquet or CSV file has a column ``image_id``, ``sample_id``, ``url``, ``sha256``, ``md5`` or ``host``, or several
    of them; any other file is text with one entry a line: an id, an http(s) URL, 64 digits of a SHA-256, 32 of an MD5,
    or a host after ``host:``. Empty lines and those that begin with # are passed over. A pair that is listed blocks its
    image. URLs are compared as they stand, without blanks around them; a host stands for those below it too.

    Args:
        connection: where the relation is.
        files: the blocklists.
        relation: a table or view with ``image_id`` and ``sample_id``, and of ``url``, ``sha256`` and ``md5`` those that
            are known, a row for each pair.
        later: kinds of entries that only a later stage can know, so that it is no fault that their column is missing;
            they count as unmatched.

    Returns:
        How many entries there are, and what they fit.

    Raises:
        BlocklistError: for a file that is missing, unreadable, or without a usable column or entry, and for entries of
            a kind that nothing is known of.
    """
    connection.execute(query.sql("pipeline.blocklists", "blocklist_tables"))
    read_blocklists(connection, files)
    if connection.sql("SELECT 1 FROM listed_ids LIMIT 1").fetchall():
        connection.execute(query.sql("pipeline.blocklists", "match_ids").format(relation=relation))
    known = connection.table(relation).columns
    kinds = connection.sql("SELECT kind, count(*) FROM listed_texts GROUP BY kind ORDER BY kind").fetchall()
    for kind, count in kinds:
        if _COLUMN[kind] in known:
            _match(connection, kind, relation)
        elif kind not in later:
            raise BlocklistError(
                f"the blocklist names {count} entries of kind {kind}, but nothing says which image has which: "
                f"no column {_COLUMN[kind]}"
            )
    connection.execute(query.sql("pipeline.blocklists", "blocked"))
    counts = query.one(connection, query.sql("pipeline.blocklists", "blocked_counts"), {})
    assert counts is not None
    return BlockedCounts(**counts)


def _match(connection: duckdb.DuckDBPyConnection, kind: str, relation: str) -> None:
    if kind != "host":
        text = query.sql("pipeline.blocklists", "match_texts")
        connection.execute(text.format(kind=kind, value=_VALUES[kind], relation=relation))
        return
    written = connection.sql(f"SELECT DISTINCT {WRITTEN} AS written FROM {relation} WHERE written <> ''")
    names = written.to_arrow_table()["written"].to_pylist()
    hosts = pa.table({"written": names, "host": pa.array([normal_host(name) for name in names], pa.string())})
    connection.register("url_hosts", hosts)
    connection.execute(query.sql("pipeline.blocklists", "match_hosts").format(host=WRITTEN, relation=relation))
    connection.unregister("url_hosts")
