"""The pairs that a balance kept, as a keep-list of DataComp's."""

import dataclasses
from pathlib import Path

from pipeline.blocklists.keep_list import add_uids, write_uids
from pipeline.core import query
from pipeline.core.errors import ConfigError, MissingInputError
from pipeline.core.query import QueryConfig
from pipeline.storage.result import read_result


@dataclasses.dataclass(frozen=True, kw_only=True)
class UidReport:
    """``uids`` written, of kept ``pairs``; ``without_uid`` are pairs of lists that name none."""

    pairs: int
    without_uid: int
    uids: int


def export_uids(root: Path, output: Path, query_config: QueryConfig | None = None) -> UidReport:
    """Write the ``uid`` of every kept pair to a ``.npy`` file, ascending, each once.

    A caption that was moved to an image that stands for its own is no pair that was listed, and is left out. Raises
    :class:`MissingInputError` where no ``uid`` was carried, :class:`ConfigError` for one that is not of 32
    hexadecimal digits.
    """
    source, balance = read_result(root, "source_pairs"), read_result(root, "balance")
    attributes = source.parquet("source_attributes")
    with query.connect(query_config or QueryConfig(), scratch=root / ".tmp") as connection:
        if attributes:
            query.view(connection, "attributes", attributes)
        if not attributes or "uid" not in connection.table("attributes").columns:
            raise MissingInputError(
                f"{root}: source_attributes has no column uid; add uid to source.columns and run source_pairs again"
            )
        query.view(connection, "balanced", balance.parquet("balanced_pairs"))
        connection.execute(query.sql("pipeline.balance", "kept_uids"))
        counts = query.one(
            connection,
            "SELECT count(*) AS pairs, count(*) FILTER (uid IS NULL) AS without_uid, "
            "min(uid) FILTER (NOT fits) AS bad, count(*) FILTER (NOT fits) AS wrong FROM kept_uids",
            {},
        )
        assert counts is not None
        wrong, bad = counts.pop("wrong"), counts.pop("bad")
        if wrong:
            raise ConfigError(f"{root}: {wrong} kept pairs have a uid that is no 32 hexadecimal digits: {bad[:80]!r}")
        connection.execute("CREATE TEMP TABLE halves (high UBIGINT, low UBIGINT)")
        add_uids(connection, "kept_uids", "halves")
        return UidReport(**counts, uids=write_uids(connection, "halves", output))
