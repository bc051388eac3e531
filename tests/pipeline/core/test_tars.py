"""Reading one sample out of a tar."""

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.core.errors import ShardError
from pipeline.core.tars import TarReader, index_tar, write_tar


def _read(path: Path) -> list[dict[str, bytes]]:
    reader = TarReader(path)
    return [reader.sample(row["offset"], row["size"]) for row in index_tar(path).to_pylist()]


def _samples(prefix: str = "") -> list[dict[str, object]]:
    return [
        {"__key__": f"{prefix}{n:03d}", "jpg": b"j" * (500 + n * 37), "txt": "caption", "json": {"sample_id": n}}
        for n in range(4)
    ]


def test_members_are_those_that_were_written(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", _samples())
    found = _read(tmp_path / "a.tar")
    assert [set(members) for members in found] == [{"jpg", "txt", "json"}] * 4
    assert [members["jpg"] for members in found] == [sample["jpg"] for sample in _samples()]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("prefix", ["", "folder/", "long" * 24 + "/" + "name" * 20])
def test_every_format_and_long_names(tmp_path: Path, form: int, prefix: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for extension, data in (("jpg", b"j" * 700), ("json", b'{"sample_id": 5}')):
            info = tarfile.TarInfo(f"{prefix}7.{extension}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert _read(tmp_path / "a.tar") == [{"jpg": b"j" * 700, "json": b'{"sample_id": 5}'}]


def test_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", _samples())
    row = index_tar(tmp_path / "a.tar").to_pylist()[1]
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[row["offset"] + 3] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match="no tar member there"):
        TarReader(tmp_path / "a.tar").sample(row["offset"], row["size"])
