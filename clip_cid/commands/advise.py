"""``clip-cid advise``: which threshold, before a balance."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_cid.console import Debug, Json, Overwrite, new_output, reported, written_whole

if TYPE_CHECKING:
    from pipeline.balance.advice import Advice, BorderPair, ThresholdRow

_CAPTION = 60


@reported
def advise(
    root: Annotated[str, typer.Argument(help="A root: a folder, or a URL; or embeddings, if a FOREST is given.")],
    forest: Annotated[
        Path | None, typer.Argument(help="What `clip-cid forest` has written for embeddings.", exists=True)
    ] = None,
    *,
    threshold: Annotated[
        list[float] | None, typer.Option(help="A distance to look at, in place of the usual ones; may be given again.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Share of the removed images that may lie beyond the threshold from what stays.")
    ] = 0.1,
    pairs: Annotated[int, typer.Option(help="Pairs to name on each side of a threshold.", min=1)] = 4,
    pictures: Annotated[
        Path | None, typer.Option(help="A folder to write: for each threshold a sheet of these pairs.")
    ] = None,
    id_column: Annotated[str, typer.Option(help="The column of the ids, if a FOREST is given.")] = "sample_id",
    memory_limit: Annotated[str, typer.Option(help="Memory for DuckDB to stay within, such as 4GB.")] = "2GB",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Show what thresholds would do, and propose one.

    At each: what is removed, how groups run together, and the pairs just under and over it. No balance is needed, and
    nothing of the root is changed.
    """
    from pipeline.balance.advice import advise_root, advise_threshold
    from pipeline.core.errors import ConfigError
    from pipeline.core.query import QueryConfig
    from pipeline.core.settings import Size, parse_size
    from pipeline.storage.roots import open_root

    del json_, debug
    options: dict[str, Any] = {"thresholds": threshold, "tolerance": tolerance, "pairs": pairs}
    options["query_config"] = QueryConfig(memory_limit=Size(parse_size(memory_limit, what="--memory-limit")))
    if pictures is not None:
        if forest is not None:
            raise ConfigError("--pictures needs a root: embeddings alone have no images")
        new_output(pictures, overwrite=overwrite)
    sheets: list[str] = []
    if forest is not None:
        advice = advise_threshold(Path(root), forest, id_column=id_column, **options)
    else:
        folder = open_root(root)
        advice = advise_root(folder, **options)
        if pictures is not None:
            from assets.page.border_pairs import write_border_sheets

            with written_whole(pictures, overwrite=overwrite) as partial:
                sheets = [str(pictures / name) for name in write_border_sheets(folder, advice.rows, partial)]
    return {**dataclasses.asdict(advice), "root": root, "pictures": sheets, "summary": _summary(advice, sheets)}


def _summary(advice: "Advice", sheets: list[str]) -> str:
    parts = [_table(advice), _borders(advice)]
    if sheets:
        parts.append(f"Sheets of these pairs: {len(sheets)}, {sheets[0]} to {Path(sheets[-1]).name}")
    parts.append(advice.reason[0].upper() + advice.reason[1:] + ".")
    if advice.settings:
        parts.append(advice.settings)
    return "\n\n".join(parts)


def _table(advice: "Advice") -> str:
    heads = ("threshold", "removed", "kept", "largest group", "largest merge", "beyond", "similarity kept, removed")
    lines = [heads, *(_cells(row, proposed=row.threshold == advice.proposal) for row in advice.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)
    notes = [
        f"{advice.images:,} images. Largest merge: images that a single pair joined to a group as large or larger, of "
        "the pairs between the threshold of the line before and this one.",
        "Beyond: of the removed images, those farther than the threshold from the one that stands for them.",
    ]
    if any(row.sampled for row in advice.rows):
        notes.append("~: estimated from a sample of groups.")
    return "\n".join([text, "", *notes])


def _cells(row: "ThresholdRow", *, proposed: bool) -> tuple[str, ...]:
    about = "~" if row.sampled else ""
    beyond = "-" if row.beyond_share is None else f"{about}{row.beyond_share:.1%}"
    similarities = [
        "-" if value is None else f"{about}{value:.3f}" for value in (row.similarity_kept, row.similarity_removed)
    ]
    return (
        f"{'> ' if proposed else ''}{row.threshold:.4g}",
        f"{row.removed_share:.1%}",
        f"{row.kept:,}",
        f"{row.largest_group:,} ({row.largest_group_share:.1%})",
        f"{row.largest_merge:,}",
        beyond,
        ", ".join(similarities),
    )


def _borders(advice: "Advice") -> str:
    lines = ["Just under and just over each threshold: distance, the two images, their captions"]
    for row in advice.rows:
        for side, found in (("under", row.under), ("over", row.over)):
            lines += [f"{row.threshold:>9.4g} {side:<5}  {_pair(pair)}" for pair in found[:1]]
    return "\n".join(lines)


def _pair(pair: "BorderPair") -> str:
    captions = " | ".join(_shown(caption) for caption in (pair.caption_a, pair.caption_b) if caption is not None)
    return f"{pair.distance:.5f}  {pair.image_a:>20}  {pair.image_b:>20}  {captions}".rstrip()


def _shown(caption: str) -> str:
    """In one line, without what a terminal would obey."""
    text = "".join(sign if sign.isprintable() else " " for sign in caption)
    text = " ".join(text.split())
    return text if len(text) <= _CAPTION else f"{text[: _CAPTION - 3]}..."
