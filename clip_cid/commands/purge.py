"""``clip-cid purge``: images out of a root, for good."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, reported


@reported
def purge(
    root: Annotated[str, typer.Argument(help="A root: a folder, or a URL such as s3://bucket/prefix.")],
    *,
    ids: Annotated[
        list[Path],
        typer.Option(help="A blocklist: ids, URLs, hosts or hashes of what is to go; may be given again."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go, and change nothing.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Take images out of a root for good, with all that was made of them but models.

    Files are rewritten in place, and no later run fetches what is gone. Interrupted, the same command goes on.
    """
    from pipeline.purge import purge as purge_root
    from pipeline.storage.roots import open_root

    del json_, debug
    folder = open_root(root)
    report = purge_root(folder, ids, dry_run=dry_run)
    done = "would go" if dry_run else "gone"
    models = f"; models that may have seen them stay: {', '.join(report.models)}" if report.models else ""
    alike = f"; {report.look_alikes:,} near-duplicates of them stay" if report.look_alikes else ""
    missing = f", {report.unmatched:,} entries fit nothing" if report.unmatched else ""
    receipt = f"; {report.receipt}" if report.receipt else ""
    return {
        **dataclasses.asdict(report),
        "root": root,
        "dry_run": dry_run,
        "summary": f"{root}: {report.images:,} images with {report.pairs:,} pairs {done}, from {report.files:,} files"
        f"{missing}{alike}{models}{receipt}",
    }
