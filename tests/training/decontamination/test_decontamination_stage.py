"""Leaks that are planted in an evaluation set: found exactly, left out of all that comes after, shown on the page."""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.balance.config import BalanceConfig, DecontaminateConfig
from pipeline.balance.stage import balance_pairs
from pipeline.clip.model import load_clip
from pipeline.core import schema
from pipeline.core.errors import ConfigError, MissingInputError, ShardError
from pipeline.core.tars import TarReader, write_tar
from pipeline.storage.result import StageResult, read_result
from tests.conftest import SmallRun, run_clusters, run_shards
from training.decontamination import embedded, find_leaks, stage
from training.decontamination.embedded import write_embeddings
from training.evaluation.datasets import read_evaluation_set

LEAKED = 9


def _stored(run: SmallRun) -> list[tuple[int, bytes]]:
    """All stored images with their ids."""
    found = []
    for path in sorted((run.root / "images/index").glob("*.parquet")):
        reader = TarReader(run.root / "images" / f"{path.stem}.tar")
        rows = pq.read_table(path).to_pylist()
        found += [(row["image_id"], reader.sample(row["offset"], row["size"])["jpg"]) for row in rows]
    return found


def _png(jpeg: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def planted(copied: SmallRun, tmp_path: Path) -> tuple[SmallRun, Path, list[int]]:
    """A run, an evaluation set with images of it among others in two tars, and their ids, two for the same image."""
    chosen = _stored(copied)[::17][:LEAKED]
    other = read_evaluation_set(copied.root / "demo/evaluation/demo").test.images[:40]
    folder = tmp_path / "planted"
    (folder / "test").mkdir(parents=True)
    samples: list[dict[str, Any]] = [{"__key__": f"o{n}", "jpg": image.read()} for n, image in enumerate(other)]
    samples += [{"__key__": f"l{n}", "png": _png(jpeg)} for n, (_, jpeg) in enumerate(chosen)]
    samples.append({"__key__": "l0", "jpg": chosen[0][1]})
    labeled = [{**sample, "cls": b"0", "txt": b"a"} for sample in samples]
    write_tar(folder / "test" / "0.tar", labeled[:-1])
    write_tar(folder / "test" / "1.tar", labeled[-1:])
    return copied, folder, [image_id for image_id, _ in chosen]


def _find(run: SmallRun, threshold: float, *datasets: Path) -> StageResult:
    config = DecontaminateConfig(datasets=[str(path) for path in datasets], threshold=threshold)
    settings = run.settings
    return find_leaks(
        run.root,
        config,
        datasets=list(datasets),
        embeddings=settings.embeddings,
        neighbors=settings.neighbors,
        compute=settings.compute,
    )


def _distances(run: SmallRun, folder: Path) -> dict[tuple[str, int], float]:
    """Of every test image's embedding to every training image's, in float64; the former is near to open_clip's."""
    images = read_evaluation_set(folder).test.images
    path = run.root / "test_images.parquet"
    write_embeddings(run.root, [read_evaluation_set(folder).test], run.settings.embeddings, path)
    vectors = np.array(pq.read_table(path)["image_embedding"].to_pylist(), np.float64)
    clip = load_clip(run.root / "teacher")
    tables = [pq.read_table(path) for path in sorted((run.root / "teacher_embeddings").glob("*.parquet"))]
    ids = [id_ for table in tables for id_ in table["image_id"].to_pylist()]
    stored = np.array([row for table in tables for row in table["image_embedding"].to_pylist()], np.float64)
    found = {}
    for image, vector in zip(images, vectors, strict=True):
        pixels = clip.preprocess(Image.open(io.BytesIO(image.read())).convert("RGB"))[None]
        plain = clip.model.encode_image(pixels, normalize=True)[0].double().numpy()
        assert np.abs(plain - vector).max() < 3e-4
        found |= {(image.name, id_): float(d) for id_, d in zip(ids, np.linalg.norm(stored - vector, axis=1))}
    return found


def _between(distances: dict[tuple[str, int], float], rows: int) -> float:
    """A distance that about so many pairs are within, as far from each of them as can be."""
    ordered = np.sort(list(distances.values()))[rows // 2 : rows * 2]
    gap = int(np.argmax(np.diff(ordered)))
    assert ordered[gap + 1] - ordered[gap] > 1e-6
    return float(ordered[gap] + ordered[gap + 1]) / 2


def test_leaks_are_those_of_brute_force_and_reach_no_training_shard(
    planted: tuple[SmallRun, Path, list[int]],
) -> None:
    run, folder, ids = planted
    distances = _distances(run, folder)
    threshold = _between(distances, 60)
    result = _find(run, threshold, folder)
    (path,) = result.parquet("evaluation_leaks")
    table = pq.read_table(path)
    assert table.schema == schema.EVALUATION_LEAKS
    found = {(row["key"], row["image_id"]): row["distance"] for row in table.to_pylist()}
    assert found.keys() == {pair for pair, distance in distances.items() if distance <= threshold}
    assert all(abs(distance - distances[pair]) < 1e-6 for pair, distance in found.items())
    assert len(found) == table.num_rows == result.rows
    assert set(table["dataset"].to_pylist()) == {"planted"} and set(table["split"].to_pylist()) == {"test"}
    # Re-encoded without loss, and the same image twice: nothing but rounding is between them.
    same = [
        ("test/0.tar/l0", ids[0]),
        ("test/1.tar/l0", ids[0]),
        *((f"test/0.tar/l{n}", ids[n]) for n in range(LEAKED)),
    ]
    assert all(found[pair] < 3e-4 for pair in same)
    leaked = {image_id for _, image_id in found}
    counts = {
        "evaluation_images": 50,
        "leaked_images": len(leaked),
        "leaked_evaluation_images": len({k for k, _ in found}),
    }
    assert result.stats == {**counts, "threshold": threshold, "datasets": ["planted"]}
    assert _find(run, threshold, folder).computed == 0 and not (run.root / ".evaluation_leaks").exists()

    before = read_result(run.root, "balance")
    assert _balance(run).computed == 0, "no data set is named"
    wanted = DecontaminateConfig(datasets=[str(folder)], threshold=threshold)
    assert _balance(run, decontaminate=wanted).digest != before.digest
    run_clusters(run.settings)
    run_shards(run.settings)
    with duckdb.connect() as connection:
        filtered = connection.sql(f"FROM '{run.root}/filtered_pairs/*.parquet'").fetchall()
        expected = connection.sql(
            f"SELECT sample_id, image_id, 'evaluation leak: planted' FROM '{run.root}/source_pairs/*.parquet' "
            f"SEMI JOIN (FROM '{path}') USING (image_id)"
        ).fetchall()
        assert sorted(filtered) == sorted(expected)
        tables = ("balance_groups", "balanced_pairs", "removed_pairs", "cluster_assignments", "training_shards/index")
        for name in tables:
            used = connection.sql(f"SELECT image_id FROM '{run.root}/{name}/*.parquet'").fetchall()
            assert used and not {image_id for (image_id,) in used} & leaked, name
    for path in (run.root / "training_shards").glob("*.tar"):
        names = [json.loads(sample["json"])["image_id"] for sample in _samples(path)]
        assert names and not leaked & set(names)
    stats = read_result(run.root, "balance").stats
    assert stats["filtered"] == len(leaked)
    assert stats["kept"] + stats["removed"] + stats["filtered"] == stats["samples"]
    _check_and_picture(run, wanted, found=len(leaked))
    with pytest.raises(MissingInputError, match=r"looked at \['planted'\] within .* asks for \['planted'\] within 0.5"):
        _balance(run, decontaminate=DecontaminateConfig(datasets=[str(folder)], threshold=0.5))


def _balance(run: SmallRun, **changes: object) -> StageResult:
    config = BalanceConfig(**{**run.settings.balance.model_dump(), **changes})
    return balance_pairs(run.root, config, run.settings.query)


def _samples(path: Path) -> Iterator[dict[str, bytes]]:
    reader = TarReader(path)
    for row in pq.read_table(path.parent / "index" / f"{path.stem}.parquet").to_pylist():
        yield reader.sample(row["offset"], row["size"])


def _check_and_picture(run: SmallRun, wanted: DecontaminateConfig, *, found: int) -> None:
    import dagster as dg

    from assets.balance import evaluation_leaks
    from assets.checks import no_evaluation_leaks
    from assets.resources import SettingsResource

    balance = run.settings.balance.model_copy(update={"decontaminate": wanted})
    settings = SettingsResource(**run.settings.model_copy(update={"balance": balance}).model_dump())
    context = dg.build_asset_check_context(resources={"settings": settings})
    verdict = no_evaluation_leaks(context)
    assert verdict.passed
    counts = {name: value.value for name, value in verdict.metadata.items()}
    assert counts | {"test_images": 0} == {
        "test_images": 0,
        "found": found,
        "kept": 0,
        "left_out": found,
        "datasets": 1,
    }
    metadata = evaluation_leaks(settings=settings).metadata
    assert metadata["leaked_images"] == found
    assert "data:image/jpeg" in metadata["test images, and training images near to them"].md_str
    assert Image.open(run.root / "pictures" / "evaluation_leaks.png").width > 1000
    # A balance without them fails the check, which says what to do.
    _balance(run)
    verdict = no_evaluation_leaks(context)
    assert not verdict.passed and re.match(r"[1-9]\d* of \d+ images that are within", verdict.description)


def test_an_interrupted_search_goes_on_from_the_embeddings_that_are_there(
    planted: tuple[SmallRun, Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder, _ = planted
    search, written = stage.near_pairs_between, []
    real = embedded.write_embeddings
    monkeypatch.setattr(embedded, "write_embeddings", lambda *given: written.append(given[1]) or real(*given))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "near_pairs_between", killed)
    with pytest.raises(KeyboardInterrupt):
        _find(run, 0.01, folder)
    monkeypatch.setattr(stage, "near_pairs_between", search)
    assert _find(run, 0.01, folder).rows >= LEAKED + 1
    assert len(written) == 1
    # Another threshold is another search; the order of data sets is not, but what is in them is.
    demo = run.root / "demo/evaluation/demo"
    assert _find(run, 0.02, folder, demo).computed == 1
    assert _find(run, 0.02, demo, folder).computed == 0
    (folder / "test" / "1.tar").unlink()
    assert _find(run, 0.02, demo, folder).computed == 1


def test_without_data_sets_the_table_is_there_and_empty(tmp_path: Path) -> None:
    run = SmallRun(_settings(tmp_path))
    result = _find(run, 0.2)
    assert result.rows == 0 and pq.read_table(result.parquet("evaluation_leaks")[0]).schema == schema.EVALUATION_LEAKS
    assert _find(run, 0.3).computed == 0


def _settings(tmp_path: Path) -> Any:
    from tests.conftest import small_settings

    return small_settings(tmp_path / "root")


def test_bad_sets_are_refused_by_name(planted: tuple[SmallRun, Path, list[int]], tmp_path: Path) -> None:
    run, folder, _ = planted
    with pytest.raises(ConfigError, match=r"balance\.decontaminate\.datasets: no folder .*nowhere"):
        _find(run, 0.2, folder, tmp_path / "nowhere")
    shutil.copytree(folder, tmp_path / "other" / "planted")
    with pytest.raises(ConfigError, match=r"different names, got \['planted', 'planted'\]"):
        _find(run, 0.2, folder, tmp_path / "other" / "planted")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"evaluation set .*empty: no folder test/ in it"):
        _find(run, 0.2, tmp_path / "empty")
    (tmp_path / "empty" / "test").mkdir()
    with pytest.raises(ShardError, match=r"0 samples in .*empty/test"):
        _find(run, 0.2, tmp_path / "empty")
    write_tar(folder / "test" / "2.tar", [{"__key__": "bad", "jpg": b"no image", "cls": b"0", "txt": b"a"}])
    with pytest.raises(ShardError, match=r"planted/test/2\.tar, key bad: no readable image"):
        _find(run, 0.2, folder)
    assert not (run.root / "evaluation_leaks").exists()
    for threshold in (0, -1, 2, 2.5, float("nan")):
        with contextlib.suppress(ValueError):
            DecontaminateConfig(threshold=threshold)
            pytest.fail(f"{threshold} was taken")
