"""``clip-cid report``: the report of a root, written anew."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, Overwrite, new_output, reported, written_whole


@reported
def report(
    root: Annotated[str, typer.Argument(help="A root: a folder, or a URL such as s3://bucket/prefix.")],
    *,
    pictures: Annotated[
        Path | None, typer.Option(help="A folder to write: its pictures, light and dark, as SVG and PNG.")
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Write ROOT/report.html anew, from tables alone.

    Settings and versions are those of the last job that has left them with the root.
    """
    from assets.page.report import write_pictures, write_report
    from assets.settings import Settings
    from pipeline.core.errors import MissingInputError
    from pipeline.storage.roots import open_root, storage_of

    del json_, debug
    folder = open_root(root)
    if not storage_of(folder).folders(".marks"):
        raise MissingInputError(f"{root}: no root: no stage has been at work there")
    if pictures is not None:
        new_output(pictures, overwrite=overwrite)
    config = Settings(root=str(folder))
    written = write_report(config)
    lines = [f"Not complete: {name}. {why}" for name, why in written.open.items()]
    drawn: list[str] = []
    if pictures is not None:
        with written_whole(pictures, overwrite=overwrite) as partial:
            drawn = [str(pictures / name) for name in write_pictures(config, partial)]
        lines.append(f"pictures: {len(drawn)} files in {pictures}")
    lines.append(f"report: {written.place}")
    return {**dataclasses.asdict(written), "root": root, "pictures": drawn, "summary": "\n".join(lines)}
