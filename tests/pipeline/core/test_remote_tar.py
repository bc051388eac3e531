"""The image of a sample, and tars by what an index says of them; those in buckets are tests of `own_images`."""

from pathlib import Path

import pytest

from pipeline.core.errors import ShardError
from pipeline.core.remote_tar import image_of, open_tar
from pipeline.core.tars import write_tar


def test_the_image_of_a_sample_is_the_first_by_its_ending() -> None:
    members = {"txt": b"t", "webp": b"w", "PNG": b"p", "JPEG": b"e"}
    assert image_of(members) == b"e"
    assert image_of({**members, "jpg": b"j"}) == b"j"
    with pytest.raises(ShardError, match=r"its members are \['json', 'txt'\]"):
        image_of({"txt": b"", "json": b""})


def test_a_tar_is_that_of_the_stage_or_where_the_index_says(tmp_path: Path) -> None:
    places = (tmp_path / "root/images/00000.tar", tmp_path / "root/mine/a.tar", tmp_path / "elsewhere/b.tar")
    for number, path in enumerate(places):
        path.parent.mkdir(parents=True)
        write_tar(path, [{"__key__": "1", "jpg": str(number).encode()}])
    root = tmp_path / "root"
    for number, tar in enumerate((None, "mine/a.tar", str(places[2]))):
        assert open_tar(root, "00000", tar).sample(0, 1024) == {"jpg": str(number).encode()}
    assert open_tar(root, "00000", f"file://{places[2]}").sample(0, 1024) == {"jpg": b"2"}
