"""The last words of a job: what was kept, how the models compare, where all of it lies, and what to do next."""

import shlex

import pyarrow.parquet as pq

from assets.settings import Settings
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of


def balance_summary(balance: StageResult, config: Settings) -> str:
    """For the end of a job that curates."""
    return "\n".join(
        [
            _kept(balance),
            *_places(config),
            "Next: threshold_curve.png shows what another balance.threshold would remove, and groups.png what this one "
            "did. A changed threshold computes from the balance on. The job `distill` trains a student on these pairs.",
        ]
    )


def evaluation_summary(evaluation: StageResult, config: Settings) -> str:
    """For the end of a job that trains."""
    return "\n".join(
        [
            _kept(read_result(config.path, "balance")),
            *_accuracies(evaluation),
            f"Student: {storage_of(config.path).uri('student')}, a folder that open_clip loads",
            *_places(config),
            "Next: evaluation.png compares the models, threshold_curve.png shows what another balance.threshold would "
            "remove. `make ui` shows every stage with its pictures; docs/guide.md says how to run your own data.",
        ]
    )


def _kept(balance: StageResult) -> str:
    stats = balance.stats
    blocked = f", {stats['blocked']:,} on the blocklist" if stats["blocked"] else ""
    return (
        f"Kept {stats['kept']:,} of {stats['samples']:,} images: {stats['removed']:,} removed by rule {stats['rule']} "
        f"at threshold {stats['threshold']:.3g}{blocked}"
    )


def _accuracies(evaluation: StageResult) -> list[str]:
    """A line a data set; none if zero-shot classification was not asked for."""
    lines: dict[str, list[str]] = {}
    for row in pq.read_table(evaluation.parquet("evaluation")[0]).to_pylist():
        if (row["task"], row["metric"]) == ("zero_shot", "top1"):
            lines.setdefault(row["dataset"], []).append(f"{row['model']} {row['value']:.1%}")
    return [f"Zero-shot top-1 on {dataset}: {', '.join(values)}" for dataset, values in lines.items()]


def _places(config: Settings) -> list[str]:
    # Of a remote root too there is a copy of the catalog here.
    catalog = shlex.quote(str((config.path / "catalog.sql").resolve()))
    return [f"Pictures: {storage_of(config.path).uri('pictures')}", f"Tables: duckdb -init {catalog}"]
