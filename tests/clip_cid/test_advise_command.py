"""``clip-cid advise`` on a small finished root, here and in a store, and on embeddings alone."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from typer.testing import CliRunner

from assets.page.border_pairs import write_border_sheets
from clip_cid.app import app
from pipeline.balance.advice import advise_root
from pipeline.storage.roots import open_root
from tests.conftest import SmallRun
from tests.s3 import Store
from tests.shared import plain_embeddings


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["advise", *map(str, arguments)], prog_name="clip-cid")
    assert result.exit_code == code, result.output
    assert len(result.stderr.splitlines()) == (1 if code else 0), result.stderr
    return result.stderr if code else result.stdout


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if ".tmp" not in path.parts}


def test_a_table_and_a_proposal(finished: SmallRun) -> None:
    before = names(finished.root)
    said = call(finished.root)
    assert names(finished.root) == before
    advice = advise_root(finished.root)
    blocks = said.strip().split("\n\n")
    assert blocks[0].split()[:3] == ["threshold", "removed", "kept"]
    assert len(blocks[0].splitlines()) == len(advice.rows) + 1 >= 9
    assert blocks[1].startswith(f"{advice.images} images. ")
    # A line for each side of each threshold, with the captions of the root.
    (pair,) = [row.under[0] for row in advice.rows if row.threshold == advice.rows[-1].threshold]
    assert f"{pair.image_a}" in blocks[2] and pair.caption_a is not None and pair.caption_a[:40] in blocks[2]
    assert blocks[3] == advice.reason[0].upper() + advice.reason[1:] + "."
    assert blocks[4:] == ([advice.settings] if advice.settings else [])


def test_sheets_of_pairs(finished: SmallRun, tmp_path: Path) -> None:
    arguments = (finished.root, "--threshold", "0.05", "--threshold", "0.2", "--pictures", tmp_path / "pairs")
    said = call(*arguments, "--pairs", 5)
    sheets = sorted((tmp_path / "pairs").iterdir())
    assert [sheet.name for sheet in sheets] == ["01-threshold-0.05.png", "02-threshold-0.2.png"]
    assert f"Sheets of these pairs: 2, {sheets[0]} to {sheets[1].name}" in said
    with Image.open(sheets[0]) as sheet:
        assert sheet.width > 1000 and sheet.height > 500
    assert "exists; --overwrite replaces it" in call(*arguments, code=2)


def test_all_of_it_as_json(finished: SmallRun) -> None:
    said = json.loads(call(finished.root, "--json", "--threshold", "0.02", "--threshold", "0.3", "--tolerance", "0.3"))
    advice = advise_root(finished.root, thresholds=[0.02, 0.3], tolerance=0.3)
    assert [row["threshold"] for row in said["rows"]] == [0.02, 0.3]
    assert said["rows"][1]["under"][0]["image_a"] == advice.rows[1].under[0].image_a
    assert (said["proposal"], said["reason"], said["settings"]) == (advice.proposal, advice.reason, advice.settings)
    assert said["root"] == str(finished.root) and said["pictures"] == []
    similarities = pq.read_table(finished.root / "caption_embeddings")["image_text_similarity"].to_pylist()
    row = said["rows"][0]
    assert min(similarities) < row["similarity_kept"] < max(similarities)


def test_embeddings_and_their_forest(finished: SmallRun, tmp_path: Path) -> None:
    plain_embeddings(finished.root, tmp_path / "embeddings")
    (forest,) = (finished.root / "near_duplicates").glob("*.parquet")
    said = json.loads(call(tmp_path / "embeddings", forest, "--json"))
    advice = advise_root(finished.root)
    assert (said["proposal"], said["reason"]) == (advice.proposal, advice.reason)
    assert [row["beyond_share"] for row in said["rows"]] == [row.beyond_share for row in advice.rows]
    assert said["rows"][0]["similarity_kept"] is None and said["rows"][-1]["under"][0]["caption_a"] is None
    assert "| " not in call(tmp_path / "embeddings", forest)
    assert "--pictures needs a root" in call(tmp_path / "embeddings", forest, "--pictures", tmp_path / "x", code=2)


def test_what_is_missing_or_impossible_is_a_line(finished: SmallRun, tmp_path: Path) -> None:
    assert call(tmp_path, code=1) == (
        f"clip-cid: stage 'source_pairs' is not complete under {tmp_path}; run it first\n"
    )
    assert "beyond the forest's max_distance" in call(finished.root, "--threshold", "1.5", code=2)
    assert "tolerance must lie in (0, 1)" in call(finished.root, "--tolerance", "2", code=2)
    assert "--memory-limit" in call(finished.root, "--memory-limit", "much", code=2)


def test_a_root_in_a_store(finished: SmallRun, s3: Store, tmp_path: Path) -> None:
    stages = "source_pairs|images|teacher_embeddings|near_duplicates"
    for name in names(finished.root):
        if re.match(rf"(\.marks/)?({stages}|caption_embeddings)/.*\.\w+$", name):
            s3.write(name, (finished.root / name).read_bytes())
    root = open_root(s3.url, s3.machine("a"))
    advice = advise_root(root, thresholds=[0.1])
    assert advice == advise_root(finished.root, thresholds=[0.1])
    for folder, where in ((tmp_path / "here", finished.root), (tmp_path / "there", root)):
        folder.mkdir()
        assert write_border_sheets(where, advice.rows, folder) == ["01-threshold-0.1.png"]
    here, there = ((tmp_path / name / "01-threshold-0.1.png").read_bytes() for name in ("here", "there"))
    assert here == there
