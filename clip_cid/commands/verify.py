"""``clip-cid verify``: everything under a root, read once."""

import dataclasses
from typing import Annotated, Any

import typer

from clip_cid.console import FAILED, Debug, Json, reported


@reported
def verify(
    root: Annotated[str, typer.Argument(help="A root: a folder, or a URL such as s3://bucket/prefix.")],
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Let the next run make damaged shards anew: remove their completion marks.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Read everything under a root once, and say what is damaged.

    Sizes, digests of tables and models, and checksums in tars are compared with what was written. Ends with 1 if
    something is damaged.
    """
    from pipeline.storage.roots import open_root
    from pipeline.storage.verify import forget_damaged, verify_root

    del json_, debug
    folder = open_root(root)
    verified = verify_root(folder)
    size = f"{verified.files:,} files, {verified.bytes / 1e9:,.2f} GB"
    if verified.unknown:
        size += (
            f"; {len(verified.unknown)} of them can be read, but not be compared: an earlier version rewrote them and "
            f"did not note what they are now, {', '.join(verified.unknown)}"
        )
    if not verified.damage:
        return {**dataclasses.asdict(verified), "root": root, "summary": f"{root}: nothing is damaged ({size})"}
    forgotten = forget_damaged(folder, verified.damage) if repair else 0
    lines = [f"stage {item.stage}, shard {item.shard}: {item.file}: {item.fault}" for item in verified.damage]
    count = len({(item.stage, item.shard) for item in verified.damage})
    done = "the next run makes them anew" if repair else "--repair lets the next run make them anew"
    return {
        **dataclasses.asdict(verified),
        "root": root,
        "forgotten": forgotten,
        "summary": "\n".join([*lines, f"{root}: {count:,} of {verified.shards:,} shards are damaged ({size}); {done}"]),
        "exit_code": FAILED,
    }
