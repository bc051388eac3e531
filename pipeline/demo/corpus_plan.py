"""Which pairs the corpus holds, before anything is drawn: concepts with a long tail, near-duplicates, dead links."""

import dataclasses

import numpy as np

from pipeline.core.files import fingerprint_of
from pipeline.demo.captions import random_caption
from pipeline.demo.concepts import CONCEPTS, Concept
from pipeline.demo.config import DemoConfig
from pipeline.demo.variations import RECAPTION, random_variation

# Raised whenever the same config draws other images.
_VERSION = 1

URL_PREFIX = "http://demo.test/images/"
"""Host and folder of all URLs. The host stands in no name server; the downloader is told where to connect instead."""

ORIGINAL, NEAR_DUPLICATE = "original", "near_duplicate"
DEAD_KINDS = ("missing", "not_an_image", "truncated")

# Copies per original fall off as 1 / (rank + 5)^0.8: a few images are everywhere, most are copied once or never.
_COPIES_EXPONENT, _COPIES_OFFSET = 0.8, 5.0


@dataclasses.dataclass(frozen=True)
class PlannedPair:
    """One distinct pair. ``number`` seeds its pixels; ``origin`` is the number of the pair it is a variation of."""

    number: int
    concept: Concept
    caption: str
    kind: str
    origin: int | None
    variation: tuple[str, ...]
    name: str

    @property
    def url(self) -> str:
        return URL_PREFIX + self.name


@dataclasses.dataclass(frozen=True)
class Plan:
    """Distinct pairs (a pair's number is its position) and the rows of the list, as numbers of pairs, shuffled."""

    pairs: tuple[PlannedPair, ...]
    rows: tuple[int, ...]


def plan_corpus(config: DemoConfig) -> Plan:
    """Draw the corpus; repeats are a share of the rows, dead links of the distinct pairs, copies of the live ones."""
    rng = np.random.default_rng((config.seed, 0))
    repeats = round(config.exact_repeat_share * config.pairs)
    distinct = config.pairs - repeats
    dead = round(config.dead_link_share * distinct)
    copies = round(config.near_duplicate_share * (distinct - dead))
    pairs = [
        _fresh_pair(config, number, ORIGINAL, concept, rng)
        for number, concept in enumerate(_long_tail(config, distinct - dead - copies, rng))
    ]
    for origin in _popular(len(pairs), copies, rng):
        pairs.append(_near_duplicate(config, len(pairs), pairs[origin], rng))
    for place, concept in enumerate(_long_tail(config, dead, rng)):
        pairs.append(_fresh_pair(config, len(pairs), DEAD_KINDS[place % len(DEAD_KINDS)], concept, rng))
    rows = [*range(distinct), *rng.choice(distinct, size=repeats, replace=False).tolist()]
    return Plan(tuple(pairs), tuple(rng.permutation(rows).tolist()))


def _long_tail(config: DemoConfig, count: int, rng: np.random.Generator) -> list[Concept]:
    """``count`` concepts by the Zipf-Mandelbrot law; which concept is common depends on the seed alone."""
    order = np.random.default_rng((config.seed, 1)).permutation(len(CONCEPTS))
    weight = (np.arange(len(CONCEPTS)) + 1 + config.tail_offset) ** -config.tail_exponent
    ranks = rng.choice(len(CONCEPTS), size=count, p=weight / weight.sum())
    return [CONCEPTS[order[rank]] for rank in ranks]


def _popular(originals: int, copies: int, rng: np.random.Generator) -> list[int]:
    """The original of each of ``copies`` near-duplicates."""
    weight = rng.permutation((np.arange(originals) + _COPIES_OFFSET) ** -_COPIES_EXPONENT)
    return [int(origin) for origin in rng.choice(originals, size=copies, p=weight / weight.sum())]


def _fresh_pair(config: DemoConfig, number: int, kind: str, concept: Concept, rng: np.random.Generator) -> PlannedPair:
    caption = random_caption(concept, rng)
    return PlannedPair(number, concept, caption, kind, None, (), _name(config, number))


def _near_duplicate(config: DemoConfig, number: int, origin: PlannedPair, rng: np.random.Generator) -> PlannedPair:
    variation = random_variation(rng)
    caption = random_caption(origin.concept, rng) if RECAPTION in variation else origin.caption
    return PlannedPair(number, origin.concept, caption, NEAR_DUPLICATE, origin.number, variation, _name(config, number))


def _name(config: DemoConfig, number: int) -> str:
    """A file name that says nothing of what the image shows or is a copy of, and that no other corpus uses: a URL whose
    image has changed would not be fetched again."""
    corpus = {name: value for name, value in config.content().items() if name != "teacher"}
    return fingerprint_of(_VERSION, corpus, number)[:12] + ".jpg"
