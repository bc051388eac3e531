from pathlib import Path

import pytest

from training.job.metrics import MetricsWriter, read_rows


def test_a_damaged_row_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xff\x00\n\n[1]\n{"step": 4}\n{"step": 5')
    assert [row["step"] for row in read_rows(path)] == [1, 4]
    assert f"{path}, line 2: damaged" in caplog.text
    MetricsWriter(path, resume_step=3).close()
    assert path.read_text() == '{"step": 1}\n'
