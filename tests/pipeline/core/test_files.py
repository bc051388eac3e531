import os
from pathlib import Path

from pipeline.core.files import file_digest, file_identity, fingerprint_of, write_text_atomically


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
