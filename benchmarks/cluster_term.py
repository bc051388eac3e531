"""The cluster term on top of contrastive learning, one of its settings changed at a time; and single directions of
instance discrimination in its place, which tell what the cluster term lacks.

``python -m benchmarks.cluster_term data/demo`` takes a finished demo, which stays as it is, and trains one student for
each setting and seed, 200 steps on all pairs. Measured is zero-shot top-1 on the demo's held-out images, so these
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
from benchmarks.students import train_cells
from training.config import DirectionsConfig

_STEPS, _SEEDS = 200, [0, 1, 2]


def _cluster(**changes: Any) -> dict[str, Any]:
    return {"cluster": changes}


def _only(*directions: str) -> dict[str, Any]:
    """Two directions, with the weight of all four."""
    return {"instance": {"directions": {name: 2.0 * (name in directions) for name in DirectionsConfig.model_fields}}}


# The entry of the ablation's grid, settings of the losses, number of clusters.
SETTINGS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "no term against the teacher": ("contrastive", {}, None),
    "cluster, as configured": ("cluster", {}, None),
    "cluster, temperatures 0.02": ("cluster", _cluster(temperature=0.02, teacher_temperature=0.02), None),
    "cluster, temperatures 0.2": ("cluster", _cluster(temperature=0.2, teacher_temperature=0.2), None),
    "cluster, weight 0.3": ("cluster", _cluster(weight=0.3), None),
    "cluster, weight 3": ("cluster", _cluster(weight=3.0), None),
    "cluster, labels instead of divergence": ("cluster", _cluster(label_weight=1.0, divergence_weight=0.0), None),
    "cluster, 64 clusters": ("cluster", {}, 64),
    "cluster, 1024 clusters": ("cluster", {}, 1024),
    "instance, student's images alone": ("instance", _only("image_image", "image_text"), None),
    "instance, student's captions alone": ("instance", _only("text_text", "text_image"), None),
    "instance, all directions": ("instance", {}, None),
}


def measure(demo: Path) -> list[dict[str, Any]]:
    return [{"setting": name, **_top1(demo, *setting)} for name, setting in SETTINGS.items()]


def _top1(demo: Path, entry: str, losses: dict[str, Any], clusters: int | None) -> dict[str, Any]:
    from training.ablation import summary

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "demo"
        shutil.copytree(demo, root, ignore=shutil.ignore_patterns("ablation*", "runs", "pictures"))
        settings = Settings.model_validate(
            {
                "root": str(root),
                "clusters": {"clusters": clusters} if clusters else {},
                "student": {"losses": losses},
                "ablation": {"data": ["all"], "losses": [entry], "seeds": _SEEDS, "steps": _STEPS},
            }
        )
        result = train_cells(root, settings)
        (row,) = summary(result.parquet("ablation"))
    found = {"top1": round(row["mean"], 4), "spread": round(row["spread"], 4), "seeds": row["seeds"]}
    print(entry, losses, clusters, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="root of a finished demo")
    rows = measure(parser.parse_args().demo)
    content = {"machine": machine(), "command": "python -m benchmarks.cluster_term data/demo", "rows": rows}
    (RESULTS / "cluster_term.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
