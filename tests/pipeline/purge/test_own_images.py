"""A purge of a root whose images were there before: their tars are left alone, what was noted of them is not."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from pipeline.core.query import QueryConfig
from pipeline.own_images import OwnImages, adopt_images, import_own_pairs
from pipeline.purge import purge

URLS = [f"http://a.org/secret-{number}.jpg" for number in range(6)]


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number, url in enumerate(URLS):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(picture, "JPEG")
            said = json.dumps({"url": url, "caption": f"words {number}"}).encode()
            for extension, content in (("jpg", picture.getvalue()), ("json", said)):
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def texts(root: Path) -> str:
    return " ".join(str(pq.read_table(path).to_pydict()) for path in sorted(root.rglob("*.parquet")))


def test_nothing_that_was_noted_of_an_image_is_left_and_it_does_not_come_back(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar")
    own = OwnImages(images=[str(tmp_path / "00000.tar")], url_column="url", caption_columns=["caption"])
    root = tmp_path / "root"
    import_own_pairs(root, own, QueryConfig())
    adopt_images(root, own)
    before = (tmp_path / "00000.tar").read_bytes()
    assert "secret-2" in texts(root) and "words 2" in texts(root)
    (tmp_path / "ids.txt").write_text(f"{URLS[2]}\n")
    purge(root, [tmp_path / "ids.txt"])
    assert "secret-2" not in texts(root) and "words 2" not in texts(root)
    assert "secret-3" in texts(root)
    assert (tmp_path / "00000.tar").read_bytes() == before
    assert import_own_pairs(root, own, QueryConfig()).computed == adopt_images(root, own).computed == 0
    # Listed anew, from a tar that still has it.
    (tmp_path / "00000.tar").touch()
    assert import_own_pairs(root, own, QueryConfig()).computed
    adopt_images(root, own)
    assert "secret-2" not in texts(root) and "secret-3" in texts(root)
