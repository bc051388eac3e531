"""The commands of docs/commands.md, replayed."""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from clip_cid.app import app
from tests.conftest import SmallRun, small_settings
from tests.shared import plain_embeddings

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "commands.md").read_text()
LINES = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("clip-cid ")
]
# A root to run on, a student, packages that the tests go without, a server that stays: their own tests run these.
LONG = ("run", "export", "push", "explore")


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, prog_name="clip-cid")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_page_replays(finished: SmallRun, tmp_path: Path) -> None:
    for name in ("embeddings", "test-images"):
        plain_embeddings(finished.root, tmp_path / name)
    shutil.copytree(finished.root, tmp_path / "data" / "demo")
    settings = small_settings(tmp_path / "root").model_dump(mode="json")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"resources": {"settings": {"config": settings}}}))
    replayed = []
    with contextlib.chdir(tmp_path):
        for line in LINES:
            words, _, target = line.partition(" > ")
            arguments = shlex.split(words)[1:]
            if arguments[0] in LONG:
                # Its options are those that there are.
                call(*arguments[: 2 if arguments[0] in ("export", "push") else 1], "--help")
                continue
            # The example's number of clusters is for real data.
            said = call(*("4" if word == "1000" else word for word in arguments))
            if target:
                Path(target).write_text(said)
            replayed.append(arguments[0])
        assert json.loads(Path("clip-cid.json").read_text())["title"] == "clip-cid run config"
    assert replayed == [
        "doctor",
        "forest",
        "balance",
        "leaks",
        "clusters",
        *["config"] * 3,
        *["advise"] * 3,
        "report",
        "verify",
        "verify",
    ]
    for name in ("forest.parquet", "balanced/balance_groups.parquet", "leaks.parquet", "clusters/centroids.parquet"):
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "command",
    [
        "forest",
        "leaks",
        "advise",
        "explore",
        "balance",
        "clusters",
        "import",
        "run",
        "report",
        "verify",
        "doctor",
        "config",
        "export",
        "push",
        "purge",
    ],
)
def test_every_command_is_on_the_page(command: str) -> None:
    assert f"clip-cid {command}" in PAGE
