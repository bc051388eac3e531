"""What rots under a root is named, and made anew by the next run."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from clip_cid.app import app
from pipeline.core import parquet
from pipeline.core.errors import ConfigError, PipelineError, ShardError
from pipeline.core.tars import Place, TarReader, index_tar, read_index, write_tar
from pipeline.storage.result import read_result
from pipeline.storage.roots import open_root
from pipeline.storage.stage import Output, Stage
from pipeline.storage.verify import forget_damaged, verify_root
from tests.s3 import Store


def numbers(root: Path) -> Stage:
    return Stage(root, "numbers", version=1, config=1, inputs={"a": 1, "b": 2})


def write_numbers(root: Path) -> list[str]:
    """A table and a tar with its index per shard; returns the shards that were made."""
    made: list[str] = []

    def write(output: Output) -> None:
        made.append(output.shard)
        drawn = random.Random(output.shard)
        samples = [{"__key__": f"{n:03d}", "jpg": drawn.randbytes(3000), "json": {"image_id": n}} for n in range(5)]
        tar = output.path(f"images/{output.shard}.tar")
        output.rows = write_tar(tar, samples)
        parquet.write_table(index_tar(tar), output.path(f"images/index/{output.shard}.parquet"))
        values = pa.table({"value": [drawn.random() for _ in range(4000)]})
        parquet.write_table(values, output.path(f"images/{output.shard}.parquet"))

    numbers(root).each(write)
    return made


def sums(root: Path) -> Stage:
    return Stage(root, "sums", version=1, config=1, inputs={"sum": read_result(root, "numbers").digest})


def write_sums(root: Path) -> int:
    """A stage that reads all of it."""
    result = read_result(root, "numbers")

    def write(output: Output) -> None:
        for path in result.parquet("images"):
            output.rows += parquet.read_table(path).num_rows
        for path in result.parquet("index"):
            reader = TarReader(root / "images" / f"{path.stem}.tar")
            for row in read_index(path).to_pylist():
                reader.sample(*Place.of(row))
        parquet.write_table(pa.table({"rows": [output.rows]}), output.path("sums/sum.parquet"))

    return sums(root).each(write).computed


def flip(path: Path, share: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 8
    path.write_bytes(content)


def overwrite(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def zero_end(path: Path) -> None:
    """What is left of a file whose last blocks never reached the disk."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


@pytest.mark.parametrize("damage", [flip, overwrite, zero_end])
@pytest.mark.parametrize("name", ["images/b.parquet", "images/b.tar", "images/index/b.parquet"])
def test_who_reads_damage_names_it_and_the_next_run_mends_it(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    write_numbers(tmp_path)
    before = read_result(tmp_path, "numbers").digest
    damage(tmp_path / name)
    if damage is flip and name == "images/index/b.parquet":
        # Where a page of so small a table lies.
        flip(tmp_path / name)
        flip(tmp_path / name, 0.02)
    with pytest.raises(PipelineError, match="run again: shard b of stage numbers is made anew") as raised:
        write_sums(tmp_path)
    assert str(tmp_path / "images") in str(raised.value) and "\n" not in str(raised.value)
    assert write_numbers(tmp_path) == ["b"]
    assert read_result(tmp_path, "numbers").digest == before
    assert write_sums(tmp_path) == 1
    assert verify_root(tmp_path).damage == []


def test_a_file_that_no_stage_has_made_is_blamed_in_vain(tmp_path: Path) -> None:
    write_numbers(tmp_path / "root")
    stranger = tmp_path / "stranger.parquet"
    stranger.write_text("no table")
    stage = Stage(tmp_path / "root", "other", version=1, config=1, inputs={"a": 1})
    with pytest.raises(ShardError, match=r"stranger\.parquet: not a readable Parquet file[^;]*$"), stage.running():
        parquet.read_table(stranger)
    assert read_result(tmp_path / "root", "numbers")


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("images/a.parquet", flip, "images/a.parquet"),
        ("images/a.tar", flip, "checksum is another"),
        ("images/a.tar", overwrite, "no tar member"),
        ("images/a.tar", Path.unlink, "missing"),
        ("images/a.parquet", lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes,"),
        (".marks/numbers/a.json", lambda path: path.write_text(""), "unreadable completion mark"),
    ],
)
def test_verify_finds_it_and_repair_lets_the_next_run_make_it(
    tmp_path: Path, name: str, damage: Callable[[Path], None], says: str
) -> None:
    write_numbers(tmp_path)
    write_sums(tmp_path)
    assert CliRunner().invoke(app, ["verify", str(tmp_path)]).exit_code == 0
    damage(tmp_path / name)
    found = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert found.exit_code == 1
    assert f"stage numbers, shard a: {name}: " in found.stdout and says in found.stdout
    assert "1 of " in found.stdout.splitlines()[-1] and "--repair lets" in found.stdout
    repaired = CliRunner().invoke(app, ["verify", str(tmp_path), "--repair", "--json"])
    assert repaired.exit_code == 1
    (item,) = json.loads(repaired.stdout)["damage"]
    assert (item["stage"], item["shard"], item["file"]) == ("numbers", "a", name)
    assert write_numbers(tmp_path) == ["a"]
    assert write_sums(tmp_path) == 0, "what came out as before is no reason to make anything anew"
    assert verify_root(tmp_path).damage == []


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    """In a table every bit counts; in a tar those of headers that mean nothing, such as padding, do not."""
    write_numbers(tmp_path)
    drawn = random.Random(0)
    for name in ("images/a.parquet", "images/index/a.parquet"):
        path = tmp_path / name
        whole = path.read_bytes()
        for _ in range(20):
            content = bytearray(whole)
            content[drawn.randrange(len(whole))] ^= 1 << drawn.randrange(8)
            path.write_bytes(content)
            assert verify_root(tmp_path).damage
        path.write_bytes(whole)
    assert verify_root(tmp_path).damage == []


def test_files_of_an_earlier_version_are_verified_as_far_as_they_can_be(tmp_path: Path) -> None:
    def write(output: Output) -> None:
        tar = output.path(f"images/{output.shard}.tar")
        write_tar(tar, [{"__key__": "0", "jpg": b"j" * 900, "json": {"image_id": 0}}])
        pq.write_table(index_tar(tar).drop_columns("crc32"), output.path(f"images/index/{output.shard}.parquet"))

    numbers(tmp_path).each(write)
    assert verify_root(tmp_path).damage == []
    flip(tmp_path / "images" / "index" / "a.parquet")
    assert forget_damaged(tmp_path, verify_root(tmp_path).damage) == 1
    assert numbers(tmp_path).pending() == ["a"]


def test_a_damaged_copy_of_a_whole_object_is_only_copied_anew(s3: Store) -> None:
    root = open_root(s3.url, s3.machine("a"))
    write_numbers(root)
    path = root / "images" / "a.parquet"
    whole, times = path.read_bytes(), path.stat()
    flip(path)
    # A disk that loses a bit leaves the time alone.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with (
        pytest.raises(ShardError, match="it was copied anew from the store: run again"),
        Stage(root, "other", version=1, config=1, inputs={"a": 1}).running(),
    ):
        parquet.read_table(path)
    assert path.read_bytes() == whole and numbers(root).is_complete()


def test_a_folder_without_marks_is_no_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no root in which a stage was completed"):
        verify_root(tmp_path)
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "nowhere")]).exit_code == 2
