from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.core import schema
from training.job.metrics import MetricsWriter, is_evaluation, read_rows, write_evaluations, write_table


def test_a_damaged_row_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xff\x00\n\n[1]\n{"step": 4}\n{"step": 5')
    assert [row["step"] for row in read_rows(path)] == [1, 4]
    assert f"{path}, line 2: damaged" in caplog.text
    MetricsWriter(path, resume_step=3).close()
    assert path.read_text() == '{"step": 1}\n'


def test_evaluations_have_a_table_of_their_own(tmp_path: Path) -> None:
    steps = [{"step": step, "samples_seen": 4 * step, "loss": 1.0, "contrastive": 1.0} for step in (1, 2)]
    measures = {"step": 2, "zero_shot/demo/top1": 0.25, "held_out/loss": 3.0}
    rows = [*steps, measures]
    assert [is_evaluation(row) for row in rows] == [False, False, True]
    write_evaluations([measures], tmp_path / "evaluations.parquet")
    table = pq.read_table(tmp_path / "evaluations.parquet")
    assert table.schema.equals(schema.TRAINING_EVALUATIONS)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (2, "zero_shot", "demo", "top1", 0.25),
        (2, "held_out", None, "loss", 3.0),
    ]
    write_table(steps, tmp_path / "metrics.parquet")
    assert pq.read_table(tmp_path / "metrics.parquet").column_names == ["step", "samples_seen", "loss", "contrastive"]
