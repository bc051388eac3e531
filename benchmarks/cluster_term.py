"""The cluster term alone, on top of contrastive learning, with one of its settings changed at a time.

``python -m benchmarks.cluster_term data/demo`` takes a finished demo, which stays as it is, and trains one student for
each setting, 200 steps on all pairs, seed 0. Measured is zero-shot top-1 on the demo's held-out images, so these
are figures to understand the term by, not to choose a setting by.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from assets.settings import Settings
from benchmarks.run import RESULTS, machine

_STEPS = 200
SETTINGS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "temperatures 0.02": {"temperature": 0.02, "teacher_temperature": 0.02},
    "temperatures 0.2": {"temperature": 0.2, "teacher_temperature": 0.2},
    "weight 0.3": {"weight": 0.3},
    "weight 3": {"weight": 3.0},
    "labels instead of divergence": {"label_weight": 1.0, "divergence_weight": 0.0},
    "64 clusters": {"clusters": 64},
    "1024 clusters": {"clusters": 1024},
}


def measure(demo: Path) -> list[dict[str, Any]]:
    return [{"setting": name, "top1": _top1(demo, **changes)} for name, changes in SETTINGS.items()]


def _top1(demo: Path, *, clusters: int | None = None, **cluster: Any) -> float:
    from pipeline.cluster import cluster_images
    from pipeline.demo.stage import resolve_datasets
    from training.ablation.stage import run_ablation, summary

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "demo"
        shutil.copytree(demo, root, ignore=shutil.ignore_patterns("ablation*", "runs", "pictures"))
        settings = Settings.model_validate(
            {
                "root": str(root),
                "clusters": {"clusters": clusters} if clusters else {},
                "student": {"losses": {"cluster": cluster}},
                "ablation": {"data": ["all"], "losses": ["cluster"], "seeds": [0], "steps": _STEPS},
            }
        )
        cluster_images(root, settings.clusters)
        result = run_ablation(
            root,
            settings.ablation,
            settings.student,
            settings.evaluation,
            shards=settings.shards,
            query=settings.query,
            datasets=resolve_datasets(settings.evaluation.datasets, root, settings.demo),
        )
        (row,) = summary(result.parquet("ablation"))
    print(clusters, cluster, row["mean"], flush=True)
    return round(row["mean"], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="root of a finished demo")
    rows = measure(parser.parse_args().demo)
    content = {"machine": machine(), "command": "python -m benchmarks.cluster_term data/demo", "rows": rows}
    (RESULTS / "cluster_term.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
