"""Tars that are adopted: what is found in them by headers is what ``tarfile`` finds, and every fault has a name."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.core import schema
from pipeline.core.errors import ShardError, SourceError
from pipeline.core.remote_tar import open_tar
from tests.pipeline.own_images.helpers import (
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


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_img2dataset_has_made_is_adopted_where_it_lies(tmp_path: Path, kind: int) -> None:
    root, source = tmp_path / "root", tmp_path / "tars"
    for shard in range(3):
        by_img2dataset(source / f"{shard:05d}.tar", range(shard * 4, shard * 4 + 4), kind)
    # Its own tables lie beside them.
    (source / "00000.parquet").write_bytes(b"statuses")
    (source / "00000_stats.json").write_text("{}")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.glob("*.tar")}
    pairs, images = run(root, source)
    assert (pairs.stats["images"], pairs.stats["pairs"], images.stats["adopted"], images.stats["failed"]) == (
        12,
        12,
        12,
        0,
    )
    ids = {number: minted(f"https://example.com/{number}.jpg") for number in range(12)}
    assert stored(root) == {ids[number]: picture(number) for number in range(12)}
    assert captions(root) == {ids[number]: {f"caption {number}"} for number in range(12)}
    assert {row[0] for row in rows(root, "source_pairs", "sample_id")} == {
        minted(f"https://example.com/{number}.jpg\x1fcaption {number}") for number in range(12)
    }
    for shard in range(3):
        table = rows_of(root / f"images/{shard:05d}.parquet")
        assert [row["key"] for row in table] == [f"{number:09d}" for number in range(shard * 4, shard * 4 + 4)]
        assert {(row["status"], row["error"], row["width"], row["height"]) for row in table} == {
            ("success", None, 8, 6)
        }
        assert table[1]["sha256"] == hashlib.sha256(b"as served" + picture(shard * 4 + 1)).hexdigest()
        assert {row["tar"] for row in rows_of(root / f"images/index/{shard:05d}.parquet")} == {
            f"{source}/{shard:05d}.tar"
        }
    assert list(table[0]) == schema.IMAGES.names
    assert list(rows_of(root / "images/index/00000.parquet")[0]) == schema.TAR_INDEX.names
    # Nothing of them was copied or touched.
    assert not list(root.rglob("*.tar"))
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.glob("*.tar")}


def test_images_are_not_read_where_a_url_names_them(tmp_path: Path) -> None:
    tar = write_members(tmp_path / "a.tar", [("1.jpg", b"no image at all"), ("1.json", told(1, b""))])
    run(tmp_path / "root", tar)
    assert set(stored(tmp_path / "root").values()) == {b"no image at all"}


def test_without_a_url_bytes_name_an_image_and_say_its_size(tmp_path: Path) -> None:
    root, images = (
        tmp_path / "root",
        {kind: picture(n, kind, (9, 5 + n)) for n, kind in enumerate(("JPEG", "PNG", "WEBP"))},
    )
    tar = write_members(
        tmp_path / "a.tar",
        [
            ("folder/1.JPG", images["JPEG"]),
            ("folder/1.txt", b" a dog \n"),
            ("2.json", json.dumps({"caption": ["a cat", "ein Kater", " ", 5], "url": "not one"}).encode()),
            ("2.png", images["PNG"]),
            ("other/1.webp", images["WEBP"]),
            ("other/1.json", json.dumps({"text": "a bird"}).encode()),
        ],
    )
    result, _ = run(root, tar)
    names = {kind: f"sha256:{hashlib.sha256(image).hexdigest()}" for kind, image in images.items()}
    assert captions(root) == {
        minted(names["JPEG"]): {"a dog"},
        minted(names["PNG"]): {"a cat", "ein Kater"},
        minted(names["WEBP"]): {"a bird"},
    }
    assert result.stats["images_without_url"] == 3
    assert rows(root, "images", "key, url, width, height, 'sha256:' || sha256") == [
        ("folder/1", None, 9, 5, names["JPEG"]),
        ("2", None, 9, 6, names["PNG"]),
        ("other/1", None, 9, 7, names["WEBP"]),
    ]
    assert set(stored(root).values()) == set(images.values())
    # Read with their checksums, since their bytes were seen.
    assert all(row["crc32"] is not None for row in rows_of(root / "images/index/00000.parquet"))


def test_columns_of_json_are_those_asked_for(tmp_path: Path) -> None:
    content = json.dumps({"a/b": ["one"], "long~": "two", "caption": "three", "link": " http://x/1 "}).encode()
    tar = write_members(tmp_path / "a.tar", [("1.jpg", picture(1)), ("1.json", content)])
    run(tmp_path / "root", tar, caption_columns=["a/b", "long~"], url_column="link")
    assert captions(tmp_path / "root") == {minted("http://x/1"): {"one", "two"}}
    run(tmp_path / "root", tar, caption_columns=["absent"], url_column="link")
    assert captions(tmp_path / "root") == {minted("http://x/1"): {"three"}}


def test_every_sample_that_is_not_used_is_listed_with_its_reason(tmp_path: Path) -> None:
    root, image = tmp_path / "root", picture(1)
    tar = write_members(
        tmp_path / "a.tar",
        [
            ("good.jpg", image),
            ("good.txt", b"caption"),
            ("._good.jpg", b"macOS"),
            ("__MACOSX/good.jpg", b"macOS"),
            (".DS_Store", b"macOS"),
            ("README", b"no ending"),
            ("mute.jpg", picture(2)),
            ("blank.jpg", picture(3)),
            ("blank.txt", b" \n"),
            ("lonely.txt", b"no image"),
            ("film.mp4", b"film"),
            ("film.txt", b"a film"),
            ("torn.jpg", picture(4)),
            ("torn.json", b'{"caption": "tor'),
            ("latin.jpg", picture(5)),
            ("latin.txt", "Käse".encode("latin-1")),
            ("empty.jpg", b""),
            ("empty.txt", b"nothing to see"),
            ("html.jpg", b"<html>"),
            ("html.txt", b"an error page"),
            ("same.png", image),
            ("same.txt", b"another caption"),
            ("twice.jpg", picture(6)),
            ("twice.txt", b"first"),
            ("twice.jpg", picture(7)),
            ("twice.txt", b"second"),
            ("list.jpg", picture(8)),
            ("list.json", b"[1, 2]"),
        ],
    )
    result, _ = run(root, tar)
    assert unused(root) == {
        "mute": "no_caption",
        "blank": "no_caption",
        "lonely": "no_image",
        "film": "no_image",
        "torn": "failed_to_read",
        "latin": "failed_to_read",
        "empty": "failed_to_read",
        "html": "failed_to_read",
        "same": "repeated_image",
        "twice": "repeated_key",
        "list": "no_caption",
    }
    errors = dict(rows(root, "unused_images", "key, error"))
    assert errors["torn"] == "its json cannot be read" and errors["latin"] == "its txt or json is not UTF-8"
    assert errors["film"] == "it has .mp4" and errors["empty"] == "its image has no bytes"
    assert errors["html"].startswith("no JPEG, PNG or WebP, its 6 bytes begin with 3c 68")
    assert sorted(map(sorted, captions(root).values())) == [["another caption", "caption"], ["first"]]
    stats = result.stats
    assert stats["files_passed_over"] == 4
    assert stats["found"] == stats["images"] + len(rows(root, "unused_images")) == 13
    assert (stats["repeated_images"], stats["repeated_key"], stats["no_caption"], stats["failed_to_read"]) == (
        1,
        1,
        3,
        4,
    )


def test_members_of_a_sample_need_not_lie_side_by_side(tmp_path: Path) -> None:
    numbers = range(5)
    members = [(f"{n}.jpg", picture(n)) for n in numbers] + [(f"{n}.txt", f"caption {n}".encode()) for n in numbers]
    run(tmp_path / "root", write_members(tmp_path / "a.tar", members))
    found = stored(tmp_path / "root")
    by_image = {found[image_id]: texts for image_id, texts in captions(tmp_path / "root").items()}
    assert by_image == {picture(n): {f"caption {n}"} for n in numbers}


def test_headers_of_any_kind_are_read(tmp_path: Path) -> None:
    long, path = "n" * 140, tmp_path / "a.tar"
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        root = tmp_path / f"root{kind}"
        folder = "d" * 90 if kind == tarfile.USTAR_FORMAT else long
        with tarfile.open(path, "w", format=kind) as tar:
            for name, type_ in ((f"./{folder}", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE)):
                info = tarfile.TarInfo(name)
                info.type = type_
                tar.addfile(info)
        with tarfile.open(path, "a", format=kind) as tar:
            for name, content in (("1.jpg", picture(1)), ("1.txt", "ä".encode())):
                info = tarfile.TarInfo(f"./{folder}/{'k' * 30}é{name}")
                info.size, info.mtime = len(content), 1.5 if kind == tarfile.PAX_FORMAT else 1
                (tmp_path / "content").write_bytes(content)
                with (tmp_path / "content").open("rb") as file:
                    tar.addfile(info, file)
        run(root, path)
        assert list(stored(root).values()) == [picture(1)]
        assert rows(root, "images", "key") == [(f"./{folder}/{'k' * 30}é1",)]


def test_a_tar_that_was_cut_gives_what_is_whole(tmp_path: Path) -> None:
    whole = by_img2dataset(tmp_path / "whole.tar", range(4)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = {info.name: (info.offset, info.offset_data + info.size) for info in tar}
    cut = tmp_path / "cut.tar"
    for length, left in (
        (ends["000000002.jpg"][1] - 10, {"000000002": "cut_short"}),
        (ends["000000002.json"][1] - 1, {"000000002": "cut_short"}),
        (ends["000000002.txt"][0] + 100, {"000000002": "no_caption", None: "cut_short"}),
    ):
        cut.write_bytes(whole[:length])
        result, _ = run(tmp_path / "root", cut)
        assert set(stored(tmp_path / "root").values()) == {picture(0), picture(1)}
        assert unused(tmp_path / "root") == left
        assert result.stats["tars_cut_short"] == result.stats["tars_without_end"] == 1
        assert f"byte {length}" in str(rows(tmp_path / "root", "unused_images", "error"))
    # Whole members and no mark of the end.
    cut.write_bytes(whole[: -(-ends["000000003.json"][1] // 512) * 512])
    result, _ = run(tmp_path / "root", cut)
    assert (
        result.stats["images"] == 4 and result.stats["tars_without_end"] == 1 and "tars_cut_short" not in result.stats
    )


def test_after_a_damaged_header_nothing_is_read_and_that_is_said(tmp_path: Path) -> None:
    path = by_img2dataset(tmp_path / "a.tar", range(4))
    with tarfile.open(path) as tar:
        offset = tar.getmember("000000002.jpg").offset
    data = bytearray(path.read_bytes())
    data[offset + 5] ^= 0xFF
    path.write_bytes(data)
    result, _ = run(tmp_path / "root", path)
    assert set(stored(tmp_path / "root").values()) == {picture(0), picture(1)}
    assert unused(tmp_path / "root") == {None: "cut_short"}
    assert f"header at byte {offset} is damaged" in str(rows(tmp_path / "root", "unused_images", "error"))
    assert result.stats["tars_cut_short"] == 1


def test_a_tar_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for content in (b"<html>not found</html>" * 100, b"", b"\x1f\x8b" + bytes(600), b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"a\.tar: is no tar"):
            run(tmp_path / "root", path)
    write_members(path, [])
    with pytest.raises(SourceError, match=r"no image with a caption .* 0 samples"):
        run(tmp_path / "root", path)
    write_members(path, [("1.jpg", picture(1))])
    with pytest.raises(SourceError, match=r"1 samples found \(1 no_caption\), the first .*a.tar 1"):
        run(tmp_path / "root", path)


def test_a_tar_that_was_replaced_since_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = write_members(tmp_path / "a.tar", [("1.jpg", picture(1)), ("1.txt", b"one")])
    run(tmp_path / "root", path)
    (row,) = rows_of(tmp_path / "root/images/index/00000.parquet")
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match="checksum"):
        open_tar(tmp_path / "root", "00000", row["tar"]).sample(row["offset"], row["size"], row["crc32"])
    path.unlink()
    with pytest.raises(ShardError, match="missing"):
        open_tar(tmp_path / "root", "00000", row["tar"])
