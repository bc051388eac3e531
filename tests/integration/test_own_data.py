"""The demo's own images again, from where they lie: as tars, as Parquet with URLs, and as a folder without."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.tars import Place, TarReader, read_index
from pipeline.embeddings.stage import embed_images
from pipeline.own_images import OwnImages, adopt_images, import_own_pairs
from pipeline.storage.result import read_result
from tests.conftest import SmallRun, run_balance, run_clusters, run_shards, run_teacher, small_settings

pytestmark = pytest.mark.slow


def stored(root: Path, shard: str = "*") -> Iterator[dict[str, Any]]:
    """Every image of a root, or of one shard, with its pairs and its bytes."""
    for path in sorted((root / "images").glob(f"{shard}.tar")):
        pairs = pq.read_table(root / "source_pairs" / f"{path.stem}.parquet").to_pylist()
        captions: dict[int, list[str]] = {}
        for pair in pairs:
            captions.setdefault(pair["image_id"], []).append(pair["caption"])
        urls = {pair["image_id"]: pair["url"] for pair in pairs}
        reader = TarReader(path)
        for row in read_index(root / "images" / "index" / f"{path.stem}.parquet").to_pylist():
            id_ = row["image_id"]
            yield {"url": urls[id_], "captions": captions[id_], "bytes": reader.sample(*Place.of(row))["jpg"]}


def run_on(images: Path, root: Path, teacher: Path, **changes: Any) -> Path:
    """All data stages on images that are there, with the teacher of another root."""
    named = {"url_column": "url", "caption_column": "captions"}
    settings = small_settings(root, source={"images": [str(images)], "samples_per_shard": 120, **named}, **changes)
    own = OwnImages.of(settings.source)
    import_own_pairs(root, own, settings.query)
    adopt_images(root, own)
    (root / "teacher").symlink_to(teacher / "teacher")
    (root / ".marks" / "teacher").symlink_to(teacher / ".marks" / "teacher")
    assert run_teacher(settings).computed == 0
    embed_images(root, settings.embeddings, settings.compute)
    for stage in (run_balance, run_clusters, run_shards):
        stage(settings)
    return root


def table(root: Path, name: str, columns: list[str]) -> list[dict[str, Any]]:
    files = sorted((root / name).glob("*.parquet"))
    rows = pa.concat_tables(pq.read_table(path, columns=columns) for path in files)
    return rows.sort_by([(column, "ascending") for column in columns]).to_pylist()


def shards_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "training_shards").glob("*.tar"))}


def same_set(mine: Path, theirs: Path) -> None:
    """Ids, kept images and training shards are equal, byte for byte: so is any student that is trained on them."""
    pairs = ["sample_id", "image_id", "url", "caption"]
    downloaded = {
        row["image_id"] for row in table(theirs, "images", ["image_id", "status"]) if row["status"] == "success"
    }
    assert table(mine, "source_pairs", pairs) == [
        row for row in table(theirs, "source_pairs", pairs) if row["image_id"] in downloaded
    ]
    groups = ["image_id", "group_id", "kept", "distance_to_center"]
    assert table(mine, "balance_groups", groups) == table(theirs, "balance_groups", groups)
    assert shards_of(mine) == shards_of(theirs)


def test_tars_of_a_download_are_adopted_where_they_lie(finished: SmallRun, tmp_path: Path) -> None:
    root = run_on(finished.root / "images" / "*.tar", tmp_path / "root", finished.root)  # type: ignore[arg-type]
    same_set(root, finished.root)
    assert not list((root / "images").glob("*.tar"))
    assert read_result(root, "images").bytes < 100_000


def test_parquet_with_urls_is_the_list_itself(finished: SmallRun, tmp_path: Path) -> None:
    """A file for each shard of the list, since a teacher's embeddings depend on how images are batched, if slightly."""
    for shard in sorted(path.stem for path in (finished.root / "images").glob("*.tar")):
        rows = list(stored(finished.root, shard))
        struct = [{"bytes": row["bytes"], "path": None} for row in rows]
        named = {name: [row[name] for row in rows] for name in ("url", "captions")}
        pq.write_table(pa.table({"image": struct, **named}), tmp_path / f"{shard}.parquet")
    same_set(run_on(tmp_path / "*.parquet", tmp_path / "root", finished.root), finished.root)


def test_a_folder_without_urls_has_the_same_groups_of_images(finished: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, row in enumerate(stored(finished.root)):
        (folder / f"{number:04d}.jpg").write_bytes(row["bytes"])
        (folder / f"{number:04d}.txt").write_text(row["captions"][0])
    # Equal bytes under two URLs are one image here, so a share would ask for another threshold.
    threshold = read_result(finished.root, "balance").stats["threshold"]
    balance = {"threshold": threshold, "target_removal": None}
    root = run_on(folder, tmp_path / "root", finished.root, balance=balance)
    mine, theirs = groups_of(root), groups_of(finished.root)
    assert mine == {frozenset(group) for group in theirs}
    assert json.loads((root / "training_shards" / "manifest.json").read_text())["samples"] == len(mine)


def groups_of(root: Path) -> set[frozenset[bytes]]:
    """Groups of images, as the bytes of their members."""
    by_id: dict[int, bytes] = {}
    for path in sorted((root / "images").glob("*.tar")):
        reader = TarReader(path)
        for row in read_index(root / "images" / "index" / f"{path.stem}.parquet").to_pylist():
            by_id[row["image_id"]] = reader.sample(*Place.of(row))["jpg"]
    groups: dict[int, set[bytes]] = {}
    for row in table(root, "balance_groups", ["group_id", "image_id"]):
        groups.setdefault(row["group_id"], set()).add(by_id[row["image_id"]])
    return {frozenset(group) for group in groups.values()}
