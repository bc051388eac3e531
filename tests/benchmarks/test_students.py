"""The choices of the benchmark of students, of which none is trained here."""

from collections import Counter

import pytest

from assets.settings import Settings
from benchmarks.students import CORPORA, PARTS, choices
from pipeline.core.settings import overlaid


@pytest.mark.parametrize("corpus", CORPORA)
def test_each_choice_is_one_that_the_settings_allow(corpus: str) -> None:
    source, base, steps = CORPORA[corpus]
    found = choices(5000, steps)
    assert not [count for count in Counter((choice.part, choice.name) for choice in found).values() if count > 1]
    assert {choice.part for choice in found} == {*PARTS}
    content = Counter(
        str(Settings.model_validate(overlaid(base, choice.settings)).content()) + choice.losses + choice.data
        for choice in found
        if choice.part == "cluster_term"
    )
    assert max(content.values()) == 1 and source.is_absolute()
