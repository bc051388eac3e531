"""The download against a web that lies, drips, loops and points inside: one run over all of it."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.query import QueryConfig
from pipeline.download.config import ImagesConfig
from pipeline.download.stage import download_images
from pipeline.source.config import SourceConfig
from pipeline.source.stage import import_pairs
from pipeline.storage.result import read_result
from pipeline.web.outcomes import STATUSES, SUCCESS
from tests.pipeline.download.hostile import CASES, MAX_BYTES, WEB, Hostile, hostile_server

DOCS = Path(__file__).resolve().parents[3] / "docs"

CAPTIONS = {
    "10,000 characters": "long " * 2000,
    "right to left": "תמונה של חתול \u202eوقطة",
    "tabs and newlines": "a\tcaption\nof two\r\nlines",
    "NUL": "before\0after",
    "a quote and a backslash": "'\"\\",
}
# Of one image.
SHARED = ["the first", "the second", "the third"]
DROPPED = {"empty": "", "blank": " \t\n", "null": None}


def write_list(path: Path, pairs: list[tuple[str, str | None]]) -> SourceConfig:
    urls, captions = zip(*pairs)
    pq.write_table(pa.table({"URL": pa.array(urls, pa.string()), "TEXT": pa.array(captions, pa.string())}), path)
    return SourceConfig(lists=[str(path)], samples_per_shard=1000)


class Run:
    """One stage over every case, every caption, and nothing else."""

    def __init__(self, folder: Path, server: Hostile):
        self.root = folder / "root"
        pairs = [(case.url.replace("{port}", str(server.port)), f"case {number}") for number, case in enumerate(CASES)]
        captions = [*CAPTIONS.values(), *DROPPED.values()]
        pairs += [(f"http://{WEB}/good?image={number}", caption) for number, caption in enumerate(captions)]
        pairs += [(f"http://{WEB}/shared", caption) for caption in SHARED]
        source = write_list(folder / "list.parquet", pairs)
        self.source_stats = import_pairs(self.root, source, QueryConfig(), lists=source.lists).stats
        config = ImagesConfig(
            connect_to=server.connect_to,
            max_bytes=MAX_BYTES,
            sample_timeout_s=3,
            timeout_s=1,
            threads=16,
            processes=1,
            stall_timeout_s=60,
            user_agent_contact="https://example.org/about",
        )
        self.stats = download_images(self.root, config).stats
        self.server = server
        [pairs_file] = read_result(self.root, "source_pairs").parquet("source_pairs")
        [images_file] = read_result(self.root, "images").parquet("images")
        self.images = {row["image_id"]: row for row in pq.read_table(images_file).to_pylist()}
        listed = pq.read_table(pairs_file).to_pylist()
        self.rows: dict[str, dict[str, Any]] = {row["caption"]: self.images[row["image_id"]] for row in listed}
        self.sample_ids = {row["caption"]: row["sample_id"] for row in listed}

    def row(self, what: str) -> dict[str, Any]:
        return next(self.rows[f"case {number}"] for number, case in enumerate(CASES) if case.what == what)

    def members(self, row: dict[str, Any]) -> dict[str, bytes]:
        with tarfile.open(self.root / "images" / f"{row['shard']}.tar") as tar:
            return {kind: tar.extractfile(f"{row['key']}.{kind}").read() for kind in ("jpg", "txt", "json")}

    def pixels(self, what: str) -> np.ndarray:
        with Image.open(io.BytesIO(self.members(self.row(what))["jpg"])) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert not image.getexif()
            return np.asarray(image)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with hostile_server() as server:
        yield Run(tmp_path_factory.mktemp("hostile"), server)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.what for case in CASES])
def test_each_case_has_its_status(run: Run, number: int) -> None:
    row, case = run.rows[f"case {number}"], CASES[number]
    assert row["status"] == case.status, row
    assert (row["error"] or "").startswith(case.reason), row
    assert (row["error"] is None) == (row["status"] == SUCCESS) == (row["sha256"] is not None)


def test_nothing_unsafe_was_asked_for(run: Run) -> None:
    assert run.server.requests
    assert not [path for path in run.server.requests if path.startswith(("/secret", "/latest"))]


def test_answers_without_end_are_left(run: Run) -> None:
    assert {"/drip", "/drip-headers", "/endless", "/endless-error"} <= set(run.server.requests)
    assert run.server.endured == []


def test_the_run_is_counted_by_status(run: Run) -> None:
    for status in STATUSES.keys() - {SUCCESS, "failed_in_worker"}:
        assert run.stats[status] == sum(row["status"] == status for row in run.images.values()) > 0, status
    assert run.stats["downloaded"] + run.stats["failed"] == len(run.images) == len(CASES) + len(CAPTIONS) + 1
    assert len(run.rows) == len(run.images) - 1 + len(SHARED)


def test_the_downloader_names_itself(run: Run) -> None:
    assert run.server.agents == {"clip-cid (img2dataset; +https://example.org/about)"}


@pytest.mark.parametrize("what", CAPTIONS)
def test_captions_are_stored_as_they_are(run: Run, what: str) -> None:
    row = run.rows[CAPTIONS[what]]
    assert row["status"] == SUCCESS
    assert run.members(row)["txt"].decode() == CAPTIONS[what]


def test_an_image_of_several_captions_is_asked_for_and_stored_once(run: Run) -> None:
    assert run.server.requests.count("/shared") == 1
    [row] = [row for row in run.images.values() if row["url"] == f"http://{WEB}/shared"]
    assert all(run.rows[caption] is row for caption in SHARED)
    assert (row["status"], run.source_stats["images"]) == (SUCCESS, len(run.images))
    first = min((sample_id, caption) for caption, sample_id in run.sample_ids.items() if caption in SHARED)[1]
    members = run.members(row)
    assert members["txt"].decode() == first
    described = json.loads(members["json"])
    assert described["image_id"] == row["image_id"] and "sample_id" not in described


def test_pairs_without_a_caption_are_counted_at_the_source(run: Run) -> None:
    assert run.source_stats["unusable"] == len(DROPPED)


@pytest.mark.parametrize("what", ["a JPEG rotated by EXIF", "a PNG rotated by EXIF, with transparency", "a CMYK JPEG"])
def test_stored_upright_and_in_color(run: Run, what: str) -> None:
    pixels = run.pixels(what).astype(int)
    assert pixels.shape == (40, 20, 3)
    assert np.abs(pixels[:15] - (255, 0, 0)).max() < 60
    assert np.abs(pixels[25:] - (0, 0, 255)).max() < 60
    assert (run.row(what)["width"], run.row(what)["height"]) == (20, 40)


def test_transparency_is_laid_on_white(run: Run) -> None:
    pixels = run.pixels("a transparent PNG").astype(int)
    assert np.abs(pixels[:15] - (255, 0, 0)).max() < 60
    assert pixels[25:].min() > 245
    assert run.pixels("a palette with a transparent color").min() > 245


def test_depth_gray_and_first_frame(run: Run) -> None:
    assert np.abs(run.pixels("a 16-bit PNG").astype(int) - 40_000 // 256).max() <= 2
    gray = run.pixels("a gray PNG")
    assert (gray == gray[:, :, :1]).all()
    assert np.abs(run.pixels("an animated GIF").astype(int) - (0, 255, 0)).max() < 40
    assert run.pixels("1 x 1").shape == (1, 1, 3)


def test_the_documented_table_is_what_happens() -> None:
    lines = (DOCS / "ingest.md").read_text().splitlines()
    documented = [line for line in lines if line.startswith("| ") and line.count("|") == 4 and "`" in line]
    outcomes = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in documented}
    for case in CASES:
        assert (case.what, f"`{case.status}`", case.reason) in outcomes, case
    for name, meaning in STATUSES.items():
        assert f"| `{name}` | {meaning} |" in lines
