"""In every process that we start the spinning of OpenMP's threads is limited before a runtime is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.compute.config import ComputeConfig
from pipeline.compute.map import map_shards
from pipeline.core.openmp import limit_spinning
from pipeline.core.processes import start_group
from tests.shard_functions import variable

PROJECT = Path(__file__).resolve().parents[3]
NAMES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
LIMITED = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "1"}

AT_IMPORT = f"""
import os, sys
import {{module}}
assert "torch" not in sys.modules and "faiss" not in sys.modules, "too late to say anything"
{{call}}
print({{{{name: os.environ[name] for name in {NAMES} if name in os.environ}}}})
"""


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has said anything; at the end, what this process was told is back."""
    for name in NAMES:
        # Set first, so that it is put back even if it was not there.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, LIMITED),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "1"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_what_the_user_has_set_stays(said: dict[str, str], expected: dict[str, str]) -> None:
    environment = dict(said)
    limit_spinning(environment)
    assert environment == expected


@pytest.mark.parametrize(
    ("module", "call"),
    [("assets.definitions", ""), ("training.train", "training.train._share_cores()"), ("benchmarks.run", "")],
    ids=["job", "rank", "benchmark"],
)
@pytest.mark.usefixtures("unset")
def test_it_is_said_before_torch_starts(module: str, call: str) -> None:
    command = [sys.executable, "-c", AT_IMPORT.format(module=module, call=call)]
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == str(LIMITED)


@pytest.mark.usefixtures("unset")
def test_process_groups_are_told(tmp_path: Path) -> None:
    script = f"import os; print([os.environ.get(name) for name in {NAMES}])"
    for policy, expected in ((None, ["30000", "1", None]), ("PASSIVE", [None, None, "PASSIVE"])):
        log = tmp_path / f"{policy}.log"
        env = {"OMP_WAIT_POLICY": policy} if policy else None
        assert start_group([sys.executable, "-c", script], log=log, env=env).wait(60) == 0
        assert log.read_text().strip() == str(expected)


@pytest.mark.usefixtures("unset")
def test_worker_processes_are_told() -> None:
    with map_shards(variable, NAMES, ComputeConfig(engine="processes", workers=1)) as results:
        assert sorted(results, key=str) == ["1", "30000", None]
