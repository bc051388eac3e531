"""The stage ``evaluation``: what is measured again, and on which samples, when leaks were looked for."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from pipeline.core.errors import MissingInputError
from pipeline.storage.result import StageResult
from pipeline.storage.stage import Output, Stage
from training.config import EvaluationConfig
from training.evaluation import evaluate_models


def _models(root: Path, folder: Path) -> None:
    for name in ("teacher", "student"):

        def write(output: Output) -> None:
            for path in folder.iterdir():
                shutil.copy(path, output.path(f"{output.shard}/{path.name}"))

        Stage(root, name, version=1, config={}, inputs={name: 1}).each(write)


def _leaks(root: Path, *keys: str) -> None:
    rows = [
        {"dataset": "colors", "split": "test", "key": key, "image_id": id_, "distance": 0.1}
        for key in keys
        for id_ in (5, 6)
    ]

    def write(output: Output) -> None:
        table = pa.Table.from_pylist(rows, schema.EVALUATION_LEAKS)
        pq.write_table(table, output.path("evaluation_leaks/leaks.parquet"))
        output.rows = len(rows)

    Stage(root, "evaluation_leaks", version=1, config=keys, inputs={"leaks": 1}).each(write)


def test_leaks_add_rows_and_change_none(
    clip_folder: Path, make_set: Callable[..., Path], samples: Callable[[int], list], tmp_path: Path
) -> None:
    root, folder = tmp_path / "root", make_set("colors", test=[samples(2)])
    _models(root, clip_folder)

    def measured(*, decontaminated: bool) -> StageResult:
        config = EvaluationConfig(tasks=["zero_shot"], device="cpu")
        return evaluate_models(root, config, datasets=[folder], baseline=False, decontaminated=decontaminated)

    def rows(result: StageResult) -> list[dict]:
        return pq.read_table(result.parquet("evaluation")[0]).to_pylist()

    first = rows(measured(decontaminated=False))
    with pytest.raises(MissingInputError, match="'evaluation_leaks' is not complete"):
        measured(decontaminated=True)
    _leaks(root)
    assert measured(decontaminated=True).computed == 0, "nothing was found"
    _leaks(root, "test/0.tar/00", "test/0.tar/11", "test/0.tar/gone")
    result = measured(decontaminated=True)
    clean = [row for row in rows(result) if row["dataset"] == "colors (clean)"]
    assert result.computed == 1 and [row for row in rows(result) if row not in clean] == first
    assert len(clean) == len(first) == 6 and {row["samples"] for row in clean} == {4}
    assert measured(decontaminated=True).computed == 0
    _leaks(root, "test/0.tar/00")
    assert measured(decontaminated=True).computed == 1
    assert rows(measured(decontaminated=False)) == first
