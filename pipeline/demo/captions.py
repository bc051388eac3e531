"""Captions as people would write them: templates with synonyms for shape, colour and background."""

import numpy as np

from pipeline.demo.concepts import Concept

_SHAPE_WORDS = {
    "circle": ("circle", "disc", "dot"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star", "pointed star"),
    "cross": ("cross", "plus sign"),
    "heart": ("heart", "love heart"),
    "crescent": ("crescent", "moon"),
    "ring": ("ring", "hoop"),
    "arrow": ("arrow", "pointer"),
    "bolt": ("bolt", "lightning"),
    "flower": ("flower", "blossom"),
    "house": ("house", "home"),
}

_COLOUR_WORDS = {
    "red": ("red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "lemon"),
    "green": ("green",),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "brown": ("brown", "chocolate"),
    "white": ("white", "snowy"),
}

_BACKGROUND_WORDS = {
    "plain": ("plain", "blank"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chess"),
    "wavy": ("wavy", "rippled"),
    "brick": ("brick", "bricks"),
}

# The first synonym, which is also the class name, is the usual word.
_USUAL = 0.6

_TEMPLATES = (
    "{a} {colour} {shape} on a {background} background",
    "a photo of {a} {colour} {shape} on a {background} background",
    "{colour} {shape}, {background} background",
    "picture of {a} {colour} {shape}, {background} backdrop",
    "a {background} background with {a} {colour} {shape}",
    "{background} wallpaper with {colour} {shape}",
    "one {colour} {shape} over a {background} backdrop",
    "drawing: {shape} in {colour} on a {background} background",
    "{shape} ({colour}, {background} background)",
)

PROMPT_TEMPLATES = (
    "a {c}",
    "a photo of a {c}",
    "a picture of a {c}",
    "one {c}",
    "{c}",
)
"""Zero-shot prompts in CLIP_benchmark's form; ``{c}`` stands for the class name."""


def random_caption(concept: Concept, rng: np.random.Generator) -> str:
    """A caption that names all three attributes of ``concept``; at most 14 tokens of CLIP's vocabulary."""
    colour = _word(_COLOUR_WORDS[concept.colour], rng)
    return _TEMPLATES[rng.integers(len(_TEMPLATES))].format(
        a="an" if colour[0] in "aeiou" else "a",
        colour=colour,
        shape=_word(_SHAPE_WORDS[concept.shape], rng),
        background=_word(_BACKGROUND_WORDS[concept.background], rng),
    )


def _word(synonyms: tuple[str, ...], rng: np.random.Generator) -> str:
    if len(synonyms) == 1 or rng.random() < _USUAL:
        return synonyms[0]
    return synonyms[rng.integers(1, len(synonyms))]
