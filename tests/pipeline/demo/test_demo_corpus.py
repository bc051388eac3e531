"""The built-in corpus against its own ground truth."""

import hashlib
import io
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image, UnidentifiedImageError

from pipeline.core.errors import ShardError
from pipeline.demo.concepts import CONCEPTS
from pipeline.demo.config import DemoConfig
from pipeline.demo.corpus import DemoCorpus, write_corpus
from pipeline.demo.corpus_plan import plan_corpus
from pipeline.demo.drawing import render
from training.evaluation.datasets import read_evaluation_set

CONFIG = DemoConfig(pairs=400, evaluation_train_images=1, evaluation_test_images=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    return write_corpus(tmp_path_factory.mktemp("corpus"), CONFIG)


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def image_bytes(corpus: DemoCorpus, url: str) -> bytes:
    return (corpus.images / url.rpartition("/")[2]).read_bytes()


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def members(path: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return samples


def test_same_config_gives_the_same_bytes(corpus: DemoCorpus, tmp_path: Path) -> None:
    assert digests(write_corpus(tmp_path, CONFIG).folder) == digests(corpus.folder)


def test_another_seed_gives_other_pairs_and_images() -> None:
    plan, other = (plan_corpus(CONFIG.model_copy(update={"seed": seed})).pairs for seed in (0, 1))
    assert not {pair.url for pair in plan} & {pair.url for pair in other}
    assert render(CONCEPTS[0], (0, 2, 0)) != render(CONCEPTS[0], (1, 2, 0))


def test_counts_by_kind(corpus: DemoCorpus) -> None:
    # 400 rows: 2 % repeat others, of the 392 distinct pairs 3 % are dead, of the 380 working ones 40 % are copies.
    assert corpus.rows == 400
    assert corpus.kinds == {
        "original": 228,
        "near_duplicate": 152,
        "missing": 4,
        "not_an_image": 4,
        "truncated": 4,
    }
    assert Counter(row["kind"] for row in rows(corpus.truth)) == corpus.kinds


def test_list_has_every_true_pair_and_the_repeats(corpus: DemoCorpus) -> None:
    listed = Counter((row["URL"], row["TEXT"]) for row in rows(corpus.pairs))
    truth = [(row["url"], row["caption"]) for row in rows(corpus.truth)]
    assert set(listed) == set(truth)
    assert len(set(truth)) == len(truth) == len({url for url, _ in truth})
    assert sorted(Counter(listed.values()).items()) == [(1, 384), (2, 8)]


def test_every_near_duplicate_varies_an_original_of_its_concept(corpus: DemoCorpus) -> None:
    truth = {row["url"]: row for row in rows(corpus.truth)}
    for row in truth.values():
        if row["kind"] != "near_duplicate":
            assert row["origin_url"] is None
            assert row["variation"] is None
            continue
        origin = truth[row["origin_url"]]
        assert origin["kind"] == "original"
        assert origin["class_id"] == row["class_id"]
        changes = set(row["variation"].split("+"))
        same_image = image_bytes(corpus, row["url"]) == image_bytes(corpus, row["origin_url"])
        assert same_image == (changes == {"recaption"})
        assert "recaption" in changes or row["caption"] == origin["caption"]


def test_truth_names_the_concept_of_each_pair(corpus: DemoCorpus) -> None:
    for row in rows(corpus.truth):
        concept = CONCEPTS[row["class_id"]]
        assert (row["shape"], row["colour"], row["background"]) == (concept.shape, concept.color, concept.background)
    assert [concept.class_id for concept in CONCEPTS] == list(range(720))


def test_links_are_dead_or_alive_as_the_truth_says(corpus: DemoCorpus) -> None:
    for row in rows(corpus.truth):
        if row["kind"] == "missing":
            with pytest.raises(FileNotFoundError):
                image_bytes(corpus, row["url"])
        elif row["kind"] == "not_an_image":
            with pytest.raises(UnidentifiedImageError):
                Image.open(io.BytesIO(image_bytes(corpus, row["url"])))
        elif row["kind"] == "truncated":
            with pytest.raises(OSError, match="truncated"):
                Image.open(io.BytesIO(image_bytes(corpus, row["url"]))).load()
        else:
            image = Image.open(io.BytesIO(image_bytes(corpus, row["url"])))
            image.load()
            assert min(image.size) >= 43
            assert max(image.size) <= 168


def test_concepts_have_a_long_tail() -> None:
    pairs = plan_corpus(DemoConfig()).pairs
    counts = Counter(pair.concept for pair in pairs if pair.kind == "original")
    commonest = sorted(counts.values(), reverse=True)
    assert 0.015 < commonest[0] / sum(commonest) < 0.04
    assert sum(commonest[:72]) / sum(commonest) > 0.4
    assert sum(1 for count in commonest if count <= 2) > 100


def test_evaluation_set_is_balanced_and_shares_no_image_with_the_corpus(corpus: DemoCorpus) -> None:
    names = (corpus.evaluation / "classnames.txt").read_text().splitlines()
    templates = (corpus.evaluation / "zeroshot_classification_templates.txt").read_text().splitlines()
    assert len(set(names)) == len(CONCEPTS)
    assert all("{c}" in template for template in templates)
    train, test = (members(corpus.evaluation / split / "0.tar") for split in ("train", "test"))
    for split in (train, test):
        assert all(set(sample) == {"jpg", "cls", "txt"} for sample in split.values())
        assert Counter(int(sample["cls"]) for sample in split.values()) == dict.fromkeys(range(720), 1)
    images = [sample["jpg"] for split in (train, test) for sample in split.values()]
    assert len(set(images)) == len(images)
    assert not set(images) & {path.read_bytes() for path in corpus.images.iterdir()}


def test_evaluation_captions_fit_their_class(corpus: DemoCorpus) -> None:
    samples = list(members(corpus.evaluation / "test" / "0.tar").values())
    usual = sum(
        all(word in sample["txt"].decode() for word in (concept.shape, concept.color))
        for sample in samples
        for concept in [CONCEPTS[int(sample["cls"])]]
    )
    # A synonym stands in for the shape or the color in about half of the captions, and never fits another class's.
    assert usual / len(samples) > 0.3


def test_evaluation_set_without_one_of_its_shards_is_refused(corpus: DemoCorpus, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(corpus.evaluation, folder)
    assert len(read_evaluation_set(folder).test) == 720
    (folder / "train" / "0.tar").unlink()
    with pytest.raises(ShardError, match=r"train: 0 tars, expected 1 by nshards\.txt"):
        read_evaluation_set(folder)
