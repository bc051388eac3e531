"""``clip-cid report``: the report of a root, written anew."""

import dataclasses
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, reported


@reported
def report(
    root: Annotated[str, typer.Argument(help="A root: a folder, or a URL such as s3://bucket/prefix.")],
    *,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Write ROOT/report.html anew, from tables alone.

    Settings and versions are those of the last job that has left them with the root.
    """
    from assets.page.report import write_report
    from assets.settings import Settings
    from pipeline.core.errors import MissingInputError
    from pipeline.storage.roots import open_root, storage_of

    del json_, debug
    folder = open_root(root)
    if not storage_of(folder).folders(".marks"):
        raise MissingInputError(f"{root}: no root: no stage has been at work there")
    written = write_report(Settings(root=str(folder)))
    lines = [f"Not complete: {name}. {why}" for name, why in written.open.items()]
    return {**dataclasses.asdict(written), "root": root, "summary": "\n".join([*lines, f"report: {written.place}"])}
