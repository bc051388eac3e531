"""The how-to for a new stage, followed to the letter in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.conftest import SmallRun, small_settings

PROJECT = Path(__file__).resolve().parents[1]
HOW_TO = (PROJECT / "docs" / "adding-a-stage.md").read_text()
RUN = """\
import json, sys, dagster as dg
from assets.definitions import defs
job = defs.resolve_job_def("clip_cid")
config = {"resources": {"settings": {"config": json.load(open(sys.argv[1]))}}}
only = {"instance": dg.DagsterInstance.ephemeral(), "asset_selection": [dg.AssetKey("caption_words")]}
for computed in (1, 0):
    result = job.execute_in_process(config, **only)
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["shards_computed_now"].value == computed
"""


def blocks() -> list[tuple[str, str, str]]:
    """``(path, language, content)`` of every block; a path that is not named again is the one before."""
    found, path = [], ""
    for named, language, content in re.findall(r"^`([\w./]+)`|^```(\w+)\n(.*?)^```", HOW_TO, re.MULTILINE | re.DOTALL):
        path = named or path
        if language:
            found.append((path, language, content))
    return found


def follow(project: Path) -> set[str]:
    """Do what the how-to says; returns the places: files that were there, and what is new."""
    places = set()
    for path, language, content in blocks():
        target = project / path
        if language == "diff":
            lines = content.splitlines()
            before = "".join(f"{line[1:]}\n" for line in lines if line[0] != "+")
            after = "".join(f"{line[1:]}\n" for line in lines if line[0] != "-")
            text = target.read_text()
            assert text.count(before) == 1, f"{path} has changed: {before}"
            target.write_text(text.replace(before, after))
            places.add(path)
        else:
            assert not target.exists()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
            package = target.parent.relative_to(project).parts[:2]
            places.add("/".join(package) if len(package) > 1 else path)
    return places


def run(project: Path, *command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.slow
def test_four_places_make_a_stage(copied: SmallRun, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("pipeline", "training", "assets"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", project)
    assert follow(project) == {
        "pipeline/caption_words",
        "assets/caption_words.py",
        "assets/settings.py",
        "pyproject.toml",
    }
    scripts = Path(sys.executable).parent
    run(project, str(scripts / "ruff"), "check", "--no-cache", ".")
    run(project, str(scripts / "ruff"), "format", "--no-cache", "--check", ".")
    run(project, str(scripts / "lint-imports"), "--no-cache")
    settings = small_settings(copied.root).model_dump_json()
    (tmp_path / "settings.json").write_text(settings)
    run(project, sys.executable, "-c", RUN, str(tmp_path / "settings.json"))
    connection = duckdb.connect()
    connection.execute((copied.root / "catalog.sql").read_text())
    words = "SELECT bool_and(words = len(string_split_regex(caption, '\\s+'))), count(*) FROM caption_words JOIN "
    same, rows = connection.sql(words + "balanced_pairs USING (sample_id)").fetchall()[0]
    assert same and rows == connection.sql("SELECT count(*) FROM balanced_pairs").fetchall()[0][0] > 0
