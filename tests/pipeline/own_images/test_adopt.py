"""Images of an adopted tar that are to have another size go into a tar of ours."""

import io
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import MissingInputError
from pipeline.download.resize import Resizer
from pipeline.own_images import OwnImages, adopt_images
from pipeline.storage.stage import Stage
from tests.pipeline.own_images.helpers import by_img2dataset, picture, rows, run, stored, told, write_members

RESIZER = Resizer(
    image_size=4, mode="center_crop", only_if_bigger=True, quality=90, min_size=0, max_area=10_000, max_aspect_ratio=3
)


def test_asked_for_a_size_images_are_resized_into_tars_of_ours(tmp_path: Path) -> None:
    root, source = tmp_path / "root", tmp_path / "tars"
    by_img2dataset(source / "0.tar", range(3))
    members = [("a.png", picture(5, "PNG")), ("a.json", told(5, b"")), ("b.jpg", b"no image"), ("b.json", told(6, b""))]
    write_members(source / "1.tar", [*members, ("c.jpg", picture(7, size=(80, 8))), ("c.json", told(7, b""))])
    run(root, source)
    config = OwnImages(images=[str(source)])
    images = adopt_images(root, config, RESIZER)
    assert (images.computed, images.stats["adopted"], images.stats["failed_to_resize"]) == (2, 4, 2)
    assert {Image.open(io.BytesIO(image)).size for image in stored(root).values()} == {(4, 4)}
    assert rows(root, "images", "shard || key, width, status, error")[3:] == [
        ("00001000010000", 4, "success", None),
        ("00001000010001", None, "failed_to_resize", "not an image in a known format: unknown bytes"),
        ("00001000010002", None, "failed_to_resize", "aspect ratio too large: 80 x 8"),
    ]
    assert adopt_images(root, config, RESIZER).computed == 0
    # And back: the tars go, and the old ones are pointed to again.
    assert adopt_images(root, config).computed == 2 and not list((root / "images").glob("*.tar"))
    assert picture(1) in stored(root).values()


def test_pairs_of_lists_are_not_adopted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "source_pairs", version=2, config=None, inputs={"pairs": 1})

    def write(output: object) -> None:
        output.path("source_pairs/00000.parquet").write_bytes(_table())  # type: ignore[attr-defined]

    stage.each(write)
    with pytest.raises(MissingInputError, match="was made from lists, not from images"):
        adopt_images(tmp_path, OwnImages(images=["x"]))
    assert not (tmp_path / "images").exists()


def _table() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table({"sample_id": [1]}), stream)
    return stream.getvalue()
