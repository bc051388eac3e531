"""``clip-cid explore``: a root to look at, in a browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_cid.console import Debug, Json, Overwrite, new_output, reported, written_whole

if TYPE_CHECKING:
    from pipeline.core.query import QueryConfig


@reported
def explore(
    root: Annotated[str, typer.Argument(help="A root: a folder, or a URL such as s3://bucket/prefix.")],
    *,
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0 takes any that is free.", min=0, max=65535)] = 8686,
    save: Annotated[Path, typer.Option(help='The config that "use this threshold" writes.', dir_okay=False)] = Path(
        "threshold.yaml"
    ),
    config: Annotated[
        Path | None,
        typer.Option(help="A run config that this one shall else be a copy of.", exists=True, dir_okay=False),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the pages to this folder, at fixed thresholds, and end.")
    ] = None,
    map_: Annotated[
        Path | None,
        typer.Option("--map", help="Write a map of the images to this Parquet file, for embedding-atlas, and end."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Of the first page of --export and the groups of --map; the balance's by default."),
    ] = None,
    memory_limit: Annotated[str, typer.Option(help="Memory for DuckDB to stay within, such as 4GB.")] = "1GB",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Look at a root, finished or not, and choose a threshold.

    A page on 127.0.0.1 shows what each threshold would remove, group by group. Nothing of the root is changed.
    """
    from pipeline.core.query import QueryConfig
    from pipeline.core.settings import Size, parse_size

    del json_, debug
    limits = QueryConfig(memory_limit=Size(parse_size(memory_limit, what="--memory-limit")))
    if export is not None or map_ is not None:
        return _written(root, export, map_, threshold, limits, overwrite=overwrite)
    return _served(root, port, save, config, limits)


def _served(root: str, port: int, save: Path, config: Path | None, limits: "QueryConfig") -> dict[str, Any]:
    from assets.explore.server import listening, serve
    from assets.explore.site import Choice, Site
    from pipeline.storage.roots import open_root

    with listening(port) as listener:
        site = Site(open_root(root), root, Choice(path=save, base=config), limits)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        print(f"{root}: {url} (Ctrl-C ends it)", flush=True)
        try:
            serve(site, listener)
        finally:
            site.close()
    return {"root": root, "url": url, "summary": "stopped"}


def _written(
    root: str,
    export: Path | None,
    map_: Path | None,
    threshold: float | None,
    limits: "QueryConfig",
    *,
    overwrite: bool,
) -> dict[str, Any]:
    from assets.explore.explorer import Explorer
    from assets.explore.export import write_pages
    from assets.explore.map import write_map
    from pipeline.storage.roots import open_root

    for path in (export, map_):
        if path is not None:
            new_output(path, overwrite=overwrite)
    lines, files, rows = [], 0, 0
    with Explorer(open_root(root), limits) as explorer:
        if export is not None:
            with written_whole(export, overwrite=overwrite) as partial:
                files = write_pages(explorer, root, partial, first=threshold)
            lines.append(f"{export}: {files:,} files, the first is {export / 'index.html'}")
        if map_ is not None:
            rows = write_map(explorer, map_, threshold=threshold)
            lines.append(
                f"{map_}: {rows:,} images; embedding-atlas {map_} --x x --y y --text caption --image thumbnail"
            )
    return {"root": root, "files": files, "rows": rows, "summary": "\n".join(lines)}
