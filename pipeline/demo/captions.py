"""Captions as people would write them: templates with synonyms for shape, color and background."""

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

_COLOR_WORDS = {
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
    "{a} {color} {shape} on a {background} background",
    "a photo of {a} {color} {shape} on a {background} background",
    "{color} {shape}, {background} background",
    "picture of {a} {color} {shape}, {background} backdrop",
    "a {background} background with {a} {color} {shape}",
    "{background} wallpaper with {color} {shape}",
    "one {color} {shape} over a {background} backdrop",
    "drawing: {shape} in {color} on a {background} background",
    "{shape} ({color}, {background} background)",
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
    color = _word(_COLOR_WORDS[concept.color], rng)
    return _TEMPLATES[rng.integers(len(_TEMPLATES))].format(
        a="an" if color[0] in "aeiou" else "a",
        color=color,
        shape=_word(_SHAPE_WORDS[concept.shape], rng),
        background=_word(_BACKGROUND_WORDS[concept.background], rng),
    )


def _word(synonyms: tuple[str, ...], rng: np.random.Generator) -> str:
    if len(synonyms) == 1 or rng.random() < _USUAL:
        return synonyms[0]
    return synonyms[rng.integers(1, len(synonyms))]
