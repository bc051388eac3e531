"""Names of lists: files are files, whatever their names look like."""

from pathlib import Path

import pytest

from pipeline.core.errors import SourceError
from tests.pipeline.source.test_source import CAPTIONS, URLS, parquet, rows, run

NAMES = ["a[1]", "a?", "a*", "[", "a::b", "memory::a", "with space", "it's", "a[b]c*?"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_a_name_with_signs_is_one_file(tmp_path: Path, name: str, ending: str) -> None:
    # Others that a pattern of that name would find.
    for other in ("a1", "ax", "aXc", "abc12"):
        parquet(tmp_path / f"{other}.parquet", ["http://wrong/1"], ["wrong"])
        (tmp_path / f"{other}.csv").write_text("URL,TEXT\nhttp://wrong/1,wrong\n")
        (tmp_path / f"{other}.json").write_text('{"URL": "http://wrong/1", "TEXT": "wrong"}')
    path = tmp_path / f"{name}.{ending}"
    if ending == "parquet":
        parquet(path, ["http://right/1"], ["right"])
    else:
        path.write_text(
            "URL,TEXT\nhttp://right/1,right\n" if ending == "csv" else '{"URL":"http://right/1","TEXT":"right"}'
        )
    assert [row["caption"] for row in rows(run(tmp_path / "root", path))] == ["right"]


def test_a_glob_finds_files_with_signs_in_their_names(tmp_path: Path) -> None:
    parquet(tmp_path / "part[0].parquet", URLS[:10], CAPTIONS[:10])
    parquet(tmp_path / "part[1].parquet", URLS[10:], CAPTIONS[10:])
    assert run(tmp_path / "root", tmp_path / "*.parquet").rows == 25


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is a folder; name the files in it, such as .*/\*\.parquet"):
        run(tmp_path / "root", tmp_path)
