"""Folders of images: what stands beside them, packed as it is."""

import json
import tarfile
from pathlib import Path

import pytest

from pipeline.core import tars
from pipeline.core.errors import SourceError
from tests.pipeline.own_images.helpers import captions, minted, picture, rows, rows_of, run, stored, unused


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_images_and_texts_anywhere_below_are_pairs(tmp_path: Path) -> None:
    images = {
        "a.jpg": picture(1),
        "b.v2.JPEG": picture(2),
        "deep/er/c.png": picture(3, "PNG"),
        "deep/d.webp": picture(4, "WEBP"),
    }
    texts = {
        "a.txt": b"one\n",
        "b.v2.txt": "zw\u00f6lf".encode(),
        "deep/er/c.txt": b"\xef\xbb\xbfthree",
        "deep/d.txt": b"four",
    }
    foreign = {
        "._a.jpg": b"macOS",
        ".DS_Store": b"macOS",
        "__MACOSX/a.jpg": b"macOS",
        "notes.md": b"",
        "lonely.txt": b"x",
    }
    source = fill(tmp_path / "images", images | texts | foreign)
    root = tmp_path / "root"
    pairs, packed = run(root, source, samples_per_shard=3)
    assert (pairs.stats["images"], pairs.stats["files_passed_over"], packed.shards, packed.stats["adopted"]) == (
        4,
        5,
        2,
        4,
    )
    found = stored(root)
    assert {found[image_id]: text for image_id, text in captions(root).items()} == {
        picture(1): {"one"},
        picture(2): {"zw\u00f6lf"},
        picture(3, "PNG"): {"three"},
        picture(4, "WEBP"): {"four"},
    }
    # As any tar of ours: named by format, with text and JSON, and summed.
    with tarfile.open(root / "images/00000.tar") as tar:
        names = tar.getnames()
        content = json.loads(tar.extractfile("000000001.json").read())  # type: ignore[union-attr]
    assert names[:6] == [f"00000000{n}.{ending}" for n in (0, 1) for ending in ("jpg", "txt", "json")]
    assert content["caption"] == "zw\u00f6lf" and content["image_id"] in captions(root) and content["url"] is None
    for row in rows_of(root / "images/index/00000.parquet"):
        tars.TarReader(root / "images/00000.tar").sample(row["offset"], row["size"], row["crc32"])
    assert rows(root, "images", "width, height, status, shard, key")[3] == (8, 6, "success", "00001", "000010000")
    assert [result.computed for result in run(root, source, samples_per_shard=3)] == [0, 0]
    (source / "a.txt").write_text("uno")
    assert [result.computed for result in run(root, source, samples_per_shard=3)] == [1, 1]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_table_of_the_folder_gives_captions_and_urls(tmp_path: Path, ending: str) -> None:
    lines = [
        {"file_name": "1.jpg", "text": "one, two", "url": "https://example.com/1"},
        {"file_name": "sub/2.jpg", "text": 'a "quoted" text', "url": ""},
        {"file_name": "1.jpg", "text": "another", "url": "https://example.com/1"},
        {"file_name": "gone.jpg", "text": "gone", "url": ""},
    ]
    if ending == "jsonl":
        table = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    else:
        quoted = [",".join('"' + value.replace('"', '""') + '"' for value in line.values()) for line in lines]
        table = "\n".join(["file_name,text,url", *quoted])
    source = fill(
        tmp_path / "images",
        {"train/1.jpg": b"never read", "train/sub/2.jpg": picture(2), "train/3.jpg": picture(3)}
        | {f"train/metadata.{ending}": table.encode()},
    )
    root = tmp_path / "root"
    result, packed = run(root, source)
    assert unused(root) == {"train/gone.jpg": "no_image", "train/3.jpg": "no_caption"}
    first = minted("https://example.com/1")
    assert captions(root)[first] == {"one, two", "another"}
    assert stored(root).keys() == captions(root).keys() - {first} and set(stored(root).values()) == {picture(2)}
    # Its URL named it, so that only packing has looked at it.
    assert rows(root, "images", "image_id, status, error[:22]")[0] == (
        first,
        "failed_to_read",
        "no JPEG, PNG or WebP, ",
    )
    assert (packed.stats["adopted"], packed.stats["failed"], packed.stats["failed_to_read"]) == (1, 1, 1)
    assert result.stats["images"] == 2


def test_tables_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    source = fill(tmp_path / "images", {"1.jpg": picture(1)})
    for name, content, said in (
        ("metadata.jsonl", b'{"file_name": "1.jpg", "text": "a"}\n{"file_name', "line 2: no JSON"),
        ("metadata.jsonl", b"[1]", "line 1: no object"),
        ("metadata.jsonl", b'{"image": "1.jpg"}', "no file_name in .'image'."),
        ("metadata.csv", b"file_name,text\n1.jpg\n", "line 2 has other fields"),
        ("metadata.csv", b"file_name,text\n1.jpg,K\xe4se\n", "cannot be read"),
        ("metadata.csv", b'file_name,text\n1.jpg,"never closed\n', "cannot be read"),
    ):
        fill(source, {name: content})
        with pytest.raises(SourceError, match=said):
            run(tmp_path / "root", source)
        (source / name).unlink()
    with pytest.raises(SourceError, match=r"1 no_caption\), the first .*1.jpg"):
        run(tmp_path / "root", source)
