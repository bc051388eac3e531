"""``clip-cid explore``: a root to look at, in a browser."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, Overwrite, reported


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
        typer.Option(help="A run config of which that is a copy, else.", exists=True, dir_okay=False),
    ] = None,
    memory_limit: Annotated[str, typer.Option(help="Memory for DuckDB to stay within, such as 4GB.")] = "1GB",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Look at a root, finished or not, and choose a threshold.

    A page on 127.0.0.1 shows what each threshold would remove, group by group. Nothing of the root is changed.
    """
    from assets.explore.server import Choice, Site, listening, serve
    from pipeline.core.query import QueryConfig
    from pipeline.core.settings import Size, parse_size
    from pipeline.storage.roots import open_root

    del json_, debug
    limits = QueryConfig(memory_limit=Size(parse_size(memory_limit, what="--memory-limit")))
    with listening(port) as listener:
        site = Site(open_root(root), root, Choice(path=save, base=config), limits)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        print(f"{root}: {url} (Ctrl-C ends it)", flush=True)
        try:
            serve(site, listener)
        finally:
            site.close()
    return {"root": root, "url": url, "summary": "stopped"}
