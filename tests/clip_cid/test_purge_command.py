import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clip_cid.app import app
from tests.pipeline.purge import roots


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="clip-cid")
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.slow
def test_uids_and_a_purge_by_command(tmp_path: Path) -> None:
    root, ids = tmp_path / "root", tmp_path / "list.txt"
    roots.build(root)
    ids.write_text("host:nowhere.example\n5\n")
    said = call("export", "uids", root, tmp_path / "kept.npy")
    kept = np.load(tmp_path / "kept.npy")
    assert kept["f1"].tolist() == [1, 3, 5, 6, 7, 8, 9, 10] and "8 uids" in said
    assert "exists; --overwrite replaces it" in call("export", "uids", root, tmp_path / "kept.npy", code=2)
    assert "has to end in .npy" in call("export", "uids", root, tmp_path / "kept", code=2)
    planned = json.loads(call("purge", root, "--ids", ids, "--dry-run", "--json"))
    assert (planned["images"], planned["unmatched"], planned["dry_run"], planned["receipt"]) == (1, 1, True, None)
    assert "1 images with 1 pairs gone" in call("purge", root, "--ids", ids)
    assert "none of the 2 entries" in call("purge", root, "--ids", ids, code=2)
    call("export", "uids", root, tmp_path / "kept.npy", "--overwrite")
    assert np.load(tmp_path / "kept.npy")["f1"].tolist() == [1, 3, 6, 7, 8, 9, 10]
