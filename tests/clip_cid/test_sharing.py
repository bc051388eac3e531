"""Exports for others, and the way to the Hub, by the command."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip_cid.app import app
from pipeline.storage.stage import Stage
from tests import hub as hubs
from tests.pipeline.export_dataset.roots import make_root

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    with contextlib.chdir(tmp_path):
        yield tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, prog_name="clip-cid")
    assert "Traceback" not in result.stderr, result.stderr
    return result.exit_code, result.stdout, result.stderr


def in_a_process(*arguments: str, **environment: str) -> tuple[int, str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-m", "clip_cid", *arguments],
        env={**inherited, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_data_set_is_exported_whole_or_not_at_all(here: Path) -> None:
    make_root(here / "root")
    code, out, err = call("export", "dataset", "root", "set", "--images", "--shard-size", "1KB")
    assert code == 0, err
    assert out.startswith("set: 16 images with 48 captions in 2 files, ") and "--license" in out
    assert "# set\n" in (here / "set" / "README.md").read_text()
    assert call("export", "dataset", "root", "set")[2] == "clip-cid: set exists; --overwrite replaces it\n"
    code, out, _ = call("export", "dataset", "root", "set", "--overwrite", "--json", "--license", "mit")
    assert code == 0 and json.loads(out)["files"] == 1
    (here / "adopted.tar").unlink()
    code, _, err = call("export", "dataset", "root", "other", "--images")
    assert code == 1 and "adopted.tar" in err and len(err.splitlines()) == 1
    assert {path.name for path in here.iterdir()} == {"root", "set"}


def test_a_model_is_exported_with_what_its_card_lacks(here: Path) -> None:
    def write(output: object) -> None:
        output.path("student/README.md").write_text("---\ntags: [clip]\n---\n# student\n")  # type: ignore[attr-defined]

    Stage(here / "root", "student", version=1, config={}, inputs={"student": 0}).each(write)
    code, out, err = call("export", "model", "root", "mine")
    assert code == 0, err
    assert out.startswith("mine: student with 0 results of its evaluation; it was not evaluated yet; ")
    code, _, err = call("export", "model", "root", "base", "--model", "baseline")
    assert code == 1 and "stage 'baseline' is not complete" in err and not (here / "base").exists()


def test_a_dry_run_says_all_and_opens_nothing(here: Path) -> None:
    make_root(here / "root")
    call("export", "dataset", "root", "set", "--license", "cc-by-4.0")
    # Any connection would fail, and be retried.
    where = {"HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(here)}
    arguments = ("push", "dataset", "set", "me/set", "--dry-run", "--private", "--revision", "v1")
    code, out, err = in_a_process(*arguments, **where)
    assert (code, err) == (0, "")
    assert "README.md\n" in out and "data/train-00000-of-00001.parquet\n" in out and "license: cc-by-4.0" in out
    assert "would make dataset me/set if it is not there (private), and commit 2 files" in out and "to v1" in out
    code, out, _ = call(*arguments, "--json")
    plan = json.loads(out)
    assert plan["commit"] is None and set(plan["files"]) == {"README.md", "data/train-00000-of-00001.parquet"}
    code, _, err = call("push", "dataset", "root", "me/set", "--dry-run")
    assert code == 2 and "root is a root" in err and len(err.splitlines()) == 1
    code, _, err = in_a_process(*arguments[:4], **where)
    assert code == 2 and err.splitlines() == [
        "clip-cid: no token for the Hub: `hf auth login` keeps one, or set HF_TOKEN"
    ]


def test_what_was_exported_arrives(here: Path) -> None:
    make_root(here / "root")
    call("export", "dataset", "root", "set")
    with hubs.serving() as hub:
        where = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1", "HOME": str(here)}
        code, out, err = in_a_process("push", "dataset", "set", "me/set", **where)
        assert code == 0, err
        assert out.startswith(f"{hub.url}/datasets/me/set/commit/") and "! the card gives no license" in out
        arrived = {name.removeprefix("main:"): content for name, content in hub.files.items()}
        assert arrived == {
            path.relative_to("set").as_posix(): path.read_bytes() for path in Path("set").rglob("*") if path.is_file()
        }
        hub.refuse["preupload"] = (403, "no right to write")
        code, out, err = in_a_process("push", "dataset", "set", "me/set", **where)
        assert (code, out) == (1, "") and err.splitlines()[-1].startswith("clip-cid: me/set: the token may not write")
        assert hub.token not in err
