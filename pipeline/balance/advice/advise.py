"""Which threshold, of a folder of embeddings and its forest or of a root: what several would do, and a proposal."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.balance.advice.merges import Merges
from pipeline.balance.advice.proposal import TOLERANCE, first_chained, first_thresholds, propose, rounded
from pipeline.balance.advice.rows import BorderPair, ThresholdRow
from pipeline.balance.advice.stand_ins import EXACT_ROWS, Looked, Total, choose, hold_members, removed_images
from pipeline.balance.components import open_forest
from pipeline.balance.embeddings import open_embeddings
from pipeline.balance.facts import PairTables, columns_of_facts, open_facts
from pipeline.balance.threshold import check_choice, reach_of
from pipeline.core import query
from pipeline.core.errors import ConfigError
from pipeline.core.query import QueryConfig
from pipeline.storage.result import read_result

_REFINEMENTS = 3
"""How often the step in which groups begin to chain is halved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """What ``rows``, by ascending threshold, say of ``images``, and what follows from them.

    ``max_distance``: that of the forest, beyond which nothing is known. ``proposal``: a threshold, none if no threshold
    is free of chaining or nothing is near; ``reason``: a sentence. ``settings``: lines for a run's config, none without
    a proposal.
    """

    images: int
    max_distance: float
    tolerance: float
    rows: list[ThresholdRow]
    proposal: float | None
    reason: str
    settings: str | None


def advise_threshold(
    embeddings: Path | Sequence[Path],
    forest: Path,
    *,
    id_column: str = "sample_id",
    thresholds: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
    pairs: int = 4,
    tables: PairTables | None = None,
    exact_rows: int = EXACT_ROWS,
    seed: int = 0,
    scratch: Path | None = None,
    query_config: QueryConfig | None = None,
) -> Advice:
    """What thresholds would do by the rule ``connected_components``, and which one is proposed.

    Nothing is written. Shares removed and sizes of groups are read off the forest. Distances to the images that stay,
    and similarities, take a pass over the embeddings of the groups' members at each threshold: of all of them where
    they are ``exact_rows`` at most, else of a sample of groups drawn by ``seed``. Memory is that of a balance, and 250
    bytes for each edge. ``docs/balance.md`` says by which rule the proposal is made.

    Args:
        embeddings: Parquet files, or a folder of them, with ``image_id`` and ``image_embedding`` (unit vectors);
            similarities need a ``text_embedding`` beside it.
        forest: the file that :func:`pipeline.neighbors.near_duplicate_forest` has written for them.
        id_column: column of the id, a 64-bit integer.
        thresholds: Euclidean distances in (0, 2), up to the forest's ``max_distance``. Without them eight are spread
            evenly over distances and up to eight over removed images, and the step in which groups begin to chain is
            halved three times, if it is not sampled.
        tolerance: share of the removed images, in (0, 1), that may be farther than the threshold from the image that
            stands for them.
        pairs: how many pairs on each side of a threshold are named.
        tables: what is known of images and pairs, for captions and their similarities.
        exact_rows: images in groups up to which none is left out.
        seed: of the sample.
        scratch: folder in which DuckDB spills to disk; none means the system's temporary one.
        query_config: limits of DuckDB; none means the defaults.

    Raises:
        ConfigError: for impossible settings.
        pipeline.core.errors.EmbeddingError: for malformed embeddings, or a forest of others.
    """
    reach = reach_of(forest)
    if not 0 < tolerance < 1:
        raise ConfigError(f"tolerance must lie in (0, 1); got {tolerance}")
    for threshold in thresholds or ():
        check_choice(threshold, None, reach=reach)
    with (
        tempfile.TemporaryDirectory(prefix="advice-") as folder,
        query.connect(query_config or QueryConfig(), scratch=scratch or Path(folder)) as connection,
    ):
        found = open_embeddings(connection, embeddings, id_column)
        open_facts(connection, found, tables)
        open_forest(connection, forest, blocked=0)
        work = _Work(
            connection,
            Path(folder),
            images=found.rows,
            merges=Merges.of(connection),
            pairs=pairs,
            exact_rows=exact_rows,
            seed=seed,
        )
        rows = work.rows(sorted(set(thresholds)) if thresholds else first_thresholds(work.distances, reach))
        for _ in range(0 if thresholds else _REFINEMENTS):
            between = _between(rows, found.rows, tolerance)
            if between is None:
                break
            rows = work.rows([*(row.threshold for row in rows), between])
        rows = work.with_captions(rows)
    proposal, reason = propose(rows, found.rows, tolerance)
    return Advice(
        images=found.rows,
        max_distance=reach,
        tolerance=tolerance,
        rows=rows,
        proposal=proposal,
        reason=reason,
        settings=None if proposal is None else _settings(proposal),
    )


