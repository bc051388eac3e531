"""The advice on the page of the balance."""

import pytest

from assets.page.advice import threshold_advice
from pipeline.balance import advice
from tests.conftest import SmallRun


def test_the_page_shows_the_advice_and_makes_it_once(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    (name, shown), *others = threshold_advice(copied.settings).items()
    found = advice.advise_root(copied.root, pairs=0)
    assert name == "which threshold" and not others
    table, reason, *settings, of_what = shown.value.split("\n\n")
    assert "blocklists and filters are not applied" in of_what
    assert len(table.splitlines()) == len(found.rows) + 2
    assert {line.count("|") for line in table.splitlines()} == {9}
    assert reason == found.reason[0].upper() + found.reason[1:] + "."
    assert settings == ([f"```yaml\n{found.settings}\n```"] if found.settings else [])
    monkeypatch.setattr(advice, "advise_root", None)
    assert threshold_advice(copied.settings)[name] == shown
