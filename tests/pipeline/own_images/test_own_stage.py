"""Both stages over several shards: one image one shard, what is done is not done again, and what a kill leaves."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.core.errors import SourceError
from pipeline.core.processes import python_path
from pipeline.own_images import OwnImages, adopt_images, import_own_pairs
from pipeline.own_images.config import UNUSED
from tests.pipeline.own_images.helpers import (
    QUERY,
    by_img2dataset,
    captions,
    minted,
    picture,
    rows,
    rows_of,
    run,
    stored,
    told,
    unused,
    write_members,
)


def test_an_image_found_twice_is_one_with_all_its_captions(tmp_path: Path) -> None:
    root, image = tmp_path / "root", picture(1)
    url = "https://example.com/1.jpg"
    a = write_members(tmp_path / "a.tar", [("1.jpg", image), ("1.json", told(1, image, caption="one"))])
    b = write_members(
        tmp_path / "b.tar",
        [
            ("2.jpg", picture(2)),
            ("2.json", told(1, image, caption=["two", "one"], url=f" {url} ")),
            ("3.jpg", image),
            ("3.txt", b"by its bytes it is another"),
        ],
    )
    c = write_members(tmp_path / "c.tar", [("4.jpg", image), ("4.json", told(1, image, caption="three"))])
    result, images = run(root, tmp_path / "*.tar")
    assert captions(root)[minted(url)] == {"one", "two", "three"}
    assert [row["key"] for row in rows_of(root / "images/00000.parquet")] == ["1"]
    assert [row["key"] for row in rows_of(root / "images/00001.parquet")] == ["3"]
    # No image of the last tar is one of its own, so that there is no such shard.
    assert sorted(path.name for path in (root / "source_pairs").iterdir()) == ["00000.parquet", "00001.parquet"]
    assert images.shards == 2 and stored(root)[minted(url)] == image
    assert rows(root, "unused_images") == [
        ("00001", "2", "repeated_image", "its image is number 0 of shard 00000"),
        ("00002", "4", "repeated_image", "its image is number 0 of shard 00000"),
    ]
    assert (result.stats["images"], result.stats["pairs"], result.stats["repeated_images"]) == (2, 4, 2)
    # In the order of ids, as lists have them.
    ids = rows(root, "source_pairs", "image_id, sample_id")
    assert ids[:3] == sorted(ids[:3])
    assert len({a, b, c}) == 3


def test_a_tar_that_is_added_makes_one_new_shard(tmp_path: Path) -> None:
    root, source = tmp_path / "root", tmp_path / "tars"
    for shard in range(3):
        by_img2dataset(source / f"{shard}.tar", range(shard * 3, shard * 3 + 3))
    run(root, source)
    before = {path: path.read_bytes() for path in (root / "images").rglob("*.parquet")}
    assert [result.computed for result in run(root, source)] == [0, 0]
    by_img2dataset(source / "3.tar", range(9, 12))
    listed: list[str] = []
    original = OwnImages(images=[str(source)])
    pairs = import_own_pairs(root, original, QUERY)
    from pipeline.storage.result import read_result

    listed = sorted(read_result(root, "own_samples").shard_digests)
    images = adopt_images(root, original)
    assert (images.computed, images.shards, pairs.stats["images"]) == (1, 4, 12)
    assert listed == ["00000", "00001", "00002", "00003"]
    assert {path: path.read_bytes() for path in before} == before
    # One that only adds captions to images that are there changes their pairs, and no image.
    write_members(source / "4.tar", [("0.jpg", picture(0)), ("0.json", told(0, b"", caption="another"))])
    pairs, images = run(root, source)
    assert (images.computed, images.shards, pairs.stats["pairs"]) == (0, 4, 13)
    assert "another" in captions(root)[minted("https://example.com/0.jpg")]
    # One that was replaced is read again, and what is made from it made anew, though its table looks the same.
    by_img2dataset(source / "1.tar", range(3, 6))
    os.utime(source / "1.tar", (1, 1))
    digests = images.shard_digests
    _, images = run(root, source)
    assert images.computed == 1
    assert [shard for shard in digests if digests[shard] != images.shard_digests[shard]] == ["00001"]
    # One that was taken away goes.
    (source / "0.tar").unlink()
    (source / "4.tar").unlink()
    _, images = run(root, source)
    assert images.shards == 3 and len(stored(root)) == 9


def test_limit_takes_the_smallest_ids_and_counts_the_others(tmp_path: Path) -> None:
    by_img2dataset(tmp_path / "a.tar", range(10))
    run(tmp_path / "root", tmp_path / "a.tar")
    ids = sorted(captions(tmp_path / "root"))
    result, images = run(tmp_path / "root", tmp_path / "a.tar", limit=3)
    assert sorted(captions(tmp_path / "root")) == sorted(stored(tmp_path / "root")) == ids[:3]
    assert (result.stats["images"], result.stats["beyond_limit"], images.stats["adopted"]) == (3, 7, 3)


def test_every_sample_is_an_image_or_has_a_reason(tmp_path: Path) -> None:
    """Over all ways to leave members out, in two tars each."""
    root, expected = tmp_path / "root", 0
    members: list[tuple[str, bytes]] = []
    kinds = [("jpg", picture(1)), ("png", b""), ("txt", b"text"), ("json", b"{}"), ("json", b"{")]
    for number, chosen in enumerate(itertools.product([False, True], repeat=len(kinds))):
        some = [(f"{number}.{ending}", content) for (ending, content), taken in zip(kinds, chosen) if taken]
        members += some
        # A second member of one name is apart.
        expected += bool(some) + (chosen[3] and chosen[4])
    write_members(tmp_path / "a.tar", members)
    write_members(tmp_path / "b.tar", members)
    result, images = run(root, tmp_path / "*.tar")
    reasons = [row[0] for row in rows(root, "unused_images", "reason")]
    assert set(reasons) <= set(UNUSED)
    assert len(reasons) + images.stats["adopted"] == result.stats["found"] == 2 * expected
    counted = sum(result.stats.get(reason, 0) for reason in UNUSED if reason != "repeated_image")
    assert counted + result.stats["repeated_images"] == len(reasons)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    for pattern, said in (
        ("absent/*.tar", "no such file or folder"),
        ("{00000..00002}.tar", "00001.tar'?: no such file"),
        ("{5..3}.tar", "an empty range"),
        ("notes.txt", "no folder, .tar or .parquet"),
        ("empty", "no jpg, jpeg, png, webp, tar or Parquet file in 0 files"),
        ("mixed", r"several things \(1 for folder, 1 for tars\)"),
        ("packed.tar.gz", "decompress"),
        ("nowhere://x", "cannot be reached"),
    ):
        by_img2dataset(tmp_path / "00000.tar", range(1))
        (tmp_path / "notes.txt").write_text("")
        (tmp_path / "packed.tar.gz").write_text("")
        (tmp_path / "empty").mkdir(exist_ok=True)
        by_img2dataset(tmp_path / "mixed/a.tar", range(1))
        (tmp_path / "mixed/a.jpg").write_bytes(picture(1))
        where = pattern if "://" in pattern else f"{tmp_path}/{pattern}"
        with pytest.raises(SourceError, match=said):
            run(tmp_path / "root", where)
    run(tmp_path / "root", tmp_path / "mixed", images_format="tars")
    assert set(stored(tmp_path / "root").values()) == {picture(0)}


def test_braces_and_globs_name_tars_once(tmp_path: Path) -> None:
    for shard in range(12):
        by_img2dataset(tmp_path / f"{shard:02d}.tar", [shard])
    by_img2dataset(tmp_path / "odd {1..2}.tar", [99])
    result, images = run(
        tmp_path / "root",
        tmp_path / "{08..11}.tar",
        tmp_path / "0[79].tar",
        tmp_path / "{00,01}.tar",
        tmp_path / "odd {1..2}.tar",
    )
    tars = [rows_of(path)[0]["tar"] for path in sorted((tmp_path / "root/images/index").iterdir())]
    assert [Path(tar).stem for tar in tars] == ["08", "09", "10", "11", "07", "00", "01", "odd {1..2}"]
    assert result.stats["repeated_images"] == 0 and images.shards == 8


def test_a_root_with_its_tars_can_be_moved(tmp_path: Path) -> None:
    by_img2dataset(tmp_path / "old/tars/a.tar", range(3))
    run(tmp_path / "old", tmp_path / "old/tars")
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(stored(tmp_path / "new")) == 3
    assert [result.computed for result in run(tmp_path / "new", tmp_path / "new/tars")] == [0, 0]


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    root, source = tmp_path / "root", tmp_path / "tars"
    for shard in range(40):
        by_img2dataset(source / f"{shard:05d}.tar", range(shard * 3, shard * 3 + 3))
    code = f"""
        import time
        from pathlib import Path
        from pipeline.own_images import stage, OwnImages
        from pipeline.core.query import QueryConfig
        from pipeline.own_images.parts import Part
        samples = Part.samples
        def slowly(*arguments, **options):
            time.sleep(0.05)
            return samples(*arguments, **options)
        Part.samples = slowly
        stage.import_own_pairs(Path({str(root)!r}), OwnImages(images=[{str(source)!r}]), QueryConfig())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": python_path()}
    )
    marks = root / ".marks/own_samples"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(marks.glob("*.json")) if marks.exists() else []) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: json.loads(path.read_text()) for path in marks.glob("*.json")}
    assert 5 <= len(done) < 40
    result, _ = run(root, source)
    assert result.stats["images"] == 120 and len(stored(root)) == 120
    kept = {name: json.loads((marks / name).read_text()) for name in done}
    assert kept == done
    assert unused(root) == {}
