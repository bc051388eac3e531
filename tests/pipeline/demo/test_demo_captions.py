"""Captions and class names: what they say, and that the demo's models can read all of it."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest

import pipeline.demo
from pipeline.demo.captions import PROMPT_TEMPLATES, random_caption
from pipeline.demo.concepts import CONCEPTS

MODELS = Path(pipeline.demo.__path__[0]) / "models"


@pytest.mark.parametrize("name", ["demo-teacher", "demo-student"])
def test_longest_texts_fit_the_context(name: str) -> None:
    context = json.loads((MODELS / f"{name}.json").read_text())["text_cfg"]["context_length"]
    rng = np.random.default_rng(0)
    captions = [random_caption(concept, rng) for concept in CONCEPTS for _ in range(10)]
    prompts = [template.replace("{c}", concept.name) for concept in CONCEPTS for template in PROMPT_TEMPLATES]
    tokens = open_clip.SimpleTokenizer(context_length=context + 8)(captions + prompts)
    longest = int((tokens != 0).sum(dim=1).max())
    assert longest <= context


def test_captions_vary_and_use_the_right_article() -> None:
    rng = np.random.default_rng(0)
    captions = {random_caption(CONCEPTS[60], rng) for _ in range(100)}
    assert len(captions) > 15
    texts = [random_caption(concept, rng) for concept in CONCEPTS]
    assert not [text for text in texts if " a orange" in f" {text}" or " an red" in f" {text}"]
