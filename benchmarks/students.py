"""Students of one corpus, one choice changed at a time: which losses, which rule of the balance, which cluster term.

``python -m benchmarks.students demo`` takes the root of ``make demo``, ``emoji`` that of ``benchmarks.emoji``; it stays
as it is. Every choice has three seeds, on one process, and is measured zero-shot on held-out images: figures to
understand the choices by. ``--part NAME...`` measures some parts and keeps the rows of the others. What is measured
is kept in ``.cache/students``: a run that was ended goes on, and an unchanged choice is not measured again.
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import yaml

from assets.settings import Settings
from benchmarks.run import RESULTS, machine
from pipeline.core.files import fingerprint_of, write_text_atomically
from pipeline.core.query import view
from pipeline.core.settings import overlaid
from pipeline.storage.result import StageResult, read_result

_PROJECT = Path(__file__).resolve().parents[1]
_CACHE = _PROJECT / ".cache" / "students"
_SEEDS = [0, 1, 2]
PARTS = ("losses", "rules", "cluster_term", "small_batches")

_ROWS = """
SELECT axis, dataset, seed, step AS steps,
  round(first(value) FILTER (metric = 'top1'), 5) AS top1, round(first(value) FILTER (metric = 'top5'), 5) AS top5
FROM ablation WHERE task = 'zero_shot' GROUP BY ALL ORDER BY ALL
"""
_EMOJI = yaml.safe_load((_PROJECT / "benchmarks" / "emoji" / "student.yaml").read_text())
# Root, settings, steps of a cell.
CORPORA: dict[str, tuple[Path, dict[str, Any], int]] = {
    "demo": (_PROJECT / "data" / "demo", {}, 200),
    "emoji": (_PROJECT / "data" / "emoji" / "student", _EMOJI["resources"]["settings"]["config"], 200),
}
# What no student reads, or is made anew.
_LEFT_OUT = ("ablation*", "runs", "pictures", "training_shards", "student", "baseline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """``losses``: an entry of the ablation's grid; ``axis``: what is equal beside that of the first of its part;
    ``settings``: by section, over the corpus's own."""

    part: str
    name: str
    data: str = "balanced"
    losses: str = "configured"
    axis: tuple[str, ...] = ("steps",)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def _terms(**terms: dict[str, Any]) -> dict[str, Any]:
    return {"student": {"losses": terms}}


def _losses() -> Iterator[Choice]:
    """The first is what the others are compared with; those that follow are contrastive learning and what is named."""
    yield Choice(part="losses", name="clip_cid")
    yield Choice(part="losses", name="best", losses="best")
    for losses in (
        "relation",
        "gradient",
        "label_8",
        "instance",
        "contrastive",
        "label",
        "cluster",
        "relation_cluster",
    ):
        yield Choice(part="losses", name=losses, losses=losses)
    learnable = _terms(instance={"learnable_temperature": True})
    yield Choice(part="losses", name="clip_cid, instance temperature learnt", settings=learnable)
    yield Choice(part="losses", name="best, relation weighted 10", settings=_terms(relation={"weight": 10.0}))
    both = _terms(relation={"weight": 1.0, "gradient_weight": 1.0})
    yield Choice(part="losses", name="best, with gradient", settings=both)


def _rules() -> Iterator[Choice]:
    axis = ("steps", "epochs")
    yield Choice(part="rules", name="connected_components", axis=axis)
    for rule in ("bounded", "semdedup", "random"):
        yield Choice(part="rules", name=rule, axis=axis, settings={"balance": {"rule": rule}})
    yield Choice(part="rules", name="all", data="all")


