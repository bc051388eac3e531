"""Write the built-in corpus: a list of pairs, the images that its server hands out, the truth, an evaluation set."""

import dataclasses
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.progress import Progress
from pipeline.demo.config import DemoConfig
from pipeline.demo.corpus_plan import NEAR_DUPLICATE, Plan, PlannedPair, plan_corpus
from pipeline.demo.drawing import render
from pipeline.demo.evaluation_set import write_evaluation_set
from pipeline.demo.variations import vary

log = logging.getLogger(__name__)

TRUTH = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("shape", pa.string(), nullable=False),
        pa.field("colour", pa.string(), nullable=False),
        pa.field("background", pa.string(), nullable=False),
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("origin_url", pa.string()),
        pa.field("variation", pa.string()),
    ]
)
"""Columns of ``truth.parquet``; the last two are null except for near-duplicates."""

_NOT_AN_IMAGE = b"<!DOCTYPE html>\n<html><head><title>Gone</title></head><body>This picture has moved.</body></html>\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoCorpus:
    """Where :func:`write_corpus` has put things. ``truth`` is for tests and pictures; no stage reads it."""

    folder: Path
    pairs: Path
    images: Path
    truth: Path
    evaluation: Path
    rows: int
    kinds: dict[str, int]
    """Distinct pairs of each kind."""


def write_corpus(folder: Path, config: DemoConfig) -> DemoCorpus:
    """Write the corpus into ``folder``; the same config gives the same bytes.

    - ``pairs.parquet``: columns ``URL`` and ``TEXT`` as in LAION, ``config.pairs`` rows in random order.
    - ``images/``: the files behind the URLs; those of dead links are missing, HTML, or cut short.
    - ``truth.parquet``: one row per distinct pair, with its concept, its kind, and what it is a variation of.
    - ``evaluation/demo/``: a balanced test set, see :mod:`pipeline.demo.evaluation_set`.
    """
    plan = plan_corpus(config)
    corpus = DemoCorpus(
        folder=folder,
        pairs=folder / "pairs.parquet",
        images=folder / "images",
        truth=folder / "truth.parquet",
        evaluation=folder / "evaluation" / "demo",
        rows=len(plan.rows),
        kinds=dict(Counter(pair.kind for pair in plan.pairs)),
    )
    corpus.images.mkdir(parents=True, exist_ok=True)
    with Progress(log, "draw the corpus", total=len(plan.pairs), unit="images") as progress:
        for pair in plan.pairs:
            _write_image(corpus.images, pair, plan, config.seed)
            progress.add(1)
    listed = [plan.pairs[number] for number in plan.rows]
    pq.write_table(
        pa.table({"URL": [pair.url for pair in listed], "TEXT": [pair.caption for pair in listed]}), corpus.pairs
    )
    pq.write_table(_truth(plan), corpus.truth)
    write_evaluation_set(corpus.evaluation, config)
    return corpus


def _write_image(images: Path, pair: PlannedPair, plan: Plan, seed: int) -> None:
    """Write what the pair's URL leads to; an origin is written before its near-duplicates."""
    stream = (seed, 2, pair.number)
    if pair.kind == "missing":
        return
    if pair.kind == "not_an_image":
        content = _NOT_AN_IMAGE
    elif pair.kind == NEAR_DUPLICATE:
        assert pair.origin is not None
        content = vary(
            (images / plan.pairs[pair.origin].name).read_bytes(), pair.variation, np.random.default_rng(stream)
        )
    else:
        content = render(pair.concept, stream)
    if pair.kind == "truncated":
        content = content[: len(content) // 2]
    (images / pair.name).write_bytes(content)


def _truth(plan: Plan) -> pa.Table:
    rows = [
        {
            "url": pair.url,
            "caption": pair.caption,
            "shape": pair.concept.shape,
            "colour": pair.concept.color,
            "background": pair.concept.background,
            "class_id": pair.concept.class_id,
            "kind": pair.kind,
            "origin_url": None if pair.origin is None else plan.pairs[pair.origin].url,
            "variation": "+".join(pair.variation) or None,
        }
        for pair in plan.pairs
    ]
    return pa.Table.from_pylist(rows, schema=TRUTH)
