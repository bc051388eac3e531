"""What a balance did, in figures: the numbers on the asset's page and in the stage's record."""

import dataclasses
from pathlib import Path
from typing import Any

import duckdb

from pipeline.blocklists import BlockedCounts
from pipeline.core import query

_DIGITS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What the balance did not decide on: images that are blocked, and those of which no pair passed the filter;
    ``filtered_pairs`` counts pairs of other images too."""

    blocked: BlockedCounts
    filtered_images: int
    filtered_pairs: int

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, blocked: BlockedCounts) -> "LeftOut":
        """Counted in the tables ``filtered`` and ``filtered_images``; an image that is blocked too counts as that."""
        counts = query.one(
            connection,
            "SELECT (SELECT count(*) FROM filtered_images ANTI JOIN blocked USING (image_id)) AS filtered_images, "
            "(SELECT count(*) FROM filtered ANTI JOIN blocked USING (image_id)) AS filtered_pairs",
            {},
        )
        assert counts is not None
        return cls(blocked=blocked, **counts)

    @property
    def images(self) -> int:
        return self.blocked.blocked + self.filtered_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalanceReport:
    """``kept`` + ``removed`` + ``blocked`` + ``filtered`` = ``samples``, counted in images; shares are of those that
    are neither blocked nor filtered. ``filtered_pairs`` of the ``pairs`` did not pass the filter.

    ``groups`` counts those of two or more images. Chaining shows in ``largest_group_share``, in
    ``max_distance_to_center`` and in ``removed_beyond_threshold``, the removed images that are farther than the
    threshold from the one that stands for them. ``blocklist_unmatched`` of ``blocklist_entries`` fit no image.
    Similarities are means of the cosine between an image's and its caption's embedding, none without captions.
    ``effective_concepts_*``: exponential of the entropy of how images are spread over concepts, a concept being a
    connected component at the threshold whatever the rule: so many equally common ones would be as diverse.
    ``group_sizes``: groups and images per power of two of the group's size. ``sweep``: what other thresholds remove.
    """

    rule: str
    threshold: float
    samples: int
    pairs: int
    kept: int
    removed: int
    blocked: int
    filtered: int
    filtered_pairs: int
    blocklist_entries: int
    blocklist_unmatched: int
    groups: int
    largest_group: int
    largest_group_share: float
    max_distance_to_center: float
    removed_beyond_threshold: int
    similarity_kept: float | None
    similarity_removed: float | None
    effective_concepts_before: float
    effective_concepts_after: float
    group_sizes: list[dict[str, int]] = dataclasses.field(repr=False)
    sweep: list[dict[str, float]] = dataclasses.field(repr=False)


def balance_report(
    connection: duckdb.DuckDBPyConnection,
    groups: Path,
    *,
    rule: str,
    threshold: float,
    left_out: LeftOut,
    sweep: list[dict[str, float]],
) -> BalanceReport:
    """Statistics of the table ``balance_groups``.

    Args:
        connection: one with the relations ``pairs``, ``pairs_left`` and ``components``.
        groups: the table's file.
        rule: name of the rule that made the groups.
        threshold: Euclidean distance at which they were made.
        left_out: images that were left out before.
        sweep: ``threshold, removed, kept, removal_rate`` of other thresholds.

    Returns:
        The counts and quantiles that the stage keeps.
    """
    counts = _one(connection, "balance_counts", groups=[str(groups)])
    details = _one(connection, "balance_statistics", groups=[str(groups)], threshold=threshold)
    sizes = (
        connection.sql(query.sql("pipeline.balance", "group_sizes"), params={"groups": [str(groups)]})
        .to_arrow_table()
        .to_pylist()
    )
    counts["samples"] += left_out.images
    counts |= _one(connection, "count_pairs")
    blocked = left_out.blocked
    return BalanceReport(
        rule=rule,
        threshold=threshold,
        blocked=blocked.blocked,
        filtered=left_out.filtered_images,
        filtered_pairs=left_out.filtered_pairs,
        blocklist_entries=blocked.entries,
        blocklist_unmatched=blocked.unmatched,
        group_sizes=_by_power_of_two(sizes),
        sweep=sweep,
        **counts,
        **_rounded(details),
    )


def _one(connection: duckdb.DuckDBPyConnection, name: str, **parameters: Any) -> dict[str, Any]:
    row = query.one(connection, query.sql("pipeline.balance", name), parameters)
    assert row is not None
    return row


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, _DIGITS) if isinstance(value, float) else value for name, value in values.items()}


def _by_power_of_two(sizes: list[dict[str, int]]) -> list[dict[str, int]]:
    bins: dict[int, dict[str, int]] = {}
    for row in sizes:
        smallest = 1 << (row["size"].bit_length() - 1)
        found = bins.setdefault(smallest, {"from": smallest, "to": 2 * smallest - 1, "groups": 0, "images": 0})
        found["groups"] += row["groups"]
        found["images"] += row["size"] * row["groups"]
    return list(bins.values())
