"""What a rank of a training run, or a bare GPU machine, need not have."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
BARE = (
    "training.engine.deepspeed_engine",
    "training.losses.cluster",
    "training.losses.instance",
    "training.loop.task",
    "training.model.student",
)
SCRIPT = """
import importlib, importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


@pytest.mark.parametrize(
    ("refused", "modules"),
    [
        ("duckdb,dagster,fsspec,faiss,ray,img2dataset,deepspeed,pyarrow", BARE),
        (
            "duckdb,dagster,faiss,ray,img2dataset,deepspeed",
            ("training.train", "training.run", "training.data.dataset", "training.data.weights"),
        ),
    ],
)
def test_ranks_import_no_more_than_they_use(refused: str, modules: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", SCRIPT, refused, *modules]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=120)
