import errno
import os
import zlib
from pathlib import Path

import pytest

from pipeline.core.files import (
    file_checksum,
    file_digest,
    file_identity,
    fingerprint_of,
    move_into_place,
    write_text_atomically,
)


def test_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    assert fingerprint_of(1) != fingerprint_of("1")


def test_a_digest_is_of_the_bytes_alone(tmp_path: Path) -> None:
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(content)
    first, same, other = (file_digest(tmp_path / name) for name in "abc")
    assert first == same != other


def test_text_is_replaced_and_no_temporary_file_stays(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_text_atomically(tmp_path / "file", text)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "new")]


def test_a_file_that_took_the_place_of_another_is_told_from_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = file_identity(path)
    assert before == [str(path.resolve()), 3, path.stat().st_mtime_ns]
    assert file_identity(path, name="a") == ["a", *before[1:]]
    os.utime(path, ns=(0, 0))
    assert file_identity(path) != before


def test_a_checksum_is_that_of_zlib_over_the_whole_file(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 5)
    (tmp_path / "a").write_bytes(content)
    assert file_checksum(tmp_path / "a") == zlib.crc32(content)


def test_bytes_reach_the_disk_before_names_and_names_before_the_call_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").write_text("x")
    done: list[tuple[str, str]] = []
    opened: dict[int, Path] = {}
    sync, replace, open_ = os.fsync, Path.replace, os.open

    def opening(path: Path, flags: int) -> int:
        handle = open_(path, flags)
        opened[handle] = Path(path)
        return handle

    def syncing(handle: int) -> None:
        done.append(("sync", opened[handle].relative_to(tmp_path).as_posix()))
        sync(handle)

    def replacing(path: Path, target: Path) -> Path:
        done.append(("replace", path.relative_to(tmp_path).as_posix()))
        return replace(path, target)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    move_into_place({tmp_path / "new" / "folder" / "file": tmp_path / "made"})
    assert done[:2] == [("sync", "made"), ("replace", "made")]
    # New folders have names too, which stand in the folders above them.
    assert set(done[2:]) == {("sync", "."), ("sync", "new"), ("sync", "new/folder")}


def test_a_text_that_does_not_fit_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text_atomically(tmp_path / "file", "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text_atomically(tmp_path / "file", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]