def advise_root(
    root: Path,
    *,
    thresholds: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
    pairs: int = 4,
    query_config: QueryConfig | None = None,
) -> Advice:
    """:func:`advise_threshold` for all embedded images of a root, whose balance need not have run.

    What a blocklist or ``balance.where`` would leave out is counted like the rest. Raises
    :class:`pipeline.core.errors.MissingInputError` for a stage that is missing.
    """
    names = ("source_pairs", "images", "teacher_embeddings", "near_duplicates")
    source, images, embeddings, forest = (read_result(root, name) for name in names)
    return advise_threshold(
        embeddings.verified("teacher_embeddings"),
        forest.verified("near_duplicates")[0],
        id_column="image_id",
        thresholds=thresholds,
        tolerance=tolerance,
        pairs=pairs,
        tables=PairTables(
            images=images.verified("images"),
            pairs=source.verified("source_pairs"),
            captions=embeddings.parquet("caption_embeddings"),
        ),
        scratch=root / ".tmp",
        query_config=query_config,
    )


class _Work:
    """Rows of one data set, each made once."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        scratch: Path,
        *,
        images: int,
        merges: Merges,
        pairs: int,
        exact_rows: int,
        seed: int,
    ):
        self._connection, self._scratch, self._images, self._merges = connection, scratch, images, merges
        self._pairs, self._exact_rows, self._seed = pairs, exact_rows, seed
        self._similarities = Total.of_all_pairs(connection)
        self._known: dict[float, ThresholdRow] = {}

    @property
    def distances(self) -> np.ndarray:
        return self._merges.edges.distance

    def rows(self, thresholds: Sequence[float]) -> list[ThresholdRow]:
        """By ascending threshold; the merges of each are those since the one before."""
        new = [threshold for threshold in thresholds if threshold not in self._known]
        looked = {threshold: self._look_at(threshold) for threshold in new}
        # Groups of a smaller threshold lie within those of a larger one: what is added later is there already.
        if not self._known:
            hold_members(self._connection, list(looked.values()))
        self._known |= {threshold: self._row(threshold, part) for threshold, part in looked.items()}
        ordered, before, rows = sorted(self._known), 0, []
        for threshold in ordered:
            count = self._merges.up_to(threshold)
            rows.append(
                dataclasses.replace(self._known[threshold], largest_merge=self._merges.largest_merge(before, count))
            )
            before = count
        return rows

    def _look_at(self, threshold: float) -> Looked:
        ids, component = self._merges.groups(self._merges.up_to(threshold))
        return choose(ids, component, exact_rows=self._exact_rows, seed=self._seed)

    def _row(self, threshold: float, looked: Looked) -> ThresholdRow:
        count = self._merges.up_to(threshold)
        largest = self._merges.largest_group(count)
        gone = removed_images(
            self._connection, looked, threshold, scratch=self._scratch, similarities=self._similarities
        )
        return ThresholdRow(
            threshold=threshold,
            removed=count,
            kept=self._images - count,
            removed_share=count / self._images,
            largest_group=largest,
            largest_group_share=largest / self._images,
            largest_merge=0,
            sampled=looked.sampled,
            under=[self._pair(place) for place in range(count - 1, max(count - 1 - self._pairs, -1), -1)],
            over=[self._pair(place) for place in range(count, min(count + self._pairs, len(self.distances)))],
            **dataclasses.asdict(gone),
        )

    def _pair(self, place: int) -> BorderPair:
        edges, ids = self._merges.edges, self._merges.ids
        return BorderPair(
            image_a=int(ids[edges.a[place]]),
            image_b=int(ids[edges.b[place]]),
            distance=float(edges.distance[place]),
            caption_a=None,
            caption_b=None,
        )

    def with_captions(self, rows: list[ThresholdRow]) -> list[ThresholdRow]:
        """The same with the first caption of each image of a pair, where there are captions."""
        if "caption" not in columns_of_facts(self._connection):
            return rows
        shown = {image for row in rows for pair in (*row.under, *row.over) for image in (pair.image_a, pair.image_b)}
        self._connection.register("shown", pa.table({"image_id": pa.array(sorted(shown), pa.int64())}))
        text = query.sql("pipeline.balance.advice", "first_captions")
        captions: dict[int, str] = dict(self._connection.sql(text).fetchall())

        def named(pairs: list[BorderPair]) -> list[BorderPair]:
            return [
                dataclasses.replace(pair, caption_a=captions.get(pair.image_a), caption_b=captions.get(pair.image_b))
                for pair in pairs
            ]

        return [dataclasses.replace(row, under=named(row.under), over=named(row.over)) for row in rows]


def _between(rows: Sequence[ThresholdRow], images: int, tolerance: float) -> float | None:
    """The middle of the step in which groups begin to chain; none if there is no such step, it is as small as can be
    written, or its end is sampled, so that what lies within was not read."""
    found = first_chained(rows, images, tolerance)
    if found is None or rows[found[0]].sampled:
        return None
    end = rows[found[0]].threshold
    start = rows[found[0] - 1].threshold if found[0] else 0.0
    middle = rounded((start + end) / 2)
    return middle if start < middle < end else None


def _settings(threshold: float) -> str:
    # A target would be taken before a threshold.
    return f"balance:\n  threshold: {threshold:g}\n  target_removal: null"