def _cluster_term(images: int) -> Iterator[Choice]:
    """Contrastive learning and the cluster term, on all pairs, so that centroids of all images can be told from those
    of the kept. (Temperatures and weights: ``benchmarks/cluster_term.py``.)"""

    def choice(name: str, losses: str = "cluster", **settings: Any) -> Choice:
        return Choice(part="cluster_term", name=name, data="all", losses=losses, settings=settings)

    def cluster(name: str, **changes: Any) -> Choice:
        return choice(name, **_terms(cluster=changes))

    label = {"label_weight": 1.0, "divergence_weight": 0.0}
    yield choice("as configured")
    yield choice("no term", "contrastive")
    for share in (0.01, 0.1, 0.5):
        clusters = round(share * images)
        yield choice(f"{clusters:,} clusters, {share:g} of the images", clusters={"clusters": clusters})
    # A threshold under which there are exact repeats alone.
    yield choice("centroids of all images", balance={"threshold": 1e-6, "target_removal": None})
    yield cluster("temperature learnt", learnable_temperature=True)
    yield cluster("labels, eight positives", **label, positives=8)
    yield cluster("labels, eight positives, temperature learnt", **label, positives=8, learnable_temperature=True)
    yield cluster("captions", towers="text")
    yield cluster("images and captions", towers="both")
    yield choice("instance in its place", "instance")


def _small_batches(steps: int) -> Iterator[Choice]:
    """Where a batch shows few of the concepts, clusters tell what it does not. Half the samples, in four times the
    steps."""
    for losses in ("contrastive", "cluster", "instance", "both"):
        settings = {"student": {"batch_size": 32}, "ablation": {"steps": 4 * steps}}
        yield Choice(part="small_batches", name=losses, data="all", losses=losses, settings=settings)


def choices(images: int, steps: int) -> list[Choice]:
    """All of a corpus of so many images, by part; the first of each part is what the others are compared with."""
    return [*_losses(), *_rules(), *_cluster_term(images), *_small_batches(steps)]


def measure(corpus: str, parts: Sequence[str] = PARTS, *, train: bool = True) -> Iterator[dict[str, Any]]:
    """A row for each choice, axis, evaluation set and seed: top-1 and top-5 in [0, 1].

    Without ``train`` only of choices that were measured before.
    """
    source, base, steps = CORPORA[corpus]
    images = read_result(source, "teacher_embeddings").rows
    for choice in choices(images, steps):
        if choice.part not in parts:
            continue
        folder = _CACHE / corpus
        ablation = {"data": [choice.data], "losses": [choice.losses], "axis": choice.axis, "seeds": _SEEDS}
        own = {"root": str(folder / "root"), "ablation": {"steps": steps, **ablation}, "student": {"ranks": 1}}
        settings = Settings.model_validate(overlaid(overlaid(base, own), choice.settings))
        kept = folder / f"{fingerprint_of(settings.content(), settings.ablation.model_dump())[:16]}.json"
        if not kept.exists():
            if not train:
                continue
            write_text_atomically(kept, json.dumps(_train(source, settings)))
        for row in json.loads(kept.read_text()):
            yield {"part": choice.part, "choice": choice.name, **row}
        print(choice.part, choice.name, flush=True)


def _train(source: Path, settings: Settings) -> list[dict[str, Any]]:
    from pipeline.balance.stage import balance_pairs

    root = settings.path
    if not root.exists():
        part = root.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        part.rename(root)
    balance_pairs(root, settings.balance, settings.query)
    result = train_cells(root, settings)
    with duckdb.connect() as connection:
        view(connection, "ablation", result.parquet("ablation"))
        found = connection.execute(_ROWS)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def train_cells(root: Path, settings: Settings) -> StageResult:
    """Clusters and the ablation of ``settings``, on a root that has all that comes before."""
    from pipeline.clusters.stage import cluster_images
    from pipeline.demo.stage import resolve_datasets
    from training.ablation import run_ablation

    cluster_images(root, settings.clusters)
    return run_ablation(
        root,
        settings.ablation,
        settings.student,
        settings.evaluation,
        shards=settings.shards,
        query=settings.query,
        datasets=resolve_datasets(settings.evaluation.datasets, root, settings.demo),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=CORPORA)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--measured", action="store_true", help="train nothing, write what was measured before")
    given = parser.parse_args()
    file = RESULTS / f"students_{given.corpus}.json"
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = [row for row in before if row["part"] not in given.part] + list(
        measure(given.corpus, given.part, train=not given.measured)
    )
    rows.sort(key=lambda row: PARTS.index(row["part"]))
    content = {"machine": machine(), "command": f"python -m benchmarks.students {given.corpus}", "rows": rows}
    lines = ",\n".join(f"  {json.dumps(row)}" for row in content.pop("rows"))
    head = json.dumps(content, indent=1).removesuffix("\n}")
    file.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
