import dagster as dg

from assets.definitions import defs


def test_definitions_load_and_jobs_hold_what_they_say() -> None:
    dg.Definitions.validate_loadable(defs)
    names = {
        job: set(defs.resolve_job_def(job).graph.node_dict) for job in ("clip_cid", "curate", "distill", "ablation")
    }
    assert {"source_pairs", "images", "teacher", "near_duplicates", "balance"} <= names["curate"]
    assert "student" not in names["curate"]
    assert {"training_shards", "student", "baseline", "evaluation"} <= names["distill"]
    assert "images" not in names["distill"]
    assert names["curate"] | names["distill"] <= names["clip_cid"]
    assert {"ablation_results", "balance", "clusters"} <= names["ablation"] and "student" not in names["ablation"]
    assert "ablation_results" not in names["clip_cid"]


def test_no_future_annotations_where_dagster_reads_types() -> None:
    from pathlib import Path

    for path in (Path(__file__).resolve().parents[2] / "assets").glob("*.py"):
        assert "from __future__ import annotations" not in path.read_text(), path
