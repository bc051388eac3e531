"""Reading evaluation sets: what is there, and every way in which it can be wrong."""

import tarfile
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, ShardError
from pipeline.core.tars import write_tar
from training.evaluation.datasets import read_evaluation_set


def test_reads_classes_templates_and_splits(make_set, samples):
    folder = make_set("colors", test=[samples(1), samples(2)], train=[samples(1)])
    found = read_evaluation_set(folder)
    assert found.name == "colors"
    assert found.classnames == ("red", "green", "blue")
    assert found.templates == ("a photo of {c}", "{c}")
    assert len(found.test) == 9 and len(found.train) == 3
    assert found.test.labels[:3] == (0, 1, 2)
    assert found.test.captions[0] == ("a red square",)


def test_image_members_point_at_the_bytes(make_set, samples):
    split = read_evaluation_set(make_set("colors", test=[samples(2)])).test
    for member in split.images:
        data = member.tar.read_bytes()[member.offset : member.offset + member.size]
        assert data.startswith(b"\x89PNG")


def test_shards_come_by_number_not_by_name(make_set, one_sample):
    shards = [[one_sample("a", "red", label="0", caption=str(number))] for number in range(12)]
    split = read_evaluation_set(make_set("colors", test=shards)).test
    assert [captions[0] for captions in split.captions] == [str(number) for number in range(12)]


def test_captions_are_lines(make_set, one_sample):
    folder = make_set("colors", test=[[one_sample("a", "red", caption="one\n\n two \n")]])
    found = read_evaluation_set(folder).test
    assert found.captions == (("one", "two"),) and found.labels == ()


def test_missing_folders(tmp_path: Path, make_set, samples):
    with pytest.raises(ConfigError, match="no such folder"):
        read_evaluation_set(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no folder test/"):
        read_evaluation_set(make_set("only_train", test=[], train=[samples(1)]))


def test_no_samples(make_set):
    with pytest.raises(ShardError, match="0 samples"):
        read_evaluation_set(make_set("empty", test=[[]]))


def test_a_gap_in_the_numbers_is_a_missing_shard(make_set, samples):
    folder = make_set("colors", test=[samples(1), samples(1), samples(1)])
    (folder / "test" / "1.tar").unlink()
    with pytest.raises(ShardError, match=r"1\.tar is missing"):
        read_evaluation_set(folder)


@pytest.mark.parametrize("file, written", [("nshards.txt", "2"), ("count.txt", "4"), ("count.txt", "many")])
def test_counts_beside_the_shards_are_held_to(make_set, samples, file, written):
    folder = make_set("colors", test=[samples(1)])
    (folder / "test" / file).write_text(written + "\n")
    with pytest.raises(ShardError, match=file):
        read_evaluation_set(folder)


def test_right_counts_pass(make_set, samples):
    folder = make_set("colors", test=[samples(1)])
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "test" / "count.txt").write_text("3\n")
    assert len(read_evaluation_set(folder).test) == 3


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_shard(make_set, samples, kept):
    folder = make_set("colors", test=[samples(4)])
    tar = folder / "test" / "0.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ShardError, match=r"0\.tar"):
        read_evaluation_set(folder)


def test_shard_cut_at_a_member_boundary(make_set, samples):
    folder = make_set("colors", test=[samples(1)])
    tar = folder / "test" / "0.tar"
    with tarfile.open(tar) as file:
        start = file.getmembers()[6].offset
    tar.write_bytes(tar.read_bytes()[:start])
    with pytest.raises(ShardError, match="truncated"):
        read_evaluation_set(folder)


def test_not_a_tar(make_set, samples):
    folder = make_set("colors", test=[samples(1)])
    (folder / "test" / "0.tar").write_text("<html>")
    with pytest.raises(ShardError, match="not a readable tar"):
        read_evaluation_set(folder)


@pytest.mark.parametrize(
    "label, said",
    [
        ("3", r"0\.tar, key a: class id 3, expected one below 3, the number of names in classnames\.txt"),
        ("red", "got b'red'"),
        ("-1", "-1"),
    ],
)
def test_bad_class_ids(make_set, one_sample, label, said):
    with pytest.raises(ShardError, match=said):
        read_evaluation_set(make_set("colors", test=[[one_sample("a", "red", label=label)]]))


def test_members_that_only_some_samples_have(make_set, one_sample):
    shard = [one_sample("a", "red", label="0"), one_sample("b", "red")]
    with pytest.raises(ShardError, match="1 of 2 samples have a cls"):
        read_evaluation_set(make_set("colors", test=[shard]))


def test_sample_without_image_names_what_is_there(make_set, samples):
    folder = make_set("colors", test=[samples(1)])
    write_tar(folder / "test" / "0.tar", [{"__key__": "a", "cls": b"0", "npy": b"x"}])
    with pytest.raises(ShardError, match=r"no image.*found cls, npy"):
        read_evaluation_set(folder)


def test_colliding_keys(make_set, one_sample):
    shard = [one_sample("a", "red", label="0"), one_sample("a", "blue", label="2")]
    with pytest.raises(ShardError, match="keys must be unique"):
        read_evaluation_set(make_set("colors", test=[shard]))


def test_template_without_placeholder(make_set, samples):
    with pytest.raises(ConfigError, match="in every line"):
        read_evaluation_set(make_set("colors", test=[samples(1)], templates=["a photo of {}"]))


def test_lines_are_lines_whoever_wrote_the_file(make_set, samples, one_sample):
    caption = "one \u2028 line\r\nanother\x0bone\r\n"
    folder = make_set("colors", test=[[one_sample("a", "red", label="0", caption=caption)]])
    names = "\ufeffred\u2028ish\r\ngr\u00fcn\r\nblue\x0c green\r\n\r\n"
    (folder / "classnames.txt").write_bytes(names.encode())
    found = read_evaluation_set(folder)
    assert found.classnames == ("red\u2028ish", "gr\u00fcn", "blue\x0c green")
    assert found.test.captions == (("one \u2028 line", "another\x0bone"),)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classnames.txt", b"red\n\nblue\n", r"classnames\.txt, line 2: blank, but more lines follow"),
        ("classnames.txt", "red\ngrün\n".encode("latin-1"), r"classnames\.txt, line 2: not UTF-8, at b'.xfcn"),
        ("zeroshot_classification_templates.txt", b"{c}\nno place\n", r"templates\.txt, line 2: expected \{c\}"),
        ("zeroshot_classification_templates.txt", b"{c} \xe9\n", r"templates\.txt, line 1: not UTF-8"),
    ],
)
def test_a_wrong_line_is_named(make_set, samples, file, content, message):
    folder = make_set("colors", test=[samples(1)])
    (folder / file).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_evaluation_set(folder)


def test_captions_of_another_encoding_are_named(make_set, samples):
    folder = make_set("colors", test=[samples(1)])
    sample = {"__key__": "a", "png": b"x", "txt": "eins\ngrün".encode("latin-1")}
    write_tar(folder / "test" / "0.tar", [sample])
    with pytest.raises(ShardError, match=r"0\.tar, key a: txt, line 2: not UTF-8"):
        read_evaluation_set(folder)
