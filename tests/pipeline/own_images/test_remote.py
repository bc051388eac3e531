"""Tars in a bucket: adopted where they lie, by parts of them, and read by range."""

from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.core.errors import ShardError, StorageError
from pipeline.core.remote_tar import open_tar
from pipeline.core.tars import Place
from pipeline.own_images import headers
from pipeline.storage.roots import open_root
from tests.pipeline.own_images.helpers import (
    by_img2dataset,
    captions,
    picture,
    rows_of,
    run,
    stored,
    unused,
    write_members,
)
from tests.s3 import Store


@pytest.fixture
def bucket(s3: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in a bucket that fsspec reaches by its URL alone, as by settings of a machine."""
    monkeypatch.setitem(fsspec.config.conf, "s3", s3.options)
    return s3.url.removesuffix("/root") + "/tars"


def put(s3: Store, url: str, path: Path) -> None:
    s3.files.put_file(str(path), url.removeprefix("s3://"))


def test_tars_in_a_bucket_are_adopted_and_read_by_range(s3: Store, bucket: str, tmp_path: Path) -> None:
    for shard in range(2):
        put(s3, f"{bucket}/{shard}.tar", by_img2dataset(tmp_path / f"{shard}.tar", range(shard * 3, shard * 3 + 3)))
    members = [("9.jpg", picture(9)), ("9.txt", b"nine"), ("10.jpg", picture(10))]
    put(s3, f"{bucket}/2.tar", write_members(tmp_path / "2.tar", members))
    root = open_root(s3.url, s3.machine("a"))
    result, images = run(root, f"{bucket}/*.tar")
    assert (result.stats["images"], images.stats["adopted"]) == (7, 7)
    assert sorted(stored(root).values()) == sorted(picture(n) for n in (0, 1, 2, 3, 4, 5, 9))
    assert unused(root) == {"10": "no_caption"} and len(captions(root)) == 7
    index = rows_of(root / "images/index/00001.parquet")
    assert {row["tar"] for row in index} == {f"{bucket}/1.tar"}
    assert not [name for name in s3.objects() if name.endswith(".tar")]
    assert [result.computed for result in run(root, f"{bucket}/{{0..2}}.tar")] == [0, 0]
    # Near samples come in one request.
    reader: Any = open_tar(root, "00001", index[0]["tar"])
    asked: list[int] = []
    read = reader._read
    reader._read = lambda offset, size: asked.append(size) or read(offset, size)
    assert len(reader.samples([Place.of(row) for row in index])) == 3 and len(asked) == 1


def test_what_lies_between_headers_is_not_fetched(
    s3: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = b"\xff" * 300_000
    members = [(f"{n}.{ending}", content) for n in range(4) for ending, content in (("txt", b"text"), ("bin", large))]
    tar = write_members(tmp_path / "a.tar", [*members, ("9.jpg", picture(9)), ("9.txt", b"nine")])
    put(s3, f"{bucket}/a.tar", tar)
    monkeypatch.setattr(headers, "_REQUEST", 4096)
    sizes: list[int] = []
    read = headers.read_range
    monkeypatch.setattr(headers, "read_range", lambda *a, where: sizes.append(a[3]) or read(*a, where=where))
    run(tmp_path / "root", f"{bucket}/a.tar")
    assert list(stored(tmp_path / "root").values()) == [picture(9)]
    assert sum(sizes) < 80_000 < tar.stat().st_size


def test_a_tar_that_is_gone_or_out_of_reach_is_named(s3: Store, bucket: str, tmp_path: Path) -> None:
    put(s3, f"{bucket}/0.tar", by_img2dataset(tmp_path / "0.tar", range(2)))
    reader = open_tar(tmp_path, "00000", f"{bucket}/0.tar")
    with pytest.raises(ShardError, match=r"/tars/0.tar.*(truncated|no tar member)"):
        reader.sample(5120, 1 << 20)
    with pytest.raises(ShardError, match=r"/tars/0.tar, offset 100: no tar member"):
        reader.sample(100, 1024)
    with pytest.raises(ShardError, match=r"/tars/1.tar: the tar is missing"):
        open_tar(tmp_path, "00000", f"{bucket}/1.tar").sample(0, 512)
    with pytest.raises(StorageError, match=r"nowhere://0.tar"):
        open_tar(tmp_path, "00000", "nowhere://0.tar")
