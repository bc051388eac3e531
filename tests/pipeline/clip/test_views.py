"""Random views: drawn alike everywhere, made again pixel for pixel, embedded as the teacher sees them."""

import io
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance, ImageOps

from pipeline.clip.views import FIELDS, AugmentationConfig, View, apply_view, draw_view
from pipeline.core.tars import TarReader
from pipeline.embeddings.stage import embed_views
from pipeline.storage.result import read_result
from tests.conftest import SmallRun, run_embeddings, small_settings

STRONG = {"brightness": 0.3, "contrast": 0.2, "saturation": 0.4, "min_crop": 0.3}


def with_views(root: Path, views: int = 3, **changes: Any) -> Any:
    return small_settings(root, embeddings={"views": views, "augmentation": {**STRONG, **changes}})


def run_views(settings: Any) -> Any:
    return embed_views(settings.path, settings.embeddings, settings.compute)


def test_a_view_is_a_function_of_seed_sample_and_number_alone() -> None:
    view = draw_view(AugmentationConfig(**STRONG, seed=7), image_id=-123456789, number=2, width=80, height=64)
    assert view == View(
        crop_left=34,
        crop_top=2,
        crop_side=45,
        flip=False,
        brightness=0.80859375,
        contrast=1.0390625,
        saturation=0.99609375,
    )


def test_views_lie_inside_the_image_and_have_the_sizes_asked_for() -> None:
    config = AugmentationConfig(min_crop=0.25, flip_probability=0.25)
    views = [draw_view(config, image_id=n, number=n % 3, width=90, height=40) for n in range(4000)]
    for view in views:
        assert 0 <= view.crop_left <= 90 - view.crop_side and 0 <= view.crop_top <= 40 - view.crop_side
        assert (view.brightness, view.contrast, view.saturation) == (1, 1, 1)
    shares = [(view.crop_side / 40) ** 2 for view in views]
    assert 0.24 < min(shares) < 0.27 and 0.98 < max(shares) <= 1
    assert np.mean(shares) == pytest.approx(0.625, abs=0.02)
    assert np.mean([view.flip for view in views]) == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 4000))
    assert len({(view.crop_left, view.crop_top, view.crop_side) for view in views}) > 1000


def test_a_view_is_cut_mirrored_and_recolored_in_that_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    plain = View(crop_left=4, crop_top=3, crop_side=10, flip=True, brightness=1, contrast=1, saturation=1)
    assert np.array_equal(np.asarray(apply_view(image, plain)), pixels[3:13, 4:14][:, ::-1])
    bright = View(crop_left=0, crop_top=0, crop_side=20, flip=True, brightness=1.5, contrast=0.5, saturation=0.25)
    expected = ImageOps.mirror(image.crop((0, 0, 20, 20)))
    for kind, factor in ((ImageEnhance.Brightness, 1.5), (ImageEnhance.Contrast, 0.5), (ImageEnhance.Color, 0.25)):
        expected = kind(expected).enhance(factor)
    assert np.array_equal(np.asarray(apply_view(image, bright)), np.asarray(expected))


def test_every_view_equals_the_live_teacher(copied: SmallRun) -> None:
    import open_clip
    import torch

    settings = with_views(copied.root)
    result = run_views(settings)
    kept = {row["image_id"]: row for row in pq.read_table(copied.root / "balanced_pairs").to_pylist()}
    table = duckdb.sql(
        f"SELECT * FROM '{copied.root}/teacher_views/*.parquet' ORDER BY image_id, view"
    ).to_arrow_table()
    rows = table.to_pylist()
    assert [(row["image_id"], row["view"]) for row in rows] == [(id_, n) for id_ in sorted(kept) for n in range(3)]
    assert result.rows == len(rows)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{copied.root / 'teacher'}")
    index = {row["image_id"]: row for row in pq.read_table(copied.root / "images/index").to_pylist()}
    cosines = []
    for row in rows[:90]:
        place = index[row["image_id"]]
        reader = TarReader(copied.root / "images" / f"{kept[row['image_id']]['shard']}.tar")
        image = Image.open(io.BytesIO(reader.sample(place["offset"], place["size"])["jpg"])).convert("RGB")
        view = View(**{name: row[name] for name in FIELDS})
        drawn = {"image_id": row["image_id"], "number": row["view"], "width": image.width, "height": image.height}
        assert view == draw_view(settings.embeddings.augmentation, **drawn)
        with torch.no_grad():
            live = model.eval().encode_image(preprocess(apply_view(image, view))[None], normalize=True)[0]
        cosines.append(float(np.dot(live.numpy(), np.asarray(row["image_embedding"]))))
    assert min(cosines) >= 0.999


def test_views_leave_the_plain_embeddings_alone_and_go_when_they_are_turned_off(copied: SmallRun) -> None:
    plain = read_result(copied.root, "teacher_embeddings")
    settings = with_views(copied.root)
    assert run_embeddings(settings).computed == 0
    assert read_result(copied.root, "teacher_embeddings").digest == plain.digest
    first = run_views(settings)
    assert run_views(settings).computed == 0
    assert run_views(with_views(copied.root, seed=1)).digest != first.digest
    assert run_views(settings).digest == first.digest
    assert "VIEW teacher_views" in (copied.root / "catalog.sql").read_text()
    off = run_views(copied.settings)
    assert off.rows == 0
    assert not list((copied.root / "teacher_views").glob("*.parquet"))
