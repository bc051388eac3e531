"""The settings: a page, a schema, a check of a file."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, reported


@reported
def reference(*, json_: Json = False, debug: Debug = False) -> dict[str, Any]:
    """Every setting with its default and meaning, as Markdown."""
    from assets.tools.config_reference import config_reference

    del json_, debug
    return {"summary": config_reference()}


@reported
def schema(*, debug: Debug = False) -> dict[str, Any]:
    """The JSON Schema of a run config, for editors."""
    from assets.run_config import json_schema

    del debug
    return {"summary": json.dumps(json_schema(), indent=2)}


@reported
def validate(
    file: Annotated[Path, typer.Argument(help="A run config, as profiles/*.yaml are.", exists=True, dir_okay=False)],
    *,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Check a run config as a job would, before it runs."""
    from assets.run_config import read_run_config
    from assets.settings import check_run

    del json_, debug
    settings = read_run_config(file)
    # It may be meant for another machine.
    check_run(settings, here=False)
    return {"file": str(file), "root": settings.root, "summary": f"{file}: valid; the root is {settings.root}"}


COMMANDS = {"reference": reference, "schema": schema, "validate": validate}
