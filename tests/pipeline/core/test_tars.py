"""Reading one sample out of a tar."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from pipeline.core.errors import ShardError
from pipeline.core.tars import Place, TarReader, index_tar, read_index, write_tar


def _read(path: Path) -> list[dict[str, bytes]]:
    reader = TarReader(path)
    return [reader.sample(row["offset"], row["size"]) for row in index_tar(path).to_pylist()]


def _samples(prefix: str = "") -> list[dict[str, object]]:
    return [
        {"__key__": f"{prefix}{n:03d}", "jpg": b"j" * (500 + n * 37), "txt": "caption", "json": {"image_id": n}}
        for n in range(4)
    ]


def test_members_are_those_that_were_written(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", _samples())
    found = _read(tmp_path / "a.tar")
    assert [set(members) for members in found] == [{"jpg", "txt", "json"}] * 4
    assert [members["jpg"] for members in found] == [sample["jpg"] for sample in _samples()]


def test_bytes_are_those_of_webdatasets_writer(tmp_path: Path) -> None:
    vectors = np.arange(6, dtype=np.float16).reshape(2, 3)
    samples = [
        sample | {"cls": 7, "text.npy": vectors, "caption": "Vögel" * n, "__url__": "left out"}
        for n, sample in enumerate(_samples("folder/" + "long" * 20 + "/"))
    ]
    for written in (samples, samples[:1], []):
        assert write_tar(tmp_path / "ours.tar", written) == len(written)
        with webdataset.TarWriter(str(tmp_path / "theirs.tar"), mtime=0) as writer:
            for sample in written:
                writer.write(sample)
        assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("prefix", ["", "folder/", "long" * 24 + "/" + "name" * 20])
def test_every_format_and_long_names(tmp_path: Path, form: int, prefix: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for extension, data in (("jpg", b"j" * 700), ("json", b'{"image_id": 5}')):
            info = tarfile.TarInfo(f"{prefix}7.{extension}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert _read(tmp_path / "a.tar") == [{"jpg": b"j" * 700, "json": b'{"image_id": 5}'}]


@pytest.mark.parametrize("name", ["7", "long" * 24 + "/" + "name" * 20])
@pytest.mark.parametrize("mtime", [0, 0.5])
def test_members_lie_where_tarfile_finds_them(tmp_path: Path, name: str, mtime: float) -> None:
    """Times as fractions are written as records of their own, which belong to the member that follows."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"{name}{number}.json")
            info.size, info.mtime = 600, mtime
            tar.addfile(info, io.BytesIO(b'{"image_id": 1}'.ljust(600)))
    with tarfile.open(tmp_path / "a.tar") as tar:
        expected = {member.name.rpartition("/")[2].partition(".")[0]: member.offset for member in tar}
    index = index_tar(tmp_path / "a.tar")
    assert dict(zip(index["key"].to_pylist(), index["offset"].to_pylist())) == expected


@pytest.mark.parametrize("name", ["7", "long" * 24 + "/" + "name" * 20])
def test_a_damaged_later_header_is_an_error_too(tmp_path: Path, name: str) -> None:
    """tarfile would end there as if the tar did."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for extension in ("json", "txt"):
            info = tarfile.TarInfo(f"{name}.{extension}")
            info.size = 15
            tar.addfile(info, io.BytesIO(b'{"image_id": 1}'))
    (row,) = index_tar(tmp_path / "a.tar").to_pylist()
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[row["size"] // 2 + 3] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match="damaged"):
        TarReader(tmp_path / "a.tar").sample(row["offset"], row["size"])
    with pytest.raises(ShardError, match="damaged"):
        index_tar(tmp_path / "a.tar")


def test_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", _samples())
    row = index_tar(tmp_path / "a.tar").to_pylist()[1]
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[row["offset"] + 3] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ShardError, match="no tar member there"):
        TarReader(tmp_path / "a.tar").sample(row["offset"], row["size"])


def test_a_flipped_bit_in_any_member_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, _samples())
    whole = path.read_bytes()
    row = index_tar(path).to_pylist()[2]
    for content in (b"j" * 500, b"caption", b'{"image_id": 2}'):
        damaged = bytearray(whole)
        damaged[whole.index(content, row["offset"]) + 3] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"a\.tar, offset \d+: .* checksum is another") as raised:
            TarReader(path).sample(*Place.of(row))
        assert raised.value.damaged == path
        with pytest.raises(ShardError, match="checksum is another"):
            TarReader(path).samples([Place.of(row)])
        # What an earlier version has indexed is read as it is.
        assert TarReader(path).sample(row["offset"], row["size"])
        assert TarReader(path).samples([Place(row["offset"], row["size"])])


def test_equal_samples_have_equal_checksums_whenever_they_were_written(tmp_path: Path) -> None:
    for name, mtime in (("a.tar", 1), ("b.tar", 1_700_000_000.5)):
        with tarfile.open(tmp_path / name, "w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo("7.json")
            info.size, info.mtime = 15, mtime
            tar.addfile(info, io.BytesIO(b'{"image_id": 2}'))
    first, second = (index_tar(tmp_path / name)["crc32"].to_pylist() for name in ("a.tar", "b.tar"))
    assert first == second


def test_an_index_of_an_earlier_version_has_no_checksums(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", _samples())
    index = index_tar(tmp_path / "a.tar")
    pq.write_table(index, tmp_path / "new.parquet")
    assert read_index(tmp_path / "new.parquet").equals(index)
    for missing in (["crc32"], ["crc32", "tar"]):
        pq.write_table(index.drop_columns(missing), tmp_path / "old.parquet")
        old = read_index(tmp_path / "old.parquet")
        assert old.schema.names == index.schema.names
        assert old["crc32"].null_count == old["tar"].null_count == 4
