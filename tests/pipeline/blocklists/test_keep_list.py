import uuid
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.balance.kept_uids import UidReport, export_uids
from pipeline.blocklists.keep_list import UID, KeepCounts, unlisted_rows
from pipeline.core.errors import ConfigError, MissingInputError
from pipeline.storage.stage import Stage

UIDS = [uuid.UUID(int=value).hex for value in (0, 1, 2**64 - 1, 2**64, 2**127 + 5, 2**128 - 1, 7 << 64, 7 << 64 | 1)]


def as_record(uid: str) -> tuple[int, int]:
    return int(uid[:16], 16), int(uid[16:], 16)


def unlisted(path: Path, uids: list[str | None]) -> tuple[KeepCounts, set[int]]:
    with duckdb.connect() as connection:
        ids = list(range(len(uids)))
        connection.register("pairs", pa.table({"sample_id": ids, "image_id": ids, "uid": pa.array(uids, pa.string())}))
        counts = unlisted_rows(connection, [path], "pairs")
        return counts, {row[0] for row in connection.table("unlisted").fetchall()}


@pytest.mark.parametrize("kind", ["npy", "parquet", "txt"])
def test_pairs_that_no_list_names(tmp_path: Path, kind: str) -> None:
    path, listed = tmp_path / f"keep.{kind}", [*UIDS[1:6:2], UIDS[1]]
    if kind == "npy":
        np.save(path, np.array([as_record(uid) for uid in listed], UID))
    elif kind == "parquet":
        pq.write_table(pa.table({"uid": [uid.upper() for uid in listed], "x": [1] * len(listed)}), path)
    else:
        path.write_text("# kept\n" + "\n".join(listed))
    uids = [*UIDS, None, "no uid", UIDS[1].upper()]
    counts, found = unlisted(path, uids)
    oracle = {place for place, uid in enumerate(uids) if uid is None or uid.lower() not in listed}
    assert found == oracle
    assert counts == KeepCounts(entries=3, pairs=len(uids), unlisted=len(oracle))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"no array", "cannot be read as .npy"),
        ("a.txt", b"12\n", "1 of 1 uids are no 32 hexadecimal digits: '12'"),
        ("a.txt", b"#\n", "not one uid"),
        ("a.txt", b"\xff\xfe\n", "damaged"),
        ("a.parquet", b"PAR1", "damaged"),
        ("a.txt", f"{99:032x}".encode(), "names none of the 8 pairs by its 1 uids"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        unlisted(tmp_path / name, list(UIDS))


def test_arrays_of_something_else_and_pairs_without_a_uid(tmp_path: Path) -> None:
    for array in (np.arange(3), np.zeros(0, UID), np.zeros((1, 1), UID)):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ConfigError, match=r"expected a list of records|not one uid"):
            unlisted(tmp_path / "a.npy", list(UIDS))
    np.save(tmp_path / "a.npy", np.zeros(1, UID))
    with duckdb.connect() as connection, pytest.raises(ConfigError, match=r"add uid to source\.columns"):
        connection.register("pairs", pa.table({"sample_id": [1], "image_id": [1]}))
        unlisted_rows(connection, [tmp_path / "a.npy"], "pairs")
    with pytest.raises(ConfigError, match="1 of 1 keep-lists are missing"):
        unlisted(tmp_path / "none.npy", list(UIDS))


def root_with(root: Path, uids: list[str | None], *, carried: bool = True) -> None:
    """All pairs but the first are kept; the last is a caption that moved to another image."""
    ids = list(range(len(uids)))

    def write(name: str, tables: dict[str, pa.Table]) -> None:
        stage = Stage(root, name, version=4, config=1, inputs={"x": 1})
        with stage.output("x") as output:
            for table, content in tables.items():
                pq.write_table(content, output.path(f"{table}/x.parquet"))
        stage.finish()

    tables = {"source_pairs": pa.table({"sample_id": ids, "image_id": ids})}
    if carried:
        tables["source_attributes"] = tables["source_pairs"].append_column("uid", pa.array(uids, pa.string()))
    write("source_pairs", tables)
    write("balance", {"balanced_pairs": pa.table({"sample_id": ids[1:], "image_id": [*ids[1:-1], 1]})})


def test_kept_uids_are_searched_as_datacomp_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    many = [uuid.UUID(bytes=rng.bytes(16)).hex for _ in range(200)]
    uids = [many[0], *UIDS, *many, None, UIDS[2].upper(), many[5], "moved"]
    root_with(tmp_path / "root", uids)
    report = export_uids(tmp_path / "root", tmp_path / "kept.npy")
    oracle = sorted({as_record(uid) for uid in uids[1:-1] if uid})
    assert report == UidReport(pairs=len(uids) - 2, without_uid=1, uids=len(oracle))
    array = np.load(tmp_path / "kept.npy")
    assert array.dtype == UID and array.tolist() == oracle
    expected = np.array(oracle, UID)
    expected.sort()
    assert np.array_equal(array, expected)
    for uid in (UIDS[5], many[7]):
        key = np.array([as_record(uid)], UID)[0]
        assert array[np.searchsorted(array, key)] == key
    # What was written is read again, and names what was kept.
    counts, found = unlisted(tmp_path / "kept.npy", uids[1:-1])
    assert counts.entries == len(oracle) and found == {uids.index(None) - 1}


def test_uids_that_are_none(tmp_path: Path) -> None:
    root_with(tmp_path / "root", list(UIDS), carried=False)
    with pytest.raises(MissingInputError, match=r"add uid to source\.columns"):
        export_uids(tmp_path / "root", tmp_path / "kept.npy")
    root_with(tmp_path / "other", [UIDS[0], "x1", UIDS[1], UIDS[2]])
    with pytest.raises(ConfigError, match="1 kept pairs have a uid that is no 32 hexadecimal digits: 'x1'"):
        export_uids(tmp_path / "other", tmp_path / "kept.npy")
