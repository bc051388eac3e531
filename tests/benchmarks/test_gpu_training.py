"""The benchmark that is meant for a GPU runs without one."""

import pytest

from benchmarks import gpu_training


@pytest.mark.slow
def test_it_runs_small_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (row,) = gpu_training.measure()
    assert row["device"] == "cpu, tiny models" and row["online_over_cached"] > 0 and row["cluster_term_gb"] is None
