"""The card of a data set: what the Hub reads of it, and that no text of the data does anything in it."""

import html
import re

import pytest
from huggingface_hub import DatasetCard, DatasetCardData

from pipeline.export_dataset import export_dataset
from pipeline.export_dataset.card import size_category
from tests.pipeline.export_dataset.roots import HOSTILE, make_root


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("card")
    made = make_root(folder / "root")
    (folder / "out").mkdir()
    export_dataset(made.root, folder / "out", license="cc-by-4.0", name=HOSTILE)
    return (folder / "out" / "README.md").read_text()


def test_the_hub_reads_its_head(card: str) -> None:
    read = DatasetCard(card)
    assert isinstance(read.data, DatasetCardData)
    assert (read.data.license, read.data.size_categories) == ("cc-by-4.0", ["n<1K"])
    assert read.data["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert str(read) == card, "what is read and written again is the same"


def test_figures_of_the_root_are_in_it(card: str) -> None:
    for line in (
        "| listed | 26 |",
        "| downloaded | 24 |",
        "| filtered | 1 |",
        "| blocked | 2 |",
        "| removed as near-duplicates | 8 |",
        "| kept | 16 |",
        "| 2 | 6 | 18 | 25.00% |",
        "4 pairs did not pass the filter.",
        f"hash of its weights `{'ab' * 16}`",
    ):
        assert line in card, line
    assert "/home/me" not in card and "example.org" not in card and not re.search(r"caption -?\d", card)


def test_no_text_of_the_data_means_anything(card: str) -> None:
    markdown = pytest.importorskip("markdown_it")
    body = DatasetCard(card).text
    shown = markdown.MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body)
    assert not re.search(r"<(script|a|img|em|strong|hr)\b", shown)
    # Shown as it is, cut, in the title and among the licenses.
    text = html.unescape(shown)
    wanted = " ".join(HOSTILE.split())[:77] + "..."
    assert f"<h1>{wanted}</h1>" in text and f"<td>{wanted}</td>" in text
    assert "<td>=== www.x.org</td>" in text and "<td>a_b*c*</td>" in text
    # GitHub's Markdown makes links of bare addresses, which an entity ends.
    assert "www." not in body and "://" not in body


def test_size_categories_are_the_hubs() -> None:
    assert [size_category(rows) for rows in (0, 999, 1000, 10**6 - 1, 10**6, 10**12 - 1, 10**12)] == [
        *("n<1K", "n<1K", "1K<n<10K", "100K<n<1M", "1M<n<10M", "100B<n<1T", "n>1T")
    ]
