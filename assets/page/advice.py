"""Which threshold, on the page of the balance."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.page.remembered import remembered
from assets.settings import Settings
from pipeline.balance import advice
from pipeline.core.files import file_digest
from pipeline.storage.result import read_result

_STAGES = ("source_pairs", "images", "teacher_embeddings", "near_duplicates")
# Beyond these the pass over the forest takes minutes and gigabytes, which the page is not worth.
_MOST_EDGES = 10_000_000
_OF_WHAT = (
    "By rule `connected_components`, of all images that are embedded: blocklists and filters are not applied. *Largest "
    "merge*: the smaller of two groups that one edge joins; *beyond*: the share of the removed images that lie farther "
    "than the threshold from the one that stands for them."
)


def threshold_advice(config: Settings) -> dict[str, dg.MarkdownMetadataValue]:
    """What several thresholds would do, as a table, and the proposal under it."""
    code = [file_digest(path) for path in sorted(Path(advice.__file__).parent.glob("*.py"))]
    made_from = [code, *(read_result(config.path, stage).digest for stage in _STAGES)]

    edges = read_result(config.path, "near_duplicates").rows
    if edges > _MOST_EDGES:
        text = f"Not made here for {edges:,} edges: `clip-cid advise {config.root}`."
        return {"which threshold": dg.MetadataValue.md(text)}

    def make() -> dict[str, Any]:
        found = advice.advise_root(config.path, pairs=0, query_config=config.query)
        settings = f"\n\n```yaml\n{found.settings}\n```" if found.settings else ""
        return {"text": f"{_table(found)}\n\n{found.reason[0].upper()}{found.reason[1:]}.{settings}\n\n{_OF_WHAT}"}

    return {"which threshold": dg.MetadataValue.md(remembered(config.path, "advice", made_from, make)["text"])}


def _table(found: advice.Advice) -> str:
    heads = ("threshold", "removed", "kept", "largest group", "largest merge", "beyond", "similarity kept", "removed")
    lines = [heads, ("---:",) * len(heads)]
    for row in found.rows:
        about = "about " if row.sampled else ""
        shares = ["" if value is None else f"{about}{value:.1%}" for value in (row.beyond_share,)]
        similarities = [
            "" if value is None else f"{about}{value:.3f}" for value in (row.similarity_kept, row.similarity_removed)
        ]
        mark = "**" if row.threshold == found.proposal else ""
        lines.append(
            (
                f"{mark}{row.threshold:.4g}{mark}",
                f"{row.removed_share:.1%}",
                f"{row.kept:,}",
                f"{row.largest_group:,} ({row.largest_group_share:.1%})",
                f"{row.largest_merge:,}",
                *shares,
                *similarities,
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
